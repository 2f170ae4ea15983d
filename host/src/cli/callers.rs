//! The program's runtime, and the threads of it that make the API's calls.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Builder, Handle, Runtime};

use super::logging;
use crate::manager;

/// So many threads are ready for calls from the beginning. With one call at a time on each of them, no other is made.
const READY: usize = 8;

/// For good: one that is made anew is not ready.
const KEPT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How long the start of the host waits for its threads. It waits in vain only where the system has none to give.
const STARTING: Duration = Duration::from_secs(5);

/// The program's runtime.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().thread_keep_alive(KEPT).build()
}

/// Has the runtime make threads for calls, and each of them register at once what it will have in thread-locals. A
/// library that blocks while it is opened or closed holds the lock that this takes: a thread that is new then can do
/// nothing before the library lets go, and one that is ready goes on.
pub(super) async fn make_ready() {
    let all = Arc::new((Mutex::new(0), Condvar::new()));
    let runtime = Handle::current();
    let until = Instant::now() + STARTING;
    let threads: Vec<_> = (0..READY)
        .map(|_| {
            let (all, runtime) = (all.clone(), runtime.clone());
            tokio::task::spawn_blocking(move || {
                manager::prepare_caller();
                logging::prepare_thread();
                runtime.block_on(tokio::task::yield_now());
                // Kept until all are there, so that each job has a thread of its own.
                let (present, is_complete) = &*all;
                let mut present = present.lock();
                *present += 1;
                is_complete.notify_all();
                while *present < READY && !is_complete.wait_until(&mut present, until).timed_out() {}
            })
        })
        .collect();
    for thread in threads {
        // None of it panics; and without it the host serves, too.
        let _ = thread.await;
    }
}
