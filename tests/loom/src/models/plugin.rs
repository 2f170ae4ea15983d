//! In the place of a plugin: one method, whose future is ready when somebody has said so, and which keeps the
//! waker of its last poll.

use std::ptr;

use loom::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use oxide_plugin_api::{
    Payload,
    ffi::{
        bytes::FfiBytes,
        call::{Call, WakerHeader},
        outcome::status,
    },
};

use crate::{boundary::call::CallTarget, watched::Watched};

/// A plugin and its object.
pub(super) struct Plugin {
    /// Its code.
    image: Watched,
    ready: AtomicBool,
    kept: Mutex<Option<Kept>>,
    /// How many of its futures there are.
    futures: AtomicUsize,
    /// Whether the first poll clones its waker on another thread, too.
    clones_elsewhere: bool,
}

/// A waker that it keeps.
pub(super) struct Kept(*const WakerHeader);

// SAFETY: the table may be used on any thread.
unsafe impl Send for Kept {}

impl Kept {
    /// # Safety
    /// `waker` is valid.
    unsafe fn of(waker: *const WakerHeader) -> Self {
        // SAFETY: as the caller promises.
        Self(unsafe { ((*waker).vtable.clone)(waker) })
    }

    pub(super) fn wake_by_ref(&self) {
        // SAFETY: it is kept.
        unsafe { ((*self.0).vtable.wake_by_ref)(self.0) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: it was kept until now.
        unsafe { ((*self.0).vtable.drop)(self.0) }
    }
}

/// The future of a call, which only one thread may use at a time.
struct Answer {
    plugin: *const Plugin,
    alone: Watched,
}

impl Plugin {
    pub(super) fn new(clones_elsewhere: bool) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            image: Watched::default(),
            ready: AtomicBool::new(false),
            kept: Mutex::new(None),
            futures: AtomicUsize::new(0),
            clones_elsewhere,
        })
    }

    pub(super) fn target(&self) -> CallTarget {
        CallTarget { object: ptr::from_ref(self).cast(), invoke }
    }

    /// Has calls end from now on. The waker is left for `take_kept`.
    pub(super) fn get_ready(&self) {
        self.ready.store(true, SeqCst);
    }

    pub(super) fn take_kept(&self) -> Option<Kept> {
        self.kept.lock().expect("never poisoned").take()
    }

    /// Unmapped: nobody runs its code any more, and nothing of it is left.
    pub(super) fn goes(&self) {
        self.image.goes();
        assert_eq!(self.futures.load(SeqCst), 0, "a future outlives its plugin");
    }

    /// # Safety
    /// As a plugin's function of a call: the record is the call's, and the waker is lent.
    unsafe fn poll(&self, call: *mut Call, waker: *const WakerHeader) -> u8 {
        self.image.used();
        // SAFETY: `invoke` has set it.
        let answer = unsafe { &*(*call).future.cast::<Answer>() };
        answer.alone.goes();
        // SAFETY: it is lent for this poll.
        let kept = unsafe { Kept::of(waker) };
        let old = self.kept.lock().expect("never poisoned").replace(kept);
        drop(old);
        if !self.ready.load(SeqCst) {
            return status::PENDING;
        }
        // SAFETY: the record is ours; the future is not polled again.
        unsafe {
            (*call).poll = None;
            (*call).drop = None;
            drop_answer(call);
            (*call).reply.write(FfiBytes::empty());
        }
        status::OK
    }
}

unsafe extern "C" fn invoke(object: *const (), call: *mut (), waker: *const ()) -> u8 {
    // SAFETY: the host calls it with the object, while a ticket keeps that.
    let plugin = unsafe { &*object.cast::<Plugin>() };
    plugin.image.used();
    let (call, waker) = (call.cast::<Call>(), waker.cast::<WakerHeader>());
    // SAFETY: the record is lent for this function, and the argument is moved out here only.
    unsafe {
        drop(Payload::from_ffi((*call).payload.read()));
        plugin.futures.fetch_add(1, SeqCst);
        let answer = Box::new(Answer { plugin, alone: Watched::default() });
        (*call).future = Box::into_raw(answer).cast();
        (*call).poll = Some(poll_answer);
        (*call).drop = Some(drop_answer);
    }
    if plugin.clones_elsewhere {
        let lent = Lent(waker);
        let elsewhere = thread::spawn(move || {
            // SAFETY: the poll waits for this thread.
            unsafe { lent.clone_it() }
        });
        // SAFETY: lent for this poll.
        let here = unsafe { Kept::of(waker) };
        let elsewhere = elsewhere.join().expect("it does not panic");
        assert!(ptr::eq(here.0, elsewhere.0), "one call has two slots");
    }
    // SAFETY: the future has just been placed.
    unsafe { plugin.poll(call, waker) }
}

/// A lent waker on another thread, as long as the poll lasts.
struct Lent(*const WakerHeader);

// SAFETY: the table may be used on any thread.
unsafe impl Send for Lent {}

impl Lent {
    /// # Safety
    /// The poll still lasts.
    unsafe fn clone_it(&self) -> Kept {
        // SAFETY: as the caller promises.
        unsafe { Kept::of(self.0) }
    }
}

unsafe extern "C" fn poll_answer(call: *mut Call, waker: *const WakerHeader) -> u8 {
    // SAFETY: the host polls it between `invoke` and its drop.
    unsafe { (*(*(*call).future.cast::<Answer>()).plugin).poll(call, waker) }
}

unsafe extern "C" fn drop_answer(call: *mut Call) {
    // SAFETY: called once for the future that `invoke` has placed.
    let answer = unsafe { Box::from_raw((*call).future.cast::<Answer>()) };
    answer.alone.goes();
    // SAFETY: a ticket keeps the plugin.
    let plugin = unsafe { &*answer.plugin };
    plugin.image.used();
    plugin.futures.fetch_sub(1, SeqCst);
}
