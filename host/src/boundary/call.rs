//! One call into a plugin: the pinned future that owns the record, the slot, the method and the payload.
//!
//! The plugin's future stands inside this one. An answer that is ready at once allocates nothing here.

use std::{
    marker::PhantomPinned,
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    ptr::{self, NonNull},
    task::Context,
};

use oxide_plugin_api::{
    Payload,
    ffi::{bytes::FfiBytes, call::Call, outcome::status},
};

use super::{
    frames::{self, Frame},
    lent_waker::LentWaker,
    module::ForeignModule,
    residue::threads,
    seat::Inside,
    sync::Arc,
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

/// What a poll of a call came to.
pub(crate) enum Step {
    /// Not ready.
    Pending,
    /// The reply is there, to be taken.
    Replied,
    /// Anything else, with its [`status`], copied into host memory.
    Failed(u8, Box<oxide_plugin_api::Error>),
    /// The unload cancelled it.
    Cancelled,
}

/// A call: empty until it begins, and then in place until it has ended.
///
/// It is made large and empty, so that making and moving it costs nothing that `begin` would have to do
/// again. The ticket is given back when the call has ended, or after the plugin's future has been dropped.
///
/// In this order, so that what is set when it is made lies together: the compiler would zero the rest with it.
#[repr(C)]
pub(crate) struct ForeignCall {
    state: State,
    /// Set while `state` is `Empty`; then the plugin's.
    payload: MaybeUninit<FfiBytes>,
    waiting: Option<WaitingCall>,
    /// The name, when it is too long for `method`.
    long_method: Option<Box<[u8]>>,
    method: MaybeUninit<[u8; INLINE_METHOD]>,
    call: MaybeUninit<Call>,
    slot: MaybeUninit<Slot>,
    _pinned: PhantomPinned,
}

/// What a call has while it waits.
struct WaitingCall {
    waiting: Arc<Waiting>,
    /// Its number among the generation's calls that wait.
    number: u64,
    /// Kept by the ticket in `waiting`, so valid while that is `Idle`.
    foreign: NonNull<ForeignModule>,
    frame: Frame,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not begun; `payload` is set.
    Empty,
    /// The reply stands in the record, in host memory.
    Replied,
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
unsafe impl Send for ForeignCall {}

impl ForeignCall {
    /// A call that has not begun.
    #[inline]
    pub(crate) fn new(payload: Payload) -> Self {
        Self {
            state: State::Empty,
            payload: MaybeUninit::new(payload.into_ffi()),
            waiting: None,
            long_method: None,
            method: MaybeUninit::uninit(),
            call: MaybeUninit::uninit(),
            slot: MaybeUninit::uninit(),
            _pinned: PhantomPinned,
        }
    }

    /// Whether it has not begun.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.state == State::Empty
    }

    /// Takes the argument back out of a call that has not begun, and ends it.
    pub(crate) fn take_payload(self: Pin<&mut Self>) -> Option<Payload> {
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        if this.state != State::Empty {
            return None;
        }
        this.state = State::Ended;
        // SAFETY: set while `Empty`, which it no longer is.
        Some(Payload::from_ffi(unsafe { this.payload.assume_init_read() }))
    }

    /// Takes the reply, after a poll has said that it is there; copied into host memory.
    #[inline]
    pub(crate) fn take_reply(self: Pin<&mut Self>) -> Payload {
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        if this.state != State::Replied {
            return Payload::empty();
        }
        this.state = State::Ended;
        // SAFETY: the state says that the plugin wrote the reply and that it is in host memory.
        Payload::from_ffi(unsafe { (*this.call.as_mut_ptr()).reply.assume_init_read() })
    }

    /// Calls the generation that `inside` keeps, and polls the call for the first time. Gives the ticket
    /// back when that is no foreign generation. To be called once, while `is_new`.
    #[inline]
    pub(crate) fn begin<T: Callee>(
        self: Pin<&mut Self>,
        inside: Inside<T>,
        method: &str,
        context: &mut Context<'_>,
    ) -> Result<Step, Inside<T>> {
        threads::flush_if_asked();
        let Some(foreign) = inside.foreign() else { return Err(inside) };
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        if this.state != State::Empty {
            return Ok(Step::Cancelled);
        }
        // From here on the argument is the plugin's.
        this.state = State::Ended;
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
            payload: this.payload.as_mut_ptr(),
            slot: this.slot.as_mut_ptr().cast(),
            slot_len: SLOT,
            future: ptr::null_mut(),
            poll: None,
            drop: None,
            reply: MaybeUninit::uninit(),
            error: MaybeUninit::uninit(),
        }));
        let caller = context.waker();
        let lent = LentWaker::of(caller);
        let target = foreign.target();
        super::log::refresh_level();
        let ended = frames::within(foreign.frame(), || {
            // SAFETY: the ticket keeps the object; the record and the slot are pinned with us, and the
            // lent waker lives through the poll.
            unsafe { (target.invoke)(target.object, call.cast(), (&raw const lent).cast()) }
        });
        if ended != status::PENDING {
            lent.has_ended();
            // SAFETY: written above; the plugin has dropped its future and filled in how it ended. Copied
            // while the ticket, which is dropped after it, still keeps the plugin.
            return Ok(unsafe { this.end(ended, call, foreign) });
        }
        let kept = lent.into_kept();
        let waiting = match kept.map_or_else(|| catch_unwind(AssertUnwindSafe(|| Waiting::new(caller))), Ok) {
            Ok(waiting) => waiting,
            Err(payload) => {
                // The caller's waker panicked when it was cloned; the plugin's future must not stay behind.
                if let Some(record) = NonNull::new(call) {
                    // SAFETY: the plugin has just placed its future there; nobody else knows of it.
                    frames::within(foreign.frame(), || unsafe { drop_future(Record(record)) });
                }
                drop(inside);
                resume_unwind(payload);
            }
        };
        this.wait(inside, waiting, call);
        Ok(Step::Pending)
    }

    /// Takes over how a call ended, into host memory.
    ///
    /// # Safety
    /// The plugin has just said `ended`, which is not pending, of this call's record.
    #[inline]
    unsafe fn end(&mut self, ended: u8, call: *mut Call, foreign: &ForeignModule) -> Step {
        if ended == status::OK {
            self.state = State::Replied;
            // SAFETY: the plugin writes the reply before it says ok.
            let reply = unsafe { (*call).reply.assume_init_mut() };
            if !reply.is_ours() {
                localize(reply);
            }
            return Step::Replied;
        }
        self.state = State::Ended;
        foreign.failures().call_ended(ended);
        // SAFETY: as our caller promises.
        unsafe { failed(ended, call) }
    }

    /// The first poll was not ready: the call can be cancelled from now on.
    #[cold]
    fn wait<T: Callee>(&mut self, inside: Inside<T>, waiting: Arc<Waiting>, call: *mut Call) {
        let (Some(foreign), Some(record)) = (inside.foreign(), NonNull::new(call)) else { return };
        let frame = foreign.frame();
        let call = WaitingCall {
            number: foreign.waiting_calls().add(waiting.clone()),
            foreign: NonNull::from(foreign),
            frame,
            waiting: waiting.clone(),
        };
        *waiting.lock() = Parked::Idle { record: Record(record), ticket: Box::new(inside) };
        self.state = State::Waiting;
        self.waiting = Some(call);
        // An unload may have begun while the first poll was running.
        frames::within(frame, || waiting.cancel_if_asked());
    }

    /// Polls a call that has begun and was not ready.
    #[cold]
    pub(crate) fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Step {
        // SAFETY: nothing is moved out of the pinned fields.
        let this = unsafe { self.get_unchecked_mut() };
        let Some(call) = &this.waiting else { return Step::Cancelled };
        let (waiting, frame) = (call.waiting.clone(), call.frame);
        // The caller's own waker may panic here: nothing has been taken out yet.
        waiting.set_waker(context.waker());
        // An unload may have asked while nobody was polling.
        frames::within(frame, || waiting.cancel_if_asked());
        // Only a canceller can have it: it wakes us when the plugin's future has been dropped.
        let Some(mut parked) = waiting.try_lock() else { return Step::Pending };
        let Some(call) = this.waiting.take() else { return Step::Cancelled };
        let polled = match &*parked {
            Parked::Idle { record, .. } => {
                // SAFETY: `Idle` says that the record is pinned, holds a future, and that a ticket keeps the
                // plugin; the lock makes it ours.
                Some(frames::within(call.frame, || unsafe { poll_record(*record, &waiting) }))
            }
            _ => None,
        };
        match polled {
            Some((status::PENDING, _)) => {
                drop(parked);
                frames::within(call.frame, || waiting.cancel_if_asked());
                this.waiting = Some(call);
                Step::Pending
            }
            Some((ended, record)) => {
                let ticket = std::mem::replace(&mut *parked, Parked::Ended);
                drop(parked);
                // SAFETY: the ticket still keeps it.
                let foreign = unsafe { call.foreign.as_ref() };
                // SAFETY: the plugin has just said so, of this call's record; the ticket still keeps it.
                let step = unsafe { this.end(ended, record.0.as_ptr(), foreign) };
                foreign.waiting_calls().remove(call.number);
                waiting.clear_waker();
                drop(ticket);
                step
            }
            None => {
                drop(parked);
                this.state = State::Ended;
                waiting.clear_waker();
                Step::Cancelled
            }
        }
    }
}

/// # Safety
/// The record is pinned and holds a future, nobody else uses it, and a ticket keeps the plugin.
unsafe fn poll_record(record: Record, waiting: &Arc<Waiting>) -> (u8, Record) {
    let call = record.0.as_ptr();
    // SAFETY: as the caller promises.
    let poll = unsafe { (*call).poll };
    // SAFETY: the plugin set it for the future that stands there. Without one, it has said nothing; a call
    // that has ended is not `Idle`.
    (poll.map_or(status::PENDING, |poll| unsafe { poll(call, Waiting::header(waiting)) }), record)
}

impl Drop for ForeignCall {
    #[inline]
    fn drop(&mut self) {
        if self.state != State::Ended {
            self.abandon();
        }
    }
}

impl ForeignCall {
    /// Drops what is still there: an argument, a reply, or the plugin's future, that under the ticket.
    #[cold]
    fn abandon(&mut self) {
        match self.state {
            // SAFETY: set while `Empty`, and not used again.
            State::Empty => unsafe { self.payload.assume_init_drop() },
            // SAFETY: written by the plugin, in host memory, and not used again.
            State::Replied => unsafe { (*self.call.as_mut_ptr()).reply.assume_init_drop() },
            State::Waiting | State::Ended => {}
        }
        let Some(call) = self.waiting.take() else { return };
        let mut parked = call.waiting.lock();
        let was = std::mem::replace(&mut *parked, Parked::Ended);
        if let Parked::Idle { record, .. } = &was {
            // SAFETY: `Idle` says that the record is pinned, holds a future, and that a ticket keeps the
            // plugin; the lock makes it ours.
            frames::within(call.frame, || unsafe { drop_future(*record) });
            // SAFETY: the ticket is still ours.
            unsafe { call.foreign.as_ref() }.waiting_calls().remove(call.number);
        }
        drop(parked);
        call.waiting.clear_waker();
        // The ticket, after all that it keeps.
        drop(was);
    }
}

/// Copies a plugin's buffer into host memory, in place; the plugin's is freed.
#[cold]
fn localize(reply: &mut FfiBytes) {
    let foreign = std::mem::replace(reply, FfiBytes::empty());
    *reply = foreign.localized();
}

/// # Safety
/// The plugin has just said `ended`, which is neither pending nor ok, of this record.
#[cold]
unsafe fn failed(ended: u8, call: *mut Call) -> Step {
    // SAFETY: the plugin writes the error before it says anything but pending and ok, and it is read once.
    let outcome = unsafe { (*call).error.assume_init_read() };
    Step::Failed(ended, Box::new(outcome.into_error(oxide_plugin_api::ErrorKind::Failed)))
}
