//! Something that any code of the library may borrow until none of it runs any more.

use std::{
    marker::PhantomData,
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Acquire, Release},
    },
};

/// Set once, borrowed at the cost of a load, and let go of at the library's end: a plain static never is.
pub(crate) struct Kept<T: Sync + 'static> {
    /// From `Box::into_raw`.
    value: AtomicPtr<T>,
    _owned: PhantomData<T>,
}

impl<T: Sync + 'static> Kept<T> {
    pub(crate) const fn new() -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), _owned: PhantomData }
    }

    /// What was set; `None` before that and at the library's end.
    pub(crate) fn get(&'static self) -> Option<&'static T> {
        // SAFETY: `set` stored it, and `let_go` frees it when nobody is left that could have borrowed it.
        unsafe { self.value.load(Acquire).as_ref() }
    }

    /// Sets it. A second value would be leaked; nobody sets one.
    pub(crate) fn set(&'static self, value: T) {
        self.value.store(Box::into_raw(Box::new(value)), Release);
    }

    /// Drops it.
    ///
    /// # Safety
    /// No code of this library's but this runs, nor will.
    pub(super) unsafe fn let_go(&'static self) {
        let value = self.value.swap(ptr::null_mut(), AcqRel);
        if !value.is_null() {
            // SAFETY: `set` made the box, the swap says that this is the only time, and as our caller promises
            // nobody borrows it.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}
