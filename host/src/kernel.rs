//! The kernel's own small runtime: a thread for the host's tasks (`life/coordinator.rs`), and clocks. No plugin code
//! runs on it.
//!
//! It belongs to the process, so that work begun on it ends whatever becomes of the embedder's runtime.

use std::{
    sync::{
        LazyLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

static KERNEL: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("oxide-kernel")
        .on_thread_start(prepare_thread)
        .on_thread_park(|| linger(|| POKED.swap(false, SeqCst)))
        .enable_time()
        .build()
});

/// How many verbs are under way.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// When the last one ended, as [`now`] has it.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// The kernel's thread has got something to do.
static POKED: AtomicBool = AtomicBool::new(false);

/// The longest that a thread lingers: about what waking a sleeping one takes.
const LINGERING: Duration = Duration::from_micros(60);

/// A verb that is under way. A load hands its work from thread to thread some twenty times, and waking a thread
/// that sleeps takes longer than most of what it then does: so, as long as there is a verb, threads that run
/// out of work look for more for a moment before they sleep.
pub(crate) struct UnderWay(());

impl UnderWay {
    pub(crate) fn begin() -> Self {
        UNDER_WAY.fetch_add(1, SeqCst);
        Self(())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        ENDED.store(now(), SeqCst);
        UNDER_WAY.fetch_sub(1, SeqCst);
    }
}

/// In microseconds since this was first asked.
fn now() -> u64 {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(FIRST.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Waits a moment for `has_work`, if a verb is under way, or has just ended and may be followed by the next; others may
/// run meanwhile.
pub(crate) fn linger(has_work: impl FnMut() -> bool) {
    let has_just_ended = || now().saturating_sub(ENDED.load(Relaxed)) < LINGERING.as_micros() as u64;
    if UNDER_WAY.load(Relaxed) > 0 || has_just_ended() {
        stay_awake(LINGERING, has_work);
    }
}

/// Waits for at most `limit` until it `is_over`, without sleeping; others may run meanwhile.
pub(crate) fn stay_awake(limit: Duration, mut is_over: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_over() && since.elapsed() < limit {
        thread::yield_now();
    }
}

/// Has this thread register at once what it will have in thread-locals. glibc does that under the dynamic loader's
/// lock, which a constructor or destructor that blocks has for as long as it does: a thread that is prepared goes on
/// meanwhile.
pub(crate) fn prepare_thread() {
    // parking_lot's, of a thread that waits for a lock; then tokio's, arc-swap's and tracing's.
    Condvar::new().wait_for(&mut Mutex::new(()).lock(), Duration::ZERO);
    let _ = tokio::task::try_id();
    drop(arc_swap::ArcSwap::from_pointee(()).load());
    tracing::dispatcher::get_default(|_| ());
}

/// Makes sure that the kernel's thread runs.
pub(crate) fn ready() -> Result<(), String> {
    KERNEL.as_ref().map(drop).map_err(|error| format!("the host's own threads cannot be started: {error}"))
}

fn runtime() -> &'static Runtime {
    // `ready` comes first, in every constructor of a manager.
    KERNEL.as_ref().unwrap_or_else(|error| panic!("the host's own threads cannot be started: {error}"))
}

/// Runs something that does not block on the kernel's thread.
pub(crate) fn run(work: impl FnOnce() + Send + 'static) {
    runtime().spawn(async move { work() });
    POKED.store(true, SeqCst);
}

/// Ready after `duration`; may be made and polled on any thread.
pub(crate) fn sleep(duration: Duration) -> tokio::time::Sleep {
    let _entered = runtime().enter();
    tokio::time::sleep(duration)
}

/// What `sender` sends within `limit`; `None` when it is late: then `send` gives it back.
pub(crate) async fn answer<T>(
    limit: Duration,
    mut sender: oneshot::Receiver<T>,
) -> Option<Result<T, oneshot::error::RecvError>> {
    if let Some(answer) = within(limit, &mut sender).await {
        return Some(answer);
    }
    // What came since the last look would be dropped with the receiver, and its sender not be told.
    sender.close();
    sender.try_recv().ok().map(Ok)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_arrives_or_goes_back_to_its_sender_however_close_it_is_to_the_limit() {
        let waiting = Builder::new_current_thread().build().expect("a runtime");
        for round in 0..2000 {
            let (send, receive) = oneshot::channel();
            let sender = thread::spawn(move || {
                let since = Instant::now();
                while since.elapsed() < Duration::from_micros(900 + round) {}
                send.send(()).is_ok()
            });
            let got = waiting.block_on(answer(Duration::from_millis(1), receive)).is_some();
            assert_eq!(got, sender.join().expect("no panic"));
        }
    }
}
