//! One `invoke`: the record that host and plugin share while it runs, and the plugin's side of it.
//!
//! The host's pinned call future owns a [`Call`] and a slot. On the first poll the plugin writes its own
//! future into the slot (or boxes it when it does not fit), and every poll polls it where it was made. An
//! answer that is ready at once therefore allocates nothing.

use std::{
    future::Future,
    mem::{ManuallyDrop, MaybeUninit, align_of, offset_of, size_of},
    pin::Pin,
    ptr,
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};

use super::{
    bytes::FfiBytes,
    outcome::{FfiOutcome, status},
};
use crate::{Payload, Result, shim::panic::guard};

/// What host and plugin share during one call. Frozen but for fields added at its end; `size` tells which
/// of them exist. `[one thread at a time]`
#[repr(C)]
pub struct Call {
    /// The size of this record as the host knows it.
    pub size: usize,
    /// The method's name in UTF-8, owned by the host until the call has ended.
    pub method: *const u8,
    /// Its length.
    pub method_len: usize,
    /// Where the argument stands; the plugin moves it out on the first poll, and only then.
    pub payload: *mut FfiBytes,
    /// Where the plugin may write its future: aligned to [`SLOT_ALIGN`].
    pub slot: *mut u8,
    /// The slot's size.
    pub slot_len: usize,
    /// Where the plugin's future stands: in the slot, or boxed.
    pub future: *mut (),
    /// Polls the future. Set while there is one.
    pub poll: Option<PollCall>,
    /// Drops the future. Set while there is one. Never unwinds.
    pub drop: Option<DropCall>,
    /// The reply: written when a poll returns [`status::OK`], and only then.
    pub reply: MaybeUninit<FfiBytes>,
    /// The error: written when a poll returns neither pending nor ok, and only then.
    pub error: MaybeUninit<FfiOutcome>,
}

/// Polls a call's future; gives one of [`status`].
pub type PollCall = unsafe extern "C" fn(call: *mut Call, waker: *const WakerHeader) -> u8;
/// Drops a call's future.
pub type DropCall = unsafe extern "C" fn(call: *mut Call);

/// The alignment that a call's slot has at least.
pub const SLOT_ALIGN: usize = 16;

const _: () = assert!(offset_of!(Call, method) == 8);
const _: () = assert!(offset_of!(Call, payload) == 24);
const _: () = assert!(offset_of!(Call, slot) == 32);
const _: () = assert!(offset_of!(Call, future) == 48);
const _: () = assert!(offset_of!(Call, poll) == 56);
const _: () = assert!(offset_of!(Call, drop) == 64);
const _: () = assert!(offset_of!(Call, reply) == 72);
const _: () = assert!(offset_of!(Call, error) == 104);
const _: () = assert!(size_of::<Call>() == 176);

/// The head of a waker that the host lends for a call. What follows it is the host's own. Frozen.
#[repr(C)]
pub struct WakerHeader {
    /// The host's functions for it.
    pub vtable: &'static WakerVTable,
}

/// What can be done with a lent waker. Frozen. `[any thread, any time; never unwinds]`
#[repr(C)]
pub struct WakerVTable {
    /// Gives a waker to keep. The lent one is only borrowed for the poll.
    pub clone: unsafe extern "C" fn(*const WakerHeader) -> *const WakerHeader,
    /// Wakes and gives back a kept one.
    pub wake: unsafe extern "C" fn(*const WakerHeader),
    /// Wakes.
    pub wake_by_ref: unsafe extern "C" fn(*const WakerHeader),
    /// Gives back a kept one.
    pub drop: unsafe extern "C" fn(*const WakerHeader),
}

static PLUGIN_WAKER: RawWakerVTable = RawWakerVTable::new(
    |data| {
        let header = data.cast::<WakerHeader>();
        // SAFETY: a waker's data is a `WakerHeader` of the host's that is valid until it is dropped.
        let kept = unsafe { ((*header).vtable.clone)(header) };
        RawWaker::new(kept.cast(), &PLUGIN_WAKER)
    },
    // SAFETY: as above.
    |data| unsafe { ((*data.cast::<WakerHeader>()).vtable.wake)(data.cast()) },
    // SAFETY: as above.
    |data| unsafe { ((*data.cast::<WakerHeader>()).vtable.wake_by_ref)(data.cast()) },
    // SAFETY: as above.
    |data| unsafe { ((*data.cast::<WakerHeader>()).vtable.drop)(data.cast()) },
);

/// Makes the future of one call, puts it where it will stay, and polls it for the first time.
///
/// # Safety
/// `call` is a fresh record whose `slot` holds `slot_len` bytes at `SLOT_ALIGN`, and both stay where they
/// are until the future is dropped. What `make` borrows lives as long.
pub(crate) unsafe fn begin<F>(
    call: *mut Call,
    waker: *const WakerHeader,
    make: impl FnOnce(&'static str, Payload) -> F,
) -> u8
where
    F: Future<Output = Result<Payload>> + Send,
{
    // SAFETY: the host lends the record exclusively for the length of this function.
    let record = unsafe { &mut *call };
    // One guard for both steps: entering it reads a thread-local of the plugin's, which is a call.
    let polled = guard(|| {
        let _runtime = crate::runtime::enter();
        // SAFETY: the host passes UTF-8 that outlives the call's future (invariant 2).
        let method =
            unsafe { str::from_utf8_unchecked(std::slice::from_raw_parts(record.method, record.method_len)) };
        // SAFETY: a fresh record points to the argument, and it is moved out only here.
        let payload = Payload::from_ffi(unsafe { record.payload.read() });
        let future = make(method, payload);
        let fits = size_of::<F>() <= record.slot_len && align_of::<F>() <= SLOT_ALIGN;
        if fits {
            let place = record.slot.cast::<F>();
            // SAFETY: it fits, and the slot is free: this is the call's first poll.
            unsafe { place.write(future) };
            record.future = place.cast();
            record.drop = Some(drop_placed::<F>);
        } else {
            record.future = Box::into_raw(Box::new(future)).cast();
            record.drop = Some(drop_boxed::<F>);
        }
        record.poll = Some(poll::<F>);
        // SAFETY: the future has just been placed.
        unsafe { poll_future::<F>(record, waker) }
    });
    finish(record, polled)
}

unsafe extern "C" fn poll<F>(call: *mut Call, waker: *const WakerHeader) -> u8
where
    F: Future<Output = Result<Payload>> + Send,
{
    // SAFETY: the host lends the record exclusively for the length of this function.
    let record = unsafe { &mut *call };
    let polled = guard(|| {
        let _runtime = crate::runtime::enter();
        // SAFETY: `begin` placed an `F`, which is there until a poll is ready.
        unsafe { poll_future::<F>(record, waker) }
    });
    finish(record, polled)
}

/// Polls the placed future. When it is ready, drops it and writes what it said into the record.
///
/// # Safety
/// An `F` stands where `record.future` points, and `waker` is valid.
#[inline]
unsafe fn poll_future<F>(record: &mut Call, waker: *const WakerHeader) -> u8
where
    F: Future<Output = Result<Payload>> + Send,
{
    // The lent waker is borrowed: a clone is the host's own, and this one is never dropped.
    // SAFETY: `waker` is valid during the poll, and the vtable forwards to the host's.
    let waker = ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(waker.cast(), &PLUGIN_WAKER)) });
    let mut context = Context::from_waker(&waker);
    // SAFETY: an `F` stands there, and stays there until it is dropped.
    let future = unsafe { Pin::new_unchecked(&mut *record.future.cast::<F>()) };
    let status = match future.poll(&mut context) {
        Poll::Pending => return status::PENDING,
        Poll::Ready(Ok(reply)) => {
            record.reply.write(reply.into_ffi());
            status::OK
        }
        Poll::Ready(Err(error)) => record.error.write(FfiOutcome::failed(&error)).status,
    };
    // The usual case, without the detour of a call: done, in its slot, and never to be polled again.
    record.poll = None;
    let drop = record.drop.take();
    if record.future == record.slot.cast() {
        // SAFETY: `begin` placed an `F` there, and its drop function has just been taken away.
        unsafe { ptr::drop_in_place(record.future.cast::<F>()) };
    } else if let Some(drop) = drop {
        // SAFETY: set by `begin` for the boxed future.
        unsafe { drop(record) };
    }
    status
}

/// What a poll under the guard comes to.
#[inline]
fn finish(record: &mut Call, polled: std::result::Result<u8, String>) -> u8 {
    polled.unwrap_or_else(|message| {
        // A future that panicked still holds what it owns.
        // SAFETY: it is not polled again. Already dropped, this does nothing.
        let _ = guard(|| unsafe { drop_future(record) });
        record.error.write(FfiOutcome::panicked(message)).status
    })
}

/// Drops the future, unless that has been done.
unsafe fn drop_future(record: &mut Call) {
    record.poll = None;
    if let Some(drop) = record.drop.take() {
        // SAFETY: set by `begin` for the future that stands there.
        unsafe { drop(record) };
    }
}

unsafe extern "C" fn drop_placed<F>(call: *mut Call) {
    // SAFETY: the host, or `drop_future`, calls this once for the `F` that stands in the slot.
    let future = unsafe { (*call).future }.cast::<F>();
    // Apart: entering panics on a thread that is ending, and the future must be dropped all the same.
    let _runtime = guard(crate::runtime::enter).ok();
    // SAFETY: as above.
    report_drop(guard(|| unsafe { ptr::drop_in_place(future) }));
}

unsafe extern "C" fn drop_boxed<F>(call: *mut Call) {
    // SAFETY: the host, or `drop_future`, calls this once for the boxed `F`.
    let future = unsafe { (*call).future }.cast::<F>();
    let _runtime = guard(crate::runtime::enter).ok();
    // SAFETY: as above.
    report_drop(guard(|| drop(unsafe { Box::from_raw(future) })));
}

/// A panic in a destructor has no caller to go to: it goes to the log.
pub(super) fn report_drop(dropped: std::result::Result<(), String>) {
    if let Err(message) = dropped {
        crate::log::report_panic("the drop of a future", &message);
    }
}
