//! An asymmetric pair of memory barriers: a light one that costs nothing on the frequent side, and a heavy one
//! that makes up for it on the rare side.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
    compiler_fence, fence,
};

/// Whether the kernel does the heavy side for us. Until `prepare` has said so, both sides are full fences,
/// which is always right.
static EXPEDITED: AtomicBool = AtomicBool::new(false);

/// Asks the kernel, once. To be called before the barriers are needed.
pub(crate) fn prepare() {
    #[cfg(target_os = "linux")]
    {
        static ASKED: std::sync::Once = std::sync::Once::new();
        ASKED.call_once(|| {
            // From membarrier(2), since Linux 4.14.
            let registered = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
            if registered && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
                EXPEDITED.store(true, SeqCst);
            }
        });
    }
}

/// The frequent side: orders this thread's earlier writes before its later reads, as far as `heavy` looks.
#[inline]
pub(crate) fn light() {
    if EXPEDITED.load(Relaxed) {
        compiler_fence(SeqCst);
    } else {
        fence(SeqCst);
    }
}

/// The rare side: after it, every other thread of the process has passed a full barrier.
pub(crate) fn heavy() {
    fence(SeqCst);
    #[cfg(target_os = "linux")]
    if EXPEDITED.load(Relaxed) && !membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
        // The kernel did it when we asked and documents no later failure; going on would be unsound.
        tracing::error!("the kernel refuses a memory barrier that it promised");
        std::process::abort();
    }
}

#[cfg(target_os = "linux")]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: takes no pointers; it only orders memory.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
