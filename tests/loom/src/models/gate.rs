//! The gate alone, and something that it guards: used by who is inside, and gone after the drain.

use loom::{
    future::block_on,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crate::{boundary::gate::Gate, watched::Watched};

/// A gate, and what it guards.
struct Guarded<const N: usize> {
    gate: Gate<N>,
    guarded: Watched,
}

impl<const N: usize> Guarded<N> {
    /// Open, and with the main thread's slot dealt.
    fn open() -> Arc<Self> {
        let this = Arc::new(Self { gate: Gate::shut_from_the_start(), guarded: Watched::default() });
        this.gate.open();
        let pass = this.gate.enter().expect("it is open");
        this.gate.leave(pass);
        this
    }

    /// As somebody inside.
    fn look(&self, expected: u32) {
        assert_eq!(self.guarded.used(), expected, "the drain was over");
    }

    fn visit(&self) -> bool {
        let Some(pass) = self.gate.enter() else { return false };
        self.look(0);
        self.gate.leave(pass);
        true
    }

    /// Waits for the drain; then it goes.
    fn after_the_drain(&self) {
        block_on(self.gate.drained());
        self.guarded.goes();
    }
}

fn spawn<const N: usize, R: 'static + Send>(
    guarded: &Arc<Guarded<N>>,
    body: impl FnOnce(&Guarded<N>) -> R + 'static + Send,
) -> JoinHandle<R> {
    let guarded = guarded.clone();
    thread::spawn(move || body(&guarded))
}

/// Two callers while a third shuts: nobody is inside after the drain, and the drain ends. A caller that ends
/// gives its slot back, and the other may be dealt it.
pub fn drain<const N: usize>() {
    let guarded = Guarded::<N>::open();
    let callers = [(); 2].map(|()| spawn(&guarded, Guarded::visit));
    guarded.gate.shut();
    guarded.after_the_drain();
    for caller in callers {
        let _ = caller.join();
    }
}

/// Who went in on one thread goes out on another, while the first goes in again.
pub fn handed_over<const N: usize>() {
    let guarded = Guarded::<N>::open();
    let shared = guarded.clone();
    let caller = spawn(&guarded, move |guarded| {
        let Some(pass) = guarded.gate.enter() else { return };
        let second = spawn(&shared, move |guarded| {
            guarded.look(0);
            guarded.gate.leave(pass);
        });
        guarded.visit();
        let _ = second.join();
    });
    guarded.gate.shut();
    guarded.after_the_drain();
    let _ = caller.join();
}

/// A call that comes back, on its own thread and on another, which may outlast the outer one: inside a shut
/// gate it is let in while the outer call is inside, and never after the drain.
pub fn coming_back<const N: usize>() {
    let guarded = Guarded::<N>::open();
    let shared = guarded.clone();
    let caller = spawn(&guarded, move |guarded| {
        let Some(outer) = guarded.gate.enter() else { return };
        let inner = guarded.gate.enter_nested().expect("the outer call is inside");
        let elsewhere = spawn(&shared, |guarded| {
            let Some(inner) = guarded.gate.enter_nested() else { return };
            guarded.look(0);
            guarded.gate.leave(inner);
        });
        guarded.look(0);
        guarded.gate.leave(inner);
        guarded.gate.leave(outer);
        let _ = elsewhere.join();
    });
    guarded.gate.shut();
    guarded.after_the_drain();
    assert!(guarded.gate.enter_nested().is_none(), "nobody is inside to come back from");
    let _ = caller.join();
}

/// Drained, opened and drained once more, while a caller tries three times: it sees what was written between.
pub fn opened_again<const N: usize>() {
    let guarded = Guarded::<N>::open();
    let caller = spawn(&guarded, |guarded| {
        for _ in 0..3 {
            let Some(pass) = guarded.gate.enter() else { continue };
            assert!(guarded.guarded.used() < 2, "the last drain was over");
            guarded.gate.leave(pass);
        }
    });
    guarded.gate.shut();
    guarded.after_the_drain();
    guarded.gate.open();
    guarded.gate.shut();
    guarded.after_the_drain();
    let _ = caller.join();
}

/// Two that shut it at once are both told of the drain, and by then it is one.
pub fn two_shut_it<const N: usize>() {
    let guarded = Guarded::<N>::open();
    let caller = spawn(&guarded, Guarded::visit);
    let other = spawn(&guarded, |guarded| {
        guarded.gate.shut();
        block_on(guarded.gate.drained());
        guarded.look(0);
    });
    guarded.gate.shut();
    block_on(guarded.gate.drained());
    let _ = other.join();
    guarded.after_the_drain();
    let _ = caller.join();
}

/// A drain that is given up while two callers come: whoever comes after it is let in, and the next drain counts
/// all who are inside.
pub fn given_up<const N: usize>() {
    let guarded = Guarded::<N>::open();
    let callers = [(); 2].map(|()| spawn(&guarded, Guarded::visit));
    guarded.gate.shut();
    guarded.gate.reopen();
    assert!(guarded.visit(), "it is open again");
    guarded.gate.shut();
    guarded.after_the_drain();
    for caller in callers {
        let _ = caller.join();
    }
}
