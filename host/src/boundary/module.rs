//! The host's safe view of a foreign module: its object, the library it lives in, what it was lent.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use async_ffi::FfiFuture;
use oxide_plugin_api::{
    Envelope, ModuleMetadata, Payload, SavedState,
    ffi::{outcome::FfiOutcome, root::PluginRootRef},
};
use parking_lot::Mutex;

use super::{
    call::CallTarget,
    failures::Failures,
    frames::Frame,
    hooks::{ForeignHook, HookEnd, Saved, end_of, saved_of},
    lend::{BoxFuture, Lending, Phase},
    lend_table::{HOST_TABLE, context},
    library::{CheckedLibrary, Closed},
    residue::{Residue, threads},
    waiting::WaitingCalls,
};

/// A module's object in its library.
///
/// Nothing here is freed by being dropped: `destroy`, then `detach`, then `close`, and what is never closed
/// stays mapped, with everything it was lent.
pub(crate) struct ForeignModule {
    object: *mut (),
    root: PluginRootRef,
    target: CallTarget,
    frame: Frame,
    waiting: WaitingCalls,
    failures: Arc<Failures>,
    lending: Arc<Lending>,
    destroyed: AtomicBool,
    residue: Arc<Residue>,
    /// Where its image begins.
    base: Option<usize>,
    library: Mutex<Option<CheckedLibrary>>,
}

// SAFETY: the object is `Send + Sync` (the macro's bounds); who may use it when is the table's brackets,
// which the rooms above keep to.
unsafe impl Send for ForeignModule {}
// SAFETY: as above.
unsafe impl Sync for ForeignModule {}

/// A module that could not be made, with why. It has no object; its library is still to be ended.
pub(crate) struct NotMade {
    pub(crate) module: ForeignModule,
    pub(crate) why: HookEnd<()>,
}

/// An object's address on its way to a life thread.
struct Object(*mut ());

// SAFETY: as for `ForeignModule`.
unsafe impl Send for Object {}

impl Object {
    fn get(&self) -> *mut () {
        self.0
    }
}

impl ForeignModule {
    /// Lends the host's table and runs the module's constructor. Blocks as long as they do.
    pub(crate) fn create(library: CheckedLibrary, lending: Arc<Lending>) -> Result<Self, Box<NotMade>> {
        let root = library.root();
        let Some(ticket) = lending.ticket() else {
            let error = oxide_plugin_api::Error::new("the generation is closed");
            let module = Self::around(library, lending, ptr::null_mut());
            return Err(Box::new(NotMade { module, why: HookEnd::Failed(error) }));
        };
        // SAFETY: the layout was checked; the table and the context live as long as the library: nobody
        // drops this `Arc` before the close.
        let attached = lending.within(|| unsafe { (root.attach())(HOST_TABLE, context(&lending)) });
        let (end, object) = match end_of(attached) {
            HookEnd::Ok(_) => {
                // SAFETY: attached before, and called once.
                let created = lending.within(|| unsafe { (root.create())() });
                // Copied and freed while the ticket still keeps the plugin.
                (end_of(created.outcome), created.object)
            }
            end => (end, ptr::null_mut()),
        };
        drop(ticket);
        let why = match end {
            HookEnd::Ok(_) => return Ok(Self::around(library, lending, object)),
            HookEnd::Failed(error) => HookEnd::Failed(error),
            HookEnd::Panicked(message) => HookEnd::Panicked(message),
        };
        Err(Box::new(NotMade { module: Self::around(library, lending, ptr::null_mut()), why }))
    }

    /// A library that nobody wants any more, to be ended as others are: nothing but its constructors has run.
    pub(crate) fn never_made(library: CheckedLibrary, lending: Arc<Lending>) -> Self {
        Self::around(library, lending, ptr::null_mut())
    }

    /// A null `object` is one that was never made.
    fn around(library: CheckedLibrary, lending: Arc<Lending>, object: *mut ()) -> Self {
        let root = library.root();
        Self {
            object,
            root,
            target: CallTarget { object, invoke: root.invoke() },
            frame: Frame { module: lending.module_number, generation: lending.generation, is_call: true },
            waiting: WaitingCalls::default(),
            failures: Arc::default(),
            lending,
            destroyed: AtomicBool::new(object.is_null()),
            residue: library.residue().clone(),
            base: library.base(),
            library: Mutex::new(Some(library)),
        }
    }

    /// What it has in the process besides its image.
    pub(crate) fn residue(&self) -> &Arc<Residue> {
        &self.residue
    }

    /// The signal handlers that lead, or may lead, into it.
    pub(crate) fn signal_handlers(&self) -> Vec<String> {
        self.base.map(|base| self.residue.handlers(base)).unwrap_or_default()
    }

    /// What it was lent.
    pub(crate) fn lending(&self) -> &Arc<Lending> {
        &self.lending
    }

    /// What a call needs. Valid while a ticket of the generation's calls gate is held.
    #[inline]
    pub(crate) fn target(&self) -> CallTarget {
        self.target
    }

    /// What went wrong in it so far.
    pub(crate) fn failures(&self) -> &Arc<Failures> {
        &self.failures
    }

    /// Its calls that wait.
    pub(crate) fn waiting_calls(&self) -> &WaitingCalls {
        &self.waiting
    }

    /// The frame of a call.
    #[inline]
    pub(crate) fn frame(&self) -> Frame {
        self.frame
    }

    /// Asks the module what it is. Blocks as long as it does.
    pub(crate) fn metadata(&self) -> HookEnd<ModuleMetadata> {
        let Some(_ticket) = self.lending.ticket() else { return closed() };
        // SAFETY: the object lives until `destroy`, which takes the last ticket.
        let outcome = self.lending.within(|| unsafe { (self.root.metadata())(self.object) });
        match end_of(outcome) {
            HookEnd::Ok(json) => match json.to_json() {
                Ok(metadata) => HookEnd::Ok(metadata),
                Err(error) => HookEnd::Failed(error.context("the metadata cannot be read")),
            },
            HookEnd::Failed(error) => HookEnd::Failed(error),
            HookEnd::Panicked(message) => HookEnd::Panicked(message),
        }
    }

    /// `configure`. Alone.
    pub(crate) fn configure(&self, config: Payload) -> BoxFuture<HookEnd<Payload>> {
        let configure = self.root.configure();
        // SAFETY: alone with the object (our caller's lease), which lives until `destroy`.
        self.hook(move |object| unsafe { configure(object, config.into_ffi()) })
    }

    /// `init` or `instantiate`. Alone.
    pub(crate) fn init(&self) -> BoxFuture<HookEnd<Payload>> {
        let init = self.root.init();
        // SAFETY: as for `configure`.
        self.hook(move |object| unsafe { init(object) })
    }

    /// `start`. Alone.
    pub(crate) fn start(&self) -> BoxFuture<HookEnd<Payload>> {
        self.lending.set_phase(Phase::Run);
        let start = self.root.start();
        // SAFETY: as for `configure`.
        self.hook(move |object| unsafe { start(object) })
    }

    /// `stop`. Alone, after the drain.
    pub(crate) fn stop(&self) -> BoxFuture<HookEnd<Payload>> {
        let stop = self.root.stop();
        // SAFETY: as for `configure`.
        self.hook(move |object| unsafe { stop(object) })
    }

    /// `restore_state`. Alone, between `init` and `start`.
    pub(crate) fn restore_state(&self, state: SavedState) -> BoxFuture<HookEnd<Payload>> {
        let restore_state = self.root.restore_state();
        let bytes = Payload::from(state.bytes);
        // SAFETY: as for `configure`.
        self.hook(move |object| unsafe { restore_state(object, state.version, bytes.into_ffi()) })
    }

    /// `save_state`. While nobody has the object mutably. A state of more than `limit` bytes is not taken.
    pub(crate) fn save_state(&self, limit: usize) -> BoxFuture<HookEnd<Saved>> {
        let Some(ticket) = self.lending.ticket() else { return Box::pin(async { closed() }) };
        let (object, save_state) = (Object(self.object), self.root.save_state());
        // SAFETY: our caller holds a ticket of the calls gate, or the lease: so nobody has the object mutably, and
        // it lives until `destroy`.
        let make = move || unsafe { save_state(object.get()) };
        Box::pin(ForeignHook::new(ticket, move |state| saved_of(state, limit), make))
    }

    /// `on_message`. While running, one at a time.
    pub(crate) fn on_message(&self, envelope: &Envelope) -> BoxFuture<HookEnd<Payload>> {
        let envelope = Payload::json(envelope).unwrap_or_default();
        let on_message = self.root.on_message();
        // SAFETY: the module is running, so nobody has the object mutably; it lives until `destroy`.
        self.hook(move |object| unsafe { on_message(object, envelope.into_ffi()) })
    }

    fn hook(
        &self,
        make: impl FnOnce(*mut ()) -> FfiFuture<FfiOutcome> + Send + 'static,
    ) -> BoxFuture<HookEnd<Payload>> {
        let Some(ticket) = self.lending.ticket() else { return Box::pin(async { closed() }) };
        let object = Object(self.object);
        Box::pin(ForeignHook::new(ticket, end_of, move || make(object.get())))
    }

    /// Drops the object. Blocks as long as its destructor does. To be called once, after the drain, with no
    /// hook running and no task left.
    pub(crate) fn destroy(&self) -> HookEnd<Payload> {
        if self.destroyed.swap(true, SeqCst) {
            return HookEnd::Ok(Payload::empty());
        }
        let Some(_ticket) = self.lending.ticket() else { return closed() };
        // SAFETY: `create` gave the object; the swap says this is the only time; nobody is inside.
        end_of(self.lending.within(|| unsafe { (self.root.destroy())(self.object) }))
    }

    /// Joins the plugin's own runtime, if it has one. Blocks as long as that takes. After `destroy`.
    pub(crate) fn detach(&self) -> HookEnd<Payload> {
        let Some(_ticket) = self.lending.ticket() else { return closed() };
        // SAFETY: the object is gone; called once, by the undertaker.
        end_of(self.lending.within(|| unsafe { (self.root.detach())() }))
    }

    /// Closes the library and looks, unless something in the process still owes it a visit. Nothing else of it
    /// may be in use: the undertaker says so. For the loader. `None` when it is not to be closed, or
    /// has been.
    pub(crate) fn close(&self) -> Option<Closed> {
        // A destructor may have started one since it was looked: it might be using what `finish` lets go of.
        if self.residue.threads() > 0 {
            return None;
        }
        if let Some(library) = &*self.library.lock() {
            library.finish();
        }
        // What this thread owes from that, and from the library's constructors.
        self.residue.ask();
        threads::flush_if_asked();
        if !threads::ends_are_seen() || self.residue.locals() + self.residue.threads() > 0 {
            return None;
        }
        self.residue.no_longer_asks();
        self.library.lock().take().map(CheckedLibrary::close)
    }
}

fn closed<T>() -> HookEnd<T> {
    HookEnd::Failed(oxide_plugin_api::Error::new("the generation is closed"))
}
