//! The plugin's root table: every way in, and the thunks behind it.

use std::marker::PhantomData;

use abi_stable::{
    StableAbi, library::RootModule, prefix_type::WithMetadata, sabi_types::VersionStrings, std_types::RStr,
};
use async_ffi::FfiFuture;

use super::{
    adapter::Adapter,
    bytes::FfiBytes,
    call::{Call, WakerHeader, begin},
    future::{guarded, outcome_of_panic},
    host_table::HostTableRef,
    outcome::{FfiCreated, FfiOutcome, FfiState, status},
};
use crate::{Error, MessageBus, Payload, SavedState, shim::panic::guard};

/// Every way into a plugin. Grows at its end.
///
/// In brackets: which threads and which phase may call it. `object` is what `create` gave.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef, prefix_fields = PluginRootPrefix)))]
#[sabi(missing_field(panic))]
pub struct PluginRoot {
    /// 0 native, 1 wasm: whether `init` is `Module::init` or `WasmModule::instantiate`.
    pub kind: u8,
    /// Takes the host's table; sets up the panic hook, the log bridge and the runtime. `[one thread, first of all, once]`
    pub attach: unsafe extern "C" fn(table: HostTableRef, context: *const ()) -> FfiOutcome,
    /// Undoes `attach`: joins the runtime. `[one thread, after the object is gone, once]`
    pub detach: unsafe extern "C" fn() -> FfiOutcome,
    /// Runs the constructor. `[one thread, after attach]`
    pub create: unsafe extern "C" fn() -> FfiCreated,
    /// Frees the object. `[one thread, after the drain, once]`
    pub destroy: unsafe extern "C" fn(object: *mut ()) -> FfiOutcome,
    /// Answers the metadata as JSON. `[one thread, after create]`
    pub metadata: unsafe extern "C" fn(object: *const ()) -> FfiOutcome,
    /// Takes the configuration as JSON. `[one thread, alone]`
    pub configure: unsafe extern "C" fn(object: *mut (), config: FfiBytes) -> FfiFuture<FfiOutcome>,
    /// Takes the bus, or instantiates. `[one thread, alone]`
    pub init: unsafe extern "C" fn(object: *mut ()) -> FfiFuture<FfiOutcome>,
    /// Takes over a state. `[one thread, alone]`
    pub restore_state:
        unsafe extern "C" fn(object: *mut (), version: u32, bytes: FfiBytes) -> FfiFuture<FfiOutcome>,
    /// Begins the work. `[one thread, alone]`
    pub start: unsafe extern "C" fn(object: *mut ()) -> FfiFuture<FfiOutcome>,
    /// Begins one call and polls it once; gives one of [`status`]. `call` is a [`Call`], `waker` a
    /// [`WakerHeader`]. `[any thread, while running]`
    pub invoke: unsafe extern "C" fn(object: *const (), call: *mut (), waker: *const ()) -> u8,
    /// Takes one message (JSON of an envelope). `[one thread at a time, while running]`
    pub on_message: unsafe extern "C" fn(object: *const (), envelope: FfiBytes) -> FfiFuture<FfiOutcome>,
    /// Gives the state. `[one thread, after the drain, before stop]`
    pub save_state: unsafe extern "C" fn(object: *const ()) -> FfiFuture<FfiState>,
    /// Ends the work. `[one thread, alone, after the drain]`
    #[sabi(last_prefix_field)]
    pub stop: unsafe extern "C" fn(object: *mut ()) -> FfiFuture<FfiOutcome>,
    /// Binds the library's thread services to the host: takes a [`HostShim`](super::shim_table::HostShim) and its context, gives
    /// a [`PluginShim`](super::shim_table::PluginShim). `[the thread that opened it, before attach, once]`
    #[sabi(missing_field(option))]
    pub bind: unsafe extern "C" fn(host: *const (), context: *const ()) -> *const (),
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}
    const BASE_NAME: &'static str = "oxide_plugin";
    const NAME: &'static str = "oxide_plugin";
    /// The plugin ABI's own version, `describe::ABI_VERSION`, apart from the crate's.
    const VERSION_STRINGS: VersionStrings = VersionStrings { version: RStr::from_str("1.0.0") };
}

/// The root table of a plugin whose module is wrapped in the adapter `A`.
pub struct Root<A>(PhantomData<A>);

/// A constructor of `T`, known at compile time.
pub trait Construct<T> {
    /// Makes the module.
    fn construct() -> T;
}

/// An object's address on its way into a future that runs on one thread at a time.
struct Object<A>(*mut A);

// SAFETY: `A: Send + Sync`, and the table's brackets say who may use it when.
unsafe impl<A: Send + Sync> Send for Object<A> {}

impl<A> Object<A> {
    /// # Safety
    /// The object lives as long as the result is used, and nobody has it mutably.
    unsafe fn shared<'a>(&self) -> &'a A {
        // SAFETY: as the caller promises.
        unsafe { &*self.0 }
    }

    /// # Safety
    /// The object lives as long as the result is used, and nobody else has it.
    unsafe fn exclusive<'a>(&self) -> &'a mut A {
        // SAFETY: as the caller promises.
        unsafe { &mut *self.0 }
    }
}

impl<A: Adapter> Root<A> {
    abi_stable::staticref! {
        const TABLE: WithMetadata<PluginRoot> = WithMetadata::new(PluginRoot {
            kind: A::KIND,
            attach,
            detach,
            create: create::<A>,
            destroy: destroy::<A>,
            metadata: metadata::<A>,
            configure: configure::<A>,
            init: init::<A>,
            restore_state: restore_state::<A>,
            start: start::<A>,
            invoke: invoke::<A>,
            on_message: on_message::<A>,
            save_state: save_state::<A>,
            stop: stop::<A>,
            bind,
        })
    }

    /// The table as it crosses. It is a constant of the library: nothing to free.
    pub const TABLE_REF: PluginRootRef = PluginRootRef(Self::TABLE.as_prefix());
}

unsafe extern "C" fn bind(host: *const (), context: *const ()) -> *const () {
    // SAFETY: the host passes its table and the context that belongs to it, valid until the library is gone.
    unsafe { crate::shim::attach(&*host.cast(), context) }.cast()
}

unsafe extern "C" fn attach(table: HostTableRef, context: *const ()) -> FfiOutcome {
    // SAFETY: the host passes its own table with the context that belongs to it, valid until the library
    // is gone.
    let host = unsafe { crate::ffi::host::Host::new(table, context) };
    plain(|| {
        crate::ffi::host::attach(host);
        crate::shim::panic::install_hook();
        crate::log::install();
        crate::runtime::build()
    })
}

unsafe extern "C" fn detach() -> FfiOutcome {
    plain(|| {
        crate::runtime::shut_down();
        Ok(())
    })
}

unsafe extern "C" fn create<A: Adapter>() -> FfiCreated {
    let made = guard(|| {
        let _runtime = crate::runtime::enter();
        Box::new(A::construct())
    });
    match made {
        Ok(object) => {
            FfiCreated { outcome: FfiOutcome::ok(Payload::empty()), object: Box::into_raw(object).cast() }
        }
        Err(message) => FfiCreated { outcome: FfiOutcome::panicked(message), object: std::ptr::null_mut() },
    }
}

unsafe extern "C" fn destroy<A: Adapter>(object: *mut ()) -> FfiOutcome {
    plain(|| {
        let _runtime = crate::runtime::enter();
        // SAFETY: `create` gave it, and the host calls this once, after everything else.
        drop(unsafe { Box::from_raw(object.cast::<A>()) });
        Ok(())
    })
}

unsafe extern "C" fn metadata<A: Adapter>(object: *const ()) -> FfiOutcome {
    let metadata = guard(|| {
        let _runtime = crate::runtime::enter();
        // SAFETY: `create` gave it, and nobody has it mutably (the table's brackets).
        let metadata = unsafe { &*object.cast::<A>() }.metadata();
        Payload::json(&metadata)
    });
    metadata.map_or_else(FfiOutcome::panicked, FfiOutcome::from_result)
}

unsafe extern "C" fn configure<A: Adapter>(object: *mut (), config: FfiBytes) -> FfiFuture<FfiOutcome> {
    let object = Object(object.cast::<A>());
    hook(async move {
        let config = Payload::from_ffi(config).to_json()?;
        // SAFETY: the host runs this hook alone, and drops its future before the object.
        unsafe { object.exclusive() }.configure(config).await
    })
}

unsafe extern "C" fn init<A: Adapter>(object: *mut ()) -> FfiFuture<FfiOutcome> {
    let object = Object(object.cast::<A>());
    hook(async move {
        let host = crate::ffi::host::attached()
            .ok_or_else(|| Error::new("init was called before the host attached itself"))?;
        // SAFETY: the host runs this hook alone, and drops its future before the object.
        unsafe { object.exclusive() }.init(MessageBus::new(host)).await
    })
}

unsafe extern "C" fn restore_state<A: Adapter>(
    object: *mut (),
    version: u32,
    bytes: FfiBytes,
) -> FfiFuture<FfiOutcome> {
    let object = Object(object.cast::<A>());
    hook(async move {
        let state = SavedState { version, bytes: bytes.into_vec() };
        // SAFETY: the host runs this hook alone, and drops its future before the object.
        unsafe { object.exclusive() }.restore_state(state).await
    })
}

unsafe extern "C" fn start<A: Adapter>(object: *mut ()) -> FfiFuture<FfiOutcome> {
    let object = Object(object.cast::<A>());
    // SAFETY: the host runs this hook alone, and drops its future before the object.
    hook(async move { unsafe { object.exclusive() }.start().await })
}

unsafe extern "C" fn stop<A: Adapter>(object: *mut ()) -> FfiFuture<FfiOutcome> {
    let object = Object(object.cast::<A>());
    // SAFETY: the host runs this hook alone, after the drain, and drops its future before the object.
    hook(async move { unsafe { object.exclusive() }.stop().await })
}

unsafe extern "C" fn invoke<A: Adapter>(object: *const (), call: *mut (), waker: *const ()) -> u8 {
    // SAFETY: `create` gave the object; nobody has it mutably while calls are inside, and the host drops
    // the call's future before the object.
    let object = unsafe { &*object.cast::<A>() };
    // SAFETY: the host passes a fresh `Call` that stays where it is, and a waker valid for this poll.
    unsafe {
        begin(call.cast::<Call>(), waker.cast::<WakerHeader>(), move |method, payload| {
            object.invoke(method, payload)
        })
    }
}

unsafe extern "C" fn on_message<A: Adapter>(object: *const (), envelope: FfiBytes) -> FfiFuture<FfiOutcome> {
    let object = Object(object.cast::<A>().cast_mut());
    hook(async move {
        let envelope = Payload::from_ffi(envelope).to_json()?;
        // SAFETY: nobody has it mutably while running, and the future is dropped before the object.
        unsafe { object.shared() }.on_message(envelope).await
    })
}

unsafe extern "C" fn save_state<A: Adapter>(object: *const ()) -> FfiFuture<FfiState> {
    let object = Object(object.cast::<A>().cast_mut());
    guarded(
        async move {
            // SAFETY: nobody has it mutably before stop, and the future is dropped before the object.
            match unsafe { object.shared() }.save_state().await {
                Ok(Some(state)) => FfiState {
                    outcome: FfiOutcome::ok(Payload::from(state.bytes)),
                    present: 1,
                    version: state.version,
                },
                Ok(None) => no_state(FfiOutcome::ok(Payload::empty())),
                Err(error) => no_state(FfiOutcome::failed(&error)),
            }
        },
        |message| no_state(FfiOutcome::panicked(message)),
    )
}

fn no_state(outcome: FfiOutcome) -> FfiState {
    FfiState { outcome, present: 0, version: 0 }
}

/// A hook that answers yes or an error.
fn hook(future: impl Future<Output = crate::Result<()>> + Send + 'static) -> FfiFuture<FfiOutcome> {
    guarded(async move { FfiOutcome::from_result(future.await.map(|()| Payload::empty())) }, outcome_of_panic)
}

/// A guarded entry that answers yes or an error.
fn plain(body: impl FnOnce() -> crate::Result<()>) -> FfiOutcome {
    guard(body).map_or_else(FfiOutcome::panicked, |result| {
        FfiOutcome::from_result(result.map(|()| Payload::empty()))
    })
}

const _: () = assert!(status::PENDING == 0);
