//! The waker that a call's first poll lends to the plugin: the caller's own, borrowed, without an allocation.

use std::task::Waker;

use oxide_plugin_api::ffi::call::{WakerHeader, WakerVTable};

use super::{
    sync::{Arc, OnceLock},
    waiting::{Waiting, calmly},
};

/// The waker of a first poll: borrowed from the caller, and turned into a [`Waiting`] when the plugin
/// clones it.
#[repr(C)]
pub(crate) struct LentWaker<'a> {
    _header: WakerHeader,
    caller: &'a Waker,
    kept: OnceLock<Arc<Waiting>>,
}

impl<'a> LentWaker<'a> {
    /// Lends `caller` for one poll. What a plugin gets is this value's address.
    #[inline]
    pub(crate) fn of(caller: &'a Waker) -> Self {
        Self { _header: WakerHeader { vtable: &LENT }, caller, kept: OnceLock::new() }
    }

    /// The slot that the plugin's clones refer to, if it made any.
    #[inline]
    pub(crate) fn into_kept(self) -> Option<Arc<Waiting>> {
        self.kept.into_inner()
    }

    /// The call has ended in its first poll: a waker that the plugin kept all the same wakes nobody any more,
    /// and does not keep the caller's task.
    #[inline]
    pub(crate) fn has_ended(&self) {
        if let Some(kept) = self.kept.get() {
            kept.clear_waker();
        }
    }
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
    calmly(|| lent.caller.wake_by_ref());
}

/// Never called: a lent waker is borrowed.
unsafe extern "C" fn lent_drop(_: *const WakerHeader) {}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Caller(AtomicUsize);

    impl Wake for Caller {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// The caller's waker is the caller's to drop, whatever a plugin keeps.
    #[test]
    fn a_waker_kept_after_a_call_that_ended_at_once_does_not_keep_the_caller() {
        let task = Arc::new(Caller::default());
        let caller = Waker::from(task.clone());
        let lent = LentWaker::of(&caller);
        // SAFETY: the lent waker lives; what it gives is given back below.
        let kept = unsafe { lent_clone((&raw const lent).cast()) };
        // SAFETY: a kept waker, as the plugin has it.
        let vtable = unsafe { (*kept).vtable };
        // SAFETY: as above.
        unsafe { (vtable.wake_by_ref)(kept) };
        assert_eq!(task.0.load(SeqCst), 1);
        lent.has_ended();
        drop(caller);
        assert_eq!(Arc::strong_count(&task), 1, "the plugin's waker keeps the caller's task");
        // SAFETY: as above; the second gives it back.
        unsafe {
            (vtable.wake_by_ref)(kept);
            (vtable.drop)(kept);
        }
        assert_eq!(task.0.load(SeqCst), 1);
    }
}
