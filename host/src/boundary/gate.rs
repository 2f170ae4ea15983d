//! The gate: counts who is inside a generation, can be shut, and tells exactly once that nobody is left. No
//! clock, no I/O, no lock, no allocation and no locked instruction on entry.
//!
//! Asymmetric: whoever enters or leaves writes to a counter that only its own thread writes, and whoever
//! shuts pays for the order of these writes with a barrier across all threads of the process
//! (`membarrier(2)`; where there is none, entering pays with a fence). After Dice, Huang and Yang,
//! "Asymmetric Dekker Synchronization" (2001), and the use of `membarrier` in liburcu.
//!
//! Counters only grow: "inside" is what has entered less what has left. Who reads them reads all of what has
//! left first, so that a thread that is turned away (in, and out again) is never seen going out only.

use std::cell::Cell;

use crossbeam_utils::CachePadded;

use super::sync::{
    Mutex, Notify,
    atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    },
    global, thread_local,
};
use crate::sys::barrier;

/// Counts who is inside, in `N` slots: all but the last belong to one thread each.
#[derive(Debug)]
pub(crate) struct Gate<const N: usize> {
    closed: CachePadded<AtomicBool>,
    slots: [CachePadded<Slot>; N],
    /// The lock orders those who look.
    seen: Mutex<Seen>,
    drained: Notify,
}

/// What is known of a gate by those who look whether it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Open, or being shut: until the barrier has run, somebody's entry may not be visible yet, so that
    /// nobody may say that the gate is empty.
    Open,
    /// Shut, and all who went in are visible.
    Shut,
    /// Shut, and nobody is inside.
    Empty,
}

#[derive(Debug, Default)]
struct Slot {
    entered: AtomicUsize,
    left: AtomicUsize,
}

/// Says that somebody is inside; whoever holds it must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who has entered must leave"]
pub(crate) struct Pass(());

impl<const N: usize> Gate<N> {
    /// A gate that nobody can enter until it is opened.
    pub(crate) fn shut_from_the_start() -> Self {
        barrier::prepare();
        Self {
            closed: CachePadded::new(AtomicBool::new(true)),
            slots: std::array::from_fn(|_| CachePadded::default()),
            seen: Mutex::new(Seen::Empty),
            drained: Notify::new(),
        }
    }

    /// Lets callers in. The gate must be drained.
    pub(crate) fn open(&self) {
        let mut seen = self.seen.lock();
        debug_assert_eq!(*seen, Seen::Empty, "a gate is opened only after its drain");
        *seen = Seen::Open;
        self.closed.store(false, Release);
    }

    /// Lets callers in again although some may still be inside: the drain is given up.
    pub(crate) fn reopen(&self) {
        // Under the lock, so that nobody says "empty" of a gate that is open again.
        let mut seen = self.seen.lock();
        *seen = Seen::Open;
        self.closed.store(false, Release);
    }

    /// Goes in, unless the gate is shut.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Pass> {
        self.count(|slot| &slot.entered);
        // Between the count and the look: with `shut`'s barrier, either we see it shut or it sees us.
        barrier::light();
        if self.closed.load(Acquire) {
            self.leave(Pass(()));
            return None;
        }
        Some(Pass(()))
    }

    /// Goes in although the gate is shut, on the strength of somebody being inside: a call that comes back
    /// from inside one of the generation's own calls. Refused once the gate was seen empty.
    pub(crate) fn enter_nested(&self) -> Option<Pass> {
        let seen = self.seen.lock();
        if *seen == Seen::Empty {
            return None;
        }
        // Under the lock, so whoever looks from now on sees it.
        self.count(|slot| &slot.entered);
        drop(seen);
        Some(Pass(()))
    }

    /// Goes out; from any thread.
    #[inline]
    pub(crate) fn leave(&self, _: Pass) {
        self.count(|slot| &slot.left);
        barrier::light();
        if self.closed.load(Relaxed) {
            self.look();
        }
    }

    /// Turns away whoever comes from now on. Those inside stay; tells how many they are.
    pub(crate) fn shut(&self) -> usize {
        self.closed.store(true, SeqCst);
        barrier::heavy();
        let mut seen = self.seen.lock();
        if *seen == Seen::Open {
            *seen = Seen::Shut;
        }
        drop(seen);
        let inside = self.inside();
        self.look();
        inside
    }

    /// How many are inside, or have been a moment ago.
    pub(crate) fn inside(&self) -> usize {
        let left: usize = self.slots.iter().map(|slot| slot.left.load(Acquire)).fold(0, usize::wrapping_add);
        let entered = self.slots.iter().map(|slot| slot.entered.load(Acquire)).fold(0, usize::wrapping_add);
        entered.wrapping_sub(left)
    }

    /// Whether it is shut and nobody is inside.
    pub(crate) fn is_drained(&self) -> bool {
        *self.seen.lock() == Seen::Empty
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

    /// Adds one to this thread's counter.
    #[inline]
    fn count(&self, which: impl FnOnce(&Slot) -> &AtomicUsize) {
        let own = own_slot();
        if own < N - 1 {
            let counter = which(&self.slots[own]);
            // Nobody else writes it.
            counter.store(counter.load(Relaxed).wrapping_add(1), Release);
        } else {
            which(&self.slots[N - 1]).fetch_add(1, AcqRel);
        }
    }

    /// Looks whether a shut gate is empty, and says so the first time.
    #[cold]
    fn look(&self) {
        let mut seen = self.seen.lock();
        // Before the barrier of `shut` it is too early; then `shut` looks itself, after it.
        if *seen == Seen::Shut && self.inside() == 0 {
            *seen = Seen::Empty;
            drop(seen);
            self.drained.notify_waiters();
        }
    }
}

/// So many threads have slots of their own; further ones share the last.
const THREADS: usize = 64;

/// Who has which slot.
struct Dealer {
    /// The slots that no living thread has. Taking one from here, under the lock, orders its counters after
    /// their last owner's.
    free: Vec<usize>,
    /// So many have been dealt for the first time.
    dealt: usize,
}

global! {
    static DEALER: Mutex<Dealer> = Mutex::new(Dealer { free: Vec::new(), dealt: 0 });
}

const UNKNOWN: usize = usize::MAX;
const SHARED: usize = usize::MAX - 1;

thread_local! {
    // Read on every entry, so without a destructor; `GIVE_BACK` has it.
    static OWN: Cell<usize> = const { Cell::new(UNKNOWN) };
    static GIVE_BACK: GiveBack = const { GiveBack(Cell::new(SHARED)) };
}

/// The slot to give back when its thread ends.
struct GiveBack(Cell<usize>);

impl Drop for GiveBack {
    fn drop(&mut self) {
        // From now on, in the destructors of other thread-locals, this thread shares.
        let _ = OWN.try_with(|own| own.set(SHARED));
        if self.0.get() < THREADS {
            DEALER.lock().free.push(self.0.get());
        }
    }
}

/// This thread's slot.
#[inline]
fn own_slot() -> usize {
    let own = OWN.try_with(Cell::get).unwrap_or(SHARED);
    if own == UNKNOWN { deal() } else { own }
}

/// Has this thread get its slot at once: see `kernel::prepare_thread`.
pub(crate) fn prepare_thread() {
    own_slot();
}

#[cold]
fn deal() -> usize {
    // Arms the destructor. A thread that is already ending shares.
    let own = GIVE_BACK.try_with(|give_back| {
        let mut dealer = DEALER.lock();
        let own = dealer.free.pop().unwrap_or_else(|| {
            dealer.dealt += 1;
            if dealer.dealt <= THREADS { dealer.dealt - 1 } else { SHARED }
        });
        give_back.0.set(own);
        own
    });
    let own = own.unwrap_or(SHARED);
    let _ = OWN.try_with(|cell| cell.set(own));
    own
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
    fn who_went_in_on_one_thread_may_go_out_on_another() {
        let gate = Gate::<4>::shut_from_the_start();
        gate.open();
        let pass = gate.enter().unwrap();
        gate.shut();
        std::thread::scope(|scope| {
            scope.spawn(|| gate.leave(pass));
        });
        assert!(gate.is_drained());
    }

    #[test]
    fn a_call_that_comes_back_enters_a_shut_gate_only_until_it_was_seen_empty() {
        let gate = Gate::<4>::shut_from_the_start();
        gate.open();
        let outer = gate.enter().unwrap();
        gate.shut();
        let inner = gate.enter_nested().unwrap();
        gate.leave(outer);
        assert!(!gate.is_drained());
        gate.leave(inner);
        assert!(gate.is_drained());
        assert!(gate.enter_nested().is_none());
    }

    #[test]
    fn a_drain_that_is_given_up_lets_everybody_in_and_the_next_one_counts_all() {
        let gate = Gate::<4>::shut_from_the_start();
        gate.open();
        let before = gate.enter().unwrap();
        gate.shut();
        gate.reopen();
        let after = gate.enter().unwrap();
        gate.leave(before);
        assert!(!gate.is_drained());
        assert_eq!(gate.shut(), 1);
        gate.leave(after);
        assert!(gate.is_drained());
        // Also when it was seen empty.
        gate.reopen();
        assert!(!gate.is_drained());
        let last = gate.enter().unwrap();
        gate.leave(last);
    }

    /// Between the closing and the barrier an entry may not be visible yet: who leaves then must not say that
    /// nobody is inside.
    #[test]
    fn nobody_but_the_shutter_says_so_before_the_barrier_has_run() {
        let gate = Gate::<4>::shut_from_the_start();
        gate.open();
        let pass = gate.enter().unwrap();
        gate.closed.store(true, SeqCst);
        gate.leave(pass);
        assert!(!gate.is_drained());
        gate.shut();
        assert!(gate.is_drained());
    }

    fn nobody_is_inside_after_the_drain<const N: usize>() {
        for _ in 0..200 {
            let gate = Gate::<N>::shut_from_the_start();
            let inside = AtomicUsize::new(0);
            let over = AtomicBool::new(false);
            gate.open();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        while !over.load(SeqCst) {
                            if let Some(pass) = gate.enter() {
                                inside.fetch_add(1, SeqCst);
                                inside.fetch_sub(1, SeqCst);
                                gate.leave(pass);
                            }
                        }
                    });
                }
                for _ in 0..20 {
                    gate.shut();
                    while !gate.is_drained() {
                        std::thread::yield_now();
                    }
                    for _ in 0..100 {
                        assert_eq!(inside.load(SeqCst), 0);
                    }
                    gate.open();
                }
                over.store(true, SeqCst);
            });
        }
    }

    #[test]
    fn under_many_threads_the_drain_is_seen_only_after_the_last_has_left() {
        nobody_is_inside_after_the_drain::<80>();
    }

    #[test]
    fn the_same_holds_for_threads_that_share_a_slot() {
        nobody_is_inside_after_the_drain::<1>();
        nobody_is_inside_after_the_drain::<3>();
    }
}
