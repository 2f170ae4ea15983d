//! The generation's own tokio runtime, with the feature `tokio`; without it, nothing.
//!
//! tokio inside a plugin has its own thread-locals: a host's runtime is invisible to it, so one of the
//! plugin's own is entered around every hook, poll and drop.

#[cfg(feature = "tokio")]
pub(crate) use with_tokio::{HANDLE, build, enter, shut_down};
#[cfg(not(feature = "tokio"))]
pub(crate) use without_tokio::{build, enter, shut_down};

#[cfg(feature = "tokio")]
mod with_tokio {
    use std::{
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

    use crate::shim::kept::Kept;

    /// Let go of at the library's end: a handle keeps the driver's file descriptors.
    pub(crate) static HANDLE: Kept<Handle> = Kept::new();
    static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

    /// How long the unload waits for the runtime's blocking tasks.
    const SHUT_DOWN: Duration = Duration::from_secs(5);

    pub(crate) fn build() -> crate::Result<()> {
        // Locked throughout: unit tests build it from many threads, and the handle must be that of the
        // runtime that is kept.
        let mut kept = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if HANDLE.get().is_some() {
            return Ok(());
        }
        let threads = std::thread::available_parallelism().map_or(2, |count| count.get().min(4));
        // Time and I/O, but not signals: their driver keeps two file descriptors in its statics.
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("oxide-plugin")
            .enable_io()
            .enable_time()
            .build()?;
        HANDLE.set(runtime.handle().clone());
        *kept = Some(runtime);
        Ok(())
    }

    pub(crate) fn enter() -> Option<EnterGuard<'static>> {
        HANDLE.get().map(Handle::enter)
    }

    pub(crate) fn shut_down() {
        let runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(SHUT_DOWN);
        }
    }
}

#[cfg(not(feature = "tokio"))]
mod without_tokio {
    pub(crate) struct NoRuntime;

    #[expect(clippy::unnecessary_wraps, reason = "the same signature as with tokio")]
    pub(crate) fn build() -> crate::Result<()> {
        Ok(())
    }

    pub(crate) fn enter() -> NoRuntime {
        NoRuntime
    }

    pub(crate) fn shut_down() {}
}
