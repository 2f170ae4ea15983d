//! One call into a plugin: the pinned future that owns the record, the slot, the method and the payload.
//!
//! The plugin's future stands inside this one. An answer that is ready at once allocates nothing here.

use std::{
    marker::PhantomPinned,
    mem::MaybeUninit,
    pin::Pin,
    ptr::{self, NonNull},
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use oxide_plugin_api::{
    Payload,
    ffi::{
        call::{Call, WakerHeader, WakerVTable},
        outcome::status,
    },
};

use super::{
    frames,
    module::ForeignModule,
    seat::Inside,
    waiting::{Parked, Record, Waiting, drop_future},
};

/// The slot's size: enough for the futures of most hooks.
const SLOT: usize = 192;

/// How many bytes of a method's name need no allocation.
const INLINE_METHOD: usize = 40;

/// What a call needs to know of the foreign object. Valid while a ticket is held.
#[derive(Clone, Copy)]
pub(crate) struct CallTarget {
    pub(crate) object: *const (),
    pub(crate) invoke: unsafe extern "C" fn(*const (), *mut (), *const ()) -> u8,
}

/// How a call ended, copied into host memory.
pub(crate) enum CallEnd {
    /// The reply.
    Reply(Payload),
    /// Anything else, with its [`status`].
    Failed(u8, oxide_plugin_api::Error),
    /// The unload cancelled it.
    Cancelled,
}

/// A call: empty until it begins, and then in place until it has ended.
///
/// It is made large and empty, so that making and moving it costs nothing that `begin` would have to do
/// again. The ticket is given back when the call has ended, or after the plugin's future has been dropped.
pub(crate) struct ForeignCall<T: Callee> {
    state: State,
    inside: Option<Inside<T>>,
    /// Borrowed from what the ticket keeps; set by `begin`.
    foreign: Option<NonNull<ForeignModule>>,
    waiting: Option<(Arc<Waiting>, u64)>,
    /// The name, when it is too long for `method`.
    long_method: Option<Box<[u8]>>,
    method: MaybeUninit<[u8; INLINE_METHOD]>,
    call: MaybeUninit<Call>,
    slot: MaybeUninit<Slot>,
    _pinned: PhantomPinned,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not begun.
    Empty,
    /// The plugin's future stands; `waiting` is set.
    Waiting,
    /// Nothing of the plugin's is left.
    Ended,
}

#[repr(C, align(16))]
struct Slot([u8; SLOT]);

const _: () = assert!(align_of::<Slot>() == oxide_plugin_api::ffi::call::SLOT_ALIGN);

/// A generation that may have a foreign object.
pub(crate) trait Callee: Send + Sync + 'static {
    /// The foreign object that calls go to; `None` for an in-process module.
    fn foreign(&self) -> Option<&ForeignModule>;
}

// SAFETY: the record and the slot hold a future that the plugin's thunk requires to be `Send`; the pointer
// is to a `Sync` value that the ticket keeps.
unsafe impl<T: Callee> Send for ForeignCall<T> {}

impl<T: Callee> ForeignCall<T> {
    /// A call that has not begun.
    #[inline]
    pub(crate) fn empty() -> Self {
        Self {
            state: State::Empty,
            inside: None,
            foreign: None,
            waiting: None,
            long_method: None,
            method: MaybeUninit::uninit(),
            call: MaybeUninit::uninit(),
            slot: MaybeUninit::uninit(),
            _pinned: PhantomPinned,
        }
    }

    /// Calls the generation that `inside` keeps, and polls the call for the first time. Gives the ticket
    /// and the payload back when that is no foreign generation. To be called once.
    #[inline]
    pub(crate) fn begin(
        self: Pin<&mut Self>,
        inside: Inside<T>,
        method: &str,
        payload: Payload,
        context: &mut Context<'_>,
    ) -> Result<Poll<CallEnd>, (Inside<T>, Payload)> {
        let Some(foreign) = inside.foreign() else { return Err((inside, payload)) };
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        if this.state != State::Empty {
            return Ok(Poll::Ready(CallEnd::Cancelled));
        }
        // The name is owned before the first poll: a caller that forgets its call leaves nothing dangling.
        let name = method.as_bytes();
        let name_at = if name.len() <= INLINE_METHOD {
            let place = this.method.as_mut_ptr().cast::<u8>();
            // SAFETY: it fits, and the place is ours.
            unsafe { ptr::copy_nonoverlapping(name.as_ptr(), place, name.len()) };
            place.cast_const()
        } else {
            this.long_method.insert(name.into()).as_ptr()
        };
        let call = ptr::from_mut(this.call.write(Call {
            size: size_of::<Call>(),
            method: name_at,
            method_len: name.len(),
            payload: MaybeUninit::new(payload.into_ffi()),
            slot: this.slot.as_mut_ptr().cast(),
            slot_len: SLOT,
            future: ptr::null_mut(),
            poll: None,
            drop: None,
            reply: MaybeUninit::uninit(),
            error: MaybeUninit::uninit(),
        }));
        let caller = context.waker();
        let lent = LentWaker { _header: WakerHeader { vtable: &LENT }, caller, kept: OnceLock::new() };
        let target = foreign.target();
        let ended = frames::within(foreign.frame(inside.shard()), || {
            // SAFETY: the ticket keeps the object; the record and the slot are pinned with us, and the
            // lent waker lives through the poll.
            unsafe { (target.invoke)(target.object, call.cast(), (&raw const lent).cast()) }
        });
        if ended != status::PENDING {
            this.state = State::Ended;
            // SAFETY: written above; the plugin has dropped its future and filled the outcome.
            let end = end(ended, unsafe { &mut *call });
            drop(inside);
            return Ok(Poll::Ready(end));
        }
        let waiting = lent.kept.into_inner().unwrap_or_else(|| Waiting::new(caller));
        this.foreign = Some(NonNull::from(foreign));
        this.wait(inside, waiting, call);
        Ok(Poll::Pending)
    }

    /// The first poll was not ready: the call can be cancelled from now on.
    #[cold]
    fn wait(&mut self, inside: Inside<T>, waiting: Arc<Waiting>, call: *mut Call) {
        let Some(foreign) = inside.foreign() else { return };
        let number = foreign.waiting_calls().add(waiting.clone());
        if let Some(record) = NonNull::new(call) {
            *waiting.lock() = Parked::Idle(Record(record));
        }
        self.state = State::Waiting;
        frames::within(foreign.frame(inside.shard()), || {
            // An unload may have begun while the first poll was running.
            waiting.cancel_if_asked();
        });
        self.inside = Some(inside);
        self.waiting = Some((waiting, number));
    }

    /// Polls a call that has begun and was not ready.
    #[cold]
    pub(crate) fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CallEnd> {
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        let (Some(inside), Some(foreign)) = (&this.inside, this.foreign) else {
            return Poll::Ready(CallEnd::Cancelled);
        };
        // SAFETY: the ticket keeps the generation, and with it the object that `begin` borrowed from it.
        let foreign = unsafe { foreign.as_ref() };
        let Some((waiting, _)) = &this.waiting else { return Poll::Ready(CallEnd::Cancelled) };
        let polled = frames::within(foreign.frame(inside.shard()), || {
            waiting.set_waker(context.waker());
            let mut parked = waiting.lock();
            let Parked::Idle(record) = *parked else { return Poll::Ready(CallEnd::Cancelled) };
            // SAFETY: `Idle` says that the record is pinned and holds a future; the lock makes it ours.
            let call = unsafe { &mut *record.0.as_ptr() };
            let Some(poll) = call.poll else { return Poll::Ready(CallEnd::Cancelled) };
            // SAFETY: the plugin set it for the future that stands there, and the ticket keeps the plugin.
            let ended = unsafe { poll(call, Waiting::header(waiting)) };
            if ended == status::PENDING {
                drop(parked);
                waiting.cancel_if_asked();
                return Poll::Pending;
            }
            *parked = Parked::Ended;
            Poll::Ready(end(ended, call))
        });
        if polled.is_ready() {
            this.release();
        }
        polled
    }

    /// Nothing of the plugin's stands any more: gives the ticket back.
    fn release(&mut self) {
        self.state = State::Ended;
        if let (Some((waiting, number)), Some(inside)) = (self.waiting.take(), &self.inside) {
            waiting.clear_waker();
            if let Some(foreign) = inside.foreign() {
                foreign.waiting_calls().remove(number);
            }
        }
        self.inside = None;
    }
}

impl<T: Callee> Drop for ForeignCall<T> {
    #[inline]
    fn drop(&mut self) {
        if self.state == State::Waiting {
            self.abandon();
        }
    }
}

impl<T: Callee> ForeignCall<T> {
    /// Drops the plugin's future, if it still stands, under the ticket.
    #[cold]
    fn abandon(&mut self) {
        if let (Some((waiting, _)), Some(inside)) = (&self.waiting, &self.inside)
            && let Some(foreign) = inside.foreign()
        {
            frames::within(foreign.frame(inside.shard()), || {
                let mut parked = waiting.lock();
                if let Parked::Idle(record) = *parked {
                    *parked = Parked::Ended;
                    // SAFETY: `Idle` says that the record is pinned and holds a future; the lock makes it
                    // ours.
                    unsafe { drop_future(record) };
                }
            });
        }
        self.release();
    }
}

/// Takes the outcome out of the record, copied into host memory.
#[inline]
fn end(ended: u8, call: &mut Call) -> CallEnd {
    if ended == status::OK {
        // SAFETY: the plugin writes the reply before it says ok, and it is read once.
        let reply = unsafe { call.reply.assume_init_read() };
        return CallEnd::Reply(Payload::from_ffi(reply.localized()));
    }
    failed(ended, call)
}

#[cold]
fn failed(ended: u8, call: &mut Call) -> CallEnd {
    // SAFETY: the plugin writes the error before it says anything but pending and ok, and it is read once.
    let outcome = unsafe { call.error.assume_init_read() };
    CallEnd::Failed(ended, outcome.into_error(oxide_plugin_api::ErrorKind::Failed))
}

/// The waker of a first poll: borrowed from the caller, and turned into a [`Waiting`] when the plugin
/// clones it.
#[repr(C)]
struct LentWaker<'a> {
    _header: WakerHeader,
    caller: &'a Waker,
    kept: OnceLock<Arc<Waiting>>,
}

static LENT: WakerVTable =
    WakerVTable { clone: lent_clone, wake: lent_wake, wake_by_ref: lent_wake, drop: lent_drop };

unsafe extern "C" fn lent_clone(header: *const WakerHeader) -> *const WakerHeader {
    // SAFETY: the lent waker is used during its poll only; what is passed is the address of the whole.
    let lent = unsafe { &*header.cast::<LentWaker<'_>>() };
    let kept = lent.kept.get_or_init(|| Waiting::new(lent.caller));
    Arc::into_raw(kept.clone()).cast()
}

unsafe extern "C" fn lent_wake(header: *const WakerHeader) {
    // SAFETY: as in `lent_clone`.
    let lent = unsafe { &*header.cast::<LentWaker<'_>>() };
    // A caller's waker that panics must not unwind into the plugin.
    let woken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lent.caller.wake_by_ref()));
    drop(woken);
}

/// Never called: a lent waker is borrowed.
unsafe extern "C" fn lent_drop(_: *const WakerHeader) {}
