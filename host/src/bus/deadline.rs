//! Deadlines for requests, on a thread of the bus's own: a request works on every executor, and ends on time
//! also when the executor has no clock. The thread is there only while it has something to do.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How long the thread stays, at most, when nothing is left to do.
const LINGER: Duration = Duration::from_secs(5);
/// The furthest deadline: whoever asks for more does not mean it.
const FURTHEST: Duration = Duration::from_secs(60 * 60 * 24 * 365);

static CLOCK: Clock = Clock { alarms: Mutex::new(Alarms::NONE), changed: Condvar::new() };

struct Clock {
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

/// When an alarm goes off; the number tells those of the same instant apart.
type Key = (Instant, u64);

struct Alarms {
    waiting: BTreeMap<Key, Option<Waker>>,
    next_number: u64,
    /// While the thread sleeps: until when. `None` when there is no thread.
    sleeps_until: Option<Instant>,
}

impl Alarms {
    const NONE: Self = Self { waiting: BTreeMap::new(), next_number: 0, sleeps_until: None };
}

/// Resolves when its time has come.
pub(super) struct Deadline {
    key: Key,
}

impl Deadline {
    /// A deadline `after` now. Fails when the thread for it cannot be started.
    pub(super) fn after(after: Duration) -> io::Result<Self> {
        let at = Instant::now() + after.min(FURTHEST);
        let mut alarms = CLOCK.alarms.lock();
        let too_late = match alarms.sleeps_until {
            Some(sleeps_until) => at < sleeps_until,
            None => {
                thread::Builder::new().name("oxide-deadlines".into()).spawn(keep_time)?;
                alarms.sleeps_until = Some(at);
                false
            }
        };
        let key = (at, alarms.next_number);
        alarms.next_number += 1;
        alarms.waiting.insert(key, None);
        drop(alarms);
        if too_late {
            CLOCK.changed.notify_one();
        }
        Ok(Self { key })
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut alarms = CLOCK.alarms.lock();
        let Some(alarm) = alarms.waiting.get_mut(&self.key) else {
            drop(alarms);
            return Poll::Ready(());
        };
        let former = alarm.replace(waker);
        drop(alarms);
        drop(former);
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let alarm = CLOCK.alarms.lock().waiting.remove(&self.key);
        drop(alarm);
    }
}

fn keep_time() {
    let mut alarms = CLOCK.alarms.lock();
    loop {
        let now = Instant::now();
        let next = alarms.waiting.first_key_value().map(|((at, _), _)| *at);
        if next.is_some_and(|at| at <= now) {
            let alarm = alarms.waiting.pop_first().and_then(|(_, alarm)| alarm);
            MutexGuard::unlocked(&mut alarms, || alarm.map(Waker::wake));
            continue;
        }
        // Also with a far deadline ahead it looks up now and then: that one may be dropped long before.
        let longest = now + LINGER;
        let until = next.map_or(longest, |at| at.min(longest));
        alarms.sleeps_until = Some(until);
        let timed_out = CLOCK.changed.wait_until(&mut alarms, until).timed_out();
        if timed_out && alarms.waiting.is_empty() {
            alarms.sleeps_until = None;
            return;
        }
    }
}
