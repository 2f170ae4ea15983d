//! The gate: counts who is inside a generation, can be shut, and tells exactly one party that it was the
//! last. No clock, no I/O, no lock and no allocation on entry.
//!
//! Sharded, so that callers on two cores do not fight for a cache line. Each shard is one word: a count, a
//! "closed" bit and a "reported" bit, so that entering is one addition whose result says whether it
//! counted. A shard is reported once, by whoever finds it closed and empty; the gate is drained when all
//! shards are.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

const CLOSED: usize = 1 << (usize::BITS - 1);
const REPORTED: usize = 1 << (usize::BITS - 2);
const COUNT: usize = REPORTED - 1;

/// Counts who is inside, in `N` shards.
#[derive(Debug)]
pub(crate) struct Gate<const N: usize> {
    shards: [CachePadded<AtomicUsize>; N],
    /// Shards that are not reported yet.
    unreported: AtomicUsize,
    drained: Notify,
}

/// Says which shard was entered; whoever holds it must leave by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who has entered must leave"]
pub(crate) struct Shard(usize);

impl<const N: usize> Gate<N> {
    /// A gate that nobody can enter until it is opened.
    pub(crate) fn shut_from_the_start() -> Self {
        Self {
            shards: std::array::from_fn(|_| CachePadded::new(AtomicUsize::new(CLOSED | REPORTED))),
            unreported: AtomicUsize::new(0),
            drained: Notify::new(),
        }
    }

    /// Lets callers in. The gate must be drained.
    pub(crate) fn open(&self) {
        debug_assert!(self.is_drained());
        self.unreported.store(N, SeqCst);
        for shard in &self.shards {
            // Not a store: a caller that is being turned away may still be counted for an instant.
            shard.fetch_and(!(CLOSED | REPORTED), SeqCst);
        }
    }

    /// Goes in, unless the gate is shut.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Shard> {
        let shard = if N == 1 { 0 } else { own_shard() % N };
        if self.shards[shard].fetch_add(1, SeqCst) & CLOSED == 0 {
            return Some(Shard(shard));
        }
        self.leave(Shard(shard));
        None
    }

    /// Goes in although the gate is shut, on the strength of somebody being inside: a call that comes back
    /// from inside one of the generation's own calls. `outer` is that call's shard. Refused once the shard
    /// is empty.
    pub(crate) fn enter_nested(&self, outer: Shard) -> Option<Shard> {
        let shard = &self.shards[outer.0];
        let mut value = shard.load(SeqCst);
        loop {
            if value & CLOSED != 0 && (value & REPORTED != 0 || value & COUNT == 0) {
                return None;
            }
            match shard.compare_exchange_weak(value, value + 1, SeqCst, SeqCst) {
                Ok(_) => return Some(outer),
                Err(now) => value = now,
            }
        }
    }

    /// Goes out.
    #[inline]
    pub(crate) fn leave(&self, shard: Shard) {
        let before = self.shards[shard.0].fetch_sub(1, SeqCst);
        if before & CLOSED != 0 && before & COUNT == 1 {
            self.report(shard.0);
        }
    }

    /// Turns away whoever comes from now on. Those inside stay; tells how many they are.
    pub(crate) fn shut(&self) -> usize {
        let mut inside = 0;
        for index in 0..N {
            let before = self.shards[index].fetch_or(CLOSED, SeqCst);
            inside += before & COUNT;
            if before & COUNT == 0 {
                self.report(index);
            }
        }
        inside
    }

    /// How many are inside.
    pub(crate) fn inside(&self) -> usize {
        self.shards.iter().map(|shard| shard.load(SeqCst) & COUNT).sum()
    }

    /// Whether it is shut and nobody is inside.
    pub(crate) fn is_drained(&self) -> bool {
        self.unreported.load(SeqCst) == 0
    }

    /// Waits until it is shut and nobody is inside.
    pub(crate) async fn drained(&self) {
        loop {
            let notified = self.drained.notified();
            if self.is_drained() {
                return;
            }
            notified.await;
        }
    }

    #[cold]
    fn report(&self, index: usize) {
        let empty = self.shards[index].compare_exchange(CLOSED, CLOSED | REPORTED, SeqCst, SeqCst);
        if empty.is_ok() && self.unreported.fetch_sub(1, SeqCst) == 1 {
            self.drained.notify_waiters();
        }
    }
}

/// This thread's shard: threads are dealt out in turn.
#[inline]
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
    }
    let own = OWN.get();
    if own != usize::MAX {
        return own;
    }
    let dealt = NEXT.fetch_add(1, SeqCst) & (usize::MAX >> 1);
    OWN.set(dealt);
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shut_gate_lets_nobody_in_and_is_drained_when_the_last_leaves() {
        let gate = Gate::<4>::shut_from_the_start();
        assert!(gate.enter().is_none());
        gate.open();
        let (one, two) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert_eq!(gate.shut(), 2);
        assert!(gate.enter().is_none());
        assert!(!gate.is_drained());
        assert_eq!(gate.inside(), 2);
        gate.leave(one);
        assert!(!gate.is_drained());
        gate.leave(two);
        assert!(gate.is_drained());
    }

    #[test]
    fn a_call_that_comes_back_enters_a_shut_gate_only_while_its_outer_call_is_inside() {
        let gate = Gate::<4>::shut_from_the_start();
        gate.open();
        let outer = gate.enter().unwrap();
        gate.shut();
        let inner = gate.enter_nested(outer).unwrap();
        gate.leave(outer);
        assert!(!gate.is_drained());
        gate.leave(inner);
        assert!(gate.is_drained());
        assert!(gate.enter_nested(outer).is_none());
    }

    #[test]
    fn under_many_threads_the_drain_is_seen_only_after_the_last_has_left() {
        use std::sync::atomic::AtomicBool;
        for _ in 0..200 {
            let gate = Gate::<8>::shut_from_the_start();
            let shut = AtomicBool::new(false);
            let inside = AtomicUsize::new(0);
            gate.open();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !shut.load(SeqCst) || gate.inside() > 0 {
                            if let Some(shard) = gate.enter() {
                                inside.fetch_add(1, SeqCst);
                                inside.fetch_sub(1, SeqCst);
                                gate.leave(shard);
                            }
                        }
                    });
                }
                gate.shut();
                while !gate.is_drained() {
                    std::hint::spin_loop();
                }
                assert_eq!(inside.load(SeqCst), 0);
                shut.store(true, SeqCst);
            });
        }
    }
}
