//! The kernel's own small runtime: lifecycle coordination, mailboxes, clocks. No plugin code runs on it.
//!
//! It belongs to the process, so that work begun on it ends whatever becomes of the embedder's runtime.

use std::{sync::LazyLock, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

static KERNEL: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).thread_name("oxide-kernel").enable_time().build()
});

/// Makes sure that the kernel's thread runs.
pub(crate) fn ready() -> Result<(), String> {
    KERNEL.as_ref().map(drop).map_err(|error| format!("the host's own threads cannot be started: {error}"))
}

fn runtime() -> &'static Runtime {
    // `ready` comes first, in every constructor of a manager.
    KERNEL.as_ref().unwrap_or_else(|error| panic!("the host's own threads cannot be started: {error}"))
}

/// Runs a future of the host's to its end, whoever waits for it or no longer does.
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    runtime().spawn(future)
}

/// Ready after `duration`; may be made and polled on any thread.
pub(crate) fn sleep(duration: Duration) -> tokio::time::Sleep {
    let _entered = runtime().enter();
    tokio::time::sleep(duration)
}

/// The output of `future`, or `None` when it is not there within `limit`. May be polled on any thread.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let clock = sleep(limit);
    tokio::select! {
        biased;
        output = future => Some(output),
        () = clock => None,
    }
}
