//! A lock that needs neither memory nor std's parking, both of which would come back to the heap.

use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
};

use super::sys;

/// A value that one thread at a time may use, for a few instructions.
pub(super) struct Locked<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` lets one thread at a time to the value. The pointers in such values point to memory that
// belongs to the heap and not to a thread, or (the caches) is unlinked before its thread is gone.
unsafe impl<T> Sync for Locked<T> {}

impl<T> Locked<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// `body` must not panic (the lock would stay held) nor come back to this lock.
    #[inline]
    pub(super) fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        if self.held.swap(true, Acquire) {
            self.wait();
        }
        // SAFETY: this thread holds the lock, and the reference ends before it lets go.
        let result = body(unsafe { &mut *self.value.get() });
        self.held.store(false, Release);
        result
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) {
        let mut tries = 0;
        while self.held.load(Relaxed) || self.held.swap(true, Acquire) {
            sys::wait_a_turn(tries);
            tries = tries.saturating_add(1);
        }
    }
}
