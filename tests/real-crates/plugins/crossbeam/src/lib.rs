//! Uses `crossbeam`'s scoped threads, channels, deques and epochs; the default collector of the last one is
//! global, with a thread-local handle.
#![allow(unsafe_code, reason = "what epochs protect is freed by hand")]

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use common::check;
use crossbeam::{
    channel,
    deque::{Injector, Steal, Worker},
    epoch::{self, Atomic, Owned},
    queue::SegQueue,
    thread,
};
use oxide_plugin_api::prelude::*;

fn work(seed: u64) -> Result<()> {
    let (jobs, queue) = channel::bounded::<u64>(4);
    let sum = AtomicU64::new(0);
    let scope = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|_| {
                for job in &queue {
                    sum.fetch_add(job, Relaxed);
                }
            });
        }
        for job in 0..64 {
            let _ = jobs.send(job);
        }
        drop(jobs);
    });
    check(scope.is_ok() && sum.into_inner() == 2_016, "the sum of the jobs")?;

    let (_never, silent) = channel::unbounded::<()>();
    let timer = channel::after(Duration::from_micros(50));
    crossbeam::select! {
        recv(silent) -> _ => return Err(Error::new("a message from nobody")),
        recv(timer) -> _ => {}
    }

    let (injector, worker) = (Injector::new(), Worker::new_fifo());
    (0..100).for_each(|n| injector.push(n));
    let stolen = injector.steal_batch_and_pop(&worker);
    check(matches!(stolen, Steal::Success(0)) && !worker.is_empty(), "what was stolen")?;

    let cell = Atomic::new(seed);
    for n in 0..200 {
        let guard = epoch::pin();
        let old = cell.swap(Owned::new(n), AcqRel, &guard);
        // SAFETY: it is out of the cell, where nobody who pins from now on finds it.
        unsafe { guard.defer_destroy(old) };
        // Run by a later pin, on whichever thread, or never.
        guard.flush();
    }
    // SAFETY: nobody else has the cell, and what is in it was not destroyed.
    drop(unsafe { cell.into_owned() });

    let queue = SegQueue::new();
    (0..100).for_each(|n| queue.push(n));
    check(std::iter::from_fn(|| queue.pop()).eq(0..100), "the queue")
}

common::stateless!(work);
