//! What must not go while somebody uses it.

use loom::cell::UnsafeCell;

/// Stands for memory or code. loom ends the model when it goes without having been left by all who used it.
#[derive(Debug, Default)]
pub(crate) struct Watched(UnsafeCell<u32>);

// SAFETY: loom checks what this says.
unsafe impl Sync for Watched {}

impl Watched {
    /// Uses it; tells how often it has gone so far.
    pub(crate) fn used(&self) -> u32 {
        // SAFETY: loom checks that nobody writes it meanwhile.
        self.0.with(|count| unsafe { *count })
    }

    /// It goes. Nobody uses it, nor has without being seen to have left.
    pub(crate) fn goes(&self) {
        // SAFETY: loom checks that nobody uses it meanwhile.
        self.0.with_mut(|count| unsafe { *count += 1 });
    }
}
