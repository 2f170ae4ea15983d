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
        bytes::FfiBytes,
        call::{Call, WakerHeader, WakerVTable},
        outcome::{FfiOutcome, status},
    },
};

use super::{
    frames,
    module::ForeignModule,
    seat::Inside,
    waiting::{Parked, Record, Waiting, WaitingCalls, drop_future},
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

/// A call, from before its first poll until it has ended.
///
/// `Drop` drops the plugin's future; the slot and the record go after that.
pub(crate) struct ForeignCall {
    call: MaybeUninit<Call>,
    slot: MaybeUninit<Slot>,
    method: Method,
    payload: Option<Payload>,
    state: State,
    waiting: Option<(Arc<Waiting>, u64)>,
    _pinned: PhantomPinned,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// `call` is not written yet.
    Unstarted,
    /// The plugin's future stands; `waiting` is set.
    Waiting,
    /// Nothing of the plugin's is left.
    Ended,
}

#[repr(C, align(16))]
struct Slot([u8; SLOT]);

const _: () = assert!(align_of::<Slot>() == oxide_plugin_api::ffi::call::SLOT_ALIGN);

// SAFETY: the record and the slot hold a future that the plugin's thunk requires to be `Send`.
unsafe impl Send for ForeignCall {}

/// The method's name, owned: a caller that forgets its call leaves nothing dangling.
enum Method {
    Short { bytes: [u8; INLINE_METHOD], len: u8 },
    Long(Box<[u8]>),
}

impl Method {
    #[inline]
    fn new(name: &str) -> Self {
        let name = name.as_bytes();
        if name.len() > INLINE_METHOD {
            return Self::Long(name.into());
        }
        let mut bytes = [0; INLINE_METHOD];
        bytes[..name.len()].copy_from_slice(name);
        Self::Short { bytes, len: name.len() as u8 }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { bytes, len } => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl ForeignCall {
    #[inline]
    pub(crate) fn new(method: &str, payload: Payload) -> Self {
        Self {
            call: MaybeUninit::uninit(),
            slot: MaybeUninit::uninit(),
            method: Method::new(method),
            payload: Some(payload),
            state: State::Unstarted,
            waiting: None,
            _pinned: PhantomPinned,
        }
    }

    /// The method's name.
    pub(crate) fn method(&self) -> &str {
        std::str::from_utf8(self.method.as_bytes()).unwrap_or("")
    }

    /// Polls the call. The caller holds a ticket of the generation whose `target` and `calls` these are,
    /// from the first poll until the call has ended or is dropped.
    ///
    /// # Safety
    /// As said: `target` is valid, and the same in every poll.
    #[inline]
    pub(crate) unsafe fn poll(
        self: Pin<&mut Self>,
        target: CallTarget,
        calls: &WaitingCalls,
        context: &mut Context<'_>,
    ) -> Poll<CallEnd> {
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        match this.state {
            // SAFETY: as our caller promises.
            State::Unstarted => unsafe { this.first_poll(target, calls, context.waker()) },
            // SAFETY: as our caller promises.
            State::Waiting => unsafe { this.next_poll(calls, context.waker()) },
            State::Ended => Poll::Ready(CallEnd::Cancelled),
        }
    }

    #[inline]
    unsafe fn first_poll(
        &mut self,
        target: CallTarget,
        calls: &WaitingCalls,
        caller: &Waker,
    ) -> Poll<CallEnd> {
        let method = self.method.as_bytes();
        let call = self.call.write(Call {
            size: size_of::<Call>(),
            method: method.as_ptr(),
            method_len: method.len(),
            payload: self.payload.take().map_or(FfiBytes::empty(), Payload::into_ffi),
            slot: self.slot.as_mut_ptr().cast(),
            slot_len: SLOT,
            future: ptr::null_mut(),
            poll: None,
            drop: None,
            outcome: FfiOutcome::closed(),
        });
        let call = ptr::from_mut(call);
        let lent = LentWaker { _header: WakerHeader { vtable: &LENT }, caller, kept: OnceLock::new() };
        // SAFETY: the target is valid (our caller's ticket); the record and the slot are pinned with us.
        let ended = unsafe { (target.invoke)(target.object, call.cast(), (&raw const lent).cast()) };
        if ended != status::PENDING {
            self.state = State::Ended;
            // SAFETY: written above; the plugin has dropped its future and filled the outcome.
            return Poll::Ready(end(ended, unsafe { &mut *call }));
        }
        let waiting = lent.kept.into_inner().unwrap_or_else(|| Waiting::new(caller));
        let number = calls.add(waiting.clone());
        if let Some(record) = NonNull::new(call) {
            *waiting.lock() = Parked::Idle(Record(record));
        }
        self.state = State::Waiting;
        let waiting = &self.waiting.insert((waiting, number)).0;
        // An unload may have begun while the first poll was running.
        waiting.cancel_if_asked();
        Poll::Pending
    }

    #[cold]
    unsafe fn next_poll(&mut self, calls: &WaitingCalls, caller: &Waker) -> Poll<CallEnd> {
        let Some((waiting, _)) = &self.waiting else { return Poll::Ready(CallEnd::Cancelled) };
        waiting.set_waker(caller);
        let mut parked = waiting.lock();
        let Parked::Idle(record) = *parked else {
            drop(parked);
            self.end_waiting(calls);
            return Poll::Ready(CallEnd::Cancelled);
        };
        // SAFETY: `Idle` says that the record is pinned and holds a future; the lock makes it ours.
        let call = unsafe { &mut *record.0.as_ptr() };
        let ended = match call.poll {
            // SAFETY: the plugin set it for the future that stands there, and a ticket keeps the plugin.
            Some(poll) => unsafe { poll(call, Waiting::header(waiting)) },
            None => status::CLOSED,
        };
        if ended == status::PENDING {
            drop(parked);
            waiting.cancel_if_asked();
            return Poll::Pending;
        }
        *parked = Parked::Ended;
        let end = end(ended, call);
        drop(parked);
        self.end_waiting(calls);
        Poll::Ready(end)
    }

    /// Nothing of the plugin's stands any more.
    fn end_waiting(&mut self, calls: &WaitingCalls) {
        self.state = State::Ended;
        if let Some((waiting, number)) = self.waiting.take() {
            waiting.clear_waker();
            calls.remove(number);
        }
    }

    /// Drops the plugin's future, if it stands. To be called, under the ticket, before the drop of a call
    /// that was polled and has not ended.
    pub(crate) fn abandon(self: Pin<&mut Self>, calls: &WaitingCalls) {
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        if let Some((waiting, _)) = &this.waiting {
            let mut parked = waiting.lock();
            if let Parked::Idle(record) = *parked {
                *parked = Parked::Ended;
                // SAFETY: `Idle` says that the record is pinned and holds a future; the lock makes it ours.
                unsafe { drop_future(record) };
            }
        }
        this.end_waiting(calls);
    }
}

/// A generation that may have a foreign object.
pub(crate) trait Callee: Send + Sync + 'static {
    /// The foreign object that calls go to; `None` for an in-process module.
    fn foreign(&self) -> Option<&ForeignModule>;
}

/// A call with its ticket: the ticket is given back when the call has ended, or after the plugin's future
/// has been dropped.
pub(crate) struct TicketedCall<T: Callee> {
    inside: Option<Inside<T>>,
    /// Borrowed from what the ticket keeps.
    foreign: NonNull<ForeignModule>,
    call: ForeignCall,
}

// SAFETY: all of it is `Send`; the pointer is to a `Sync` value that the ticket keeps.
unsafe impl<T: Callee> Send for TicketedCall<T> {}

impl<T: Callee> TicketedCall<T> {
    /// A call of the generation that `inside` keeps; gives the ticket back when that is no foreign one.
    #[inline]
    pub(crate) fn new(
        inside: Inside<T>,
        method: &str,
        payload: Payload,
    ) -> Result<Self, (Inside<T>, Payload)> {
        match inside.foreign().map(NonNull::from) {
            Some(foreign) => {
                Ok(Self { inside: Some(inside), foreign, call: ForeignCall::new(method, payload) })
            }
            None => Err((inside, payload)),
        }
    }

    /// The method's name.
    pub(crate) fn method(&self) -> &str {
        self.call.method()
    }
}

impl<T: Callee> Future for TicketedCall<T> {
    type Output = CallEnd;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CallEnd> {
        // SAFETY: the call is not moved, and nothing else is structurally pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let Some(inside) = &this.inside else { return Poll::Ready(CallEnd::Cancelled) };
        // SAFETY: the ticket keeps the generation, and with it the object that `new` borrowed from it.
        let foreign = unsafe { this.foreign.as_ref() };
        // SAFETY: pinned with `self`.
        let call = unsafe { Pin::new_unchecked(&mut this.call) };
        super::log::refresh_level();
        let polled = frames::within(foreign.frame(inside.shard()), || {
            // SAFETY: the ticket is held since before the first poll, and an object's target never changes.
            unsafe { call.poll(foreign.target(), foreign.waiting_calls(), context) }
        });
        if polled.is_ready() {
            this.inside = None;
        }
        polled
    }
}

impl<T: Callee> Drop for TicketedCall<T> {
    #[inline]
    fn drop(&mut self) {
        let Some(inside) = &self.inside else { return };
        if self.call.state == State::Waiting {
            // SAFETY: as in `poll`.
            let foreign = unsafe { self.foreign.as_ref() };
            // SAFETY: it was pinned when it was polled, and is not moved before it is gone.
            let call = unsafe { Pin::new_unchecked(&mut self.call) };
            frames::within(foreign.frame(inside.shard()), || call.abandon(foreign.waiting_calls()));
        }
    }
}

/// Takes the outcome out of the record, copied into host memory.
#[inline]
fn end(ended: u8, call: &mut Call) -> CallEnd {
    let outcome = std::mem::replace(&mut call.outcome, FfiOutcome::closed());
    if ended == status::OK {
        return CallEnd::Reply(Payload::from_ffi(outcome.body.localized()));
    }
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
