//! The moment of a swap: how a module goes over from one generation to the next. Runs in the module's actor, so no
//! other verb of the module comes in between.
//!
//! Whatever fails leaves the old generation as it was: it is not stopped before calls are led to the new one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use oxide_plugin_api::{Event, ModuleMetadata, ModuleState, SavedState};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    announce::announce,
    lifecycle::{result_of, run_hook, set_state, start_hook, stuck_calls},
    load::Failure,
    registry::{Build, Entry, Present, Shared},
};
use crate::{
    boundary::hooks::Saved,
    error::KernelError,
    kernel,
    life::{
        generation::{Generation, SEATS},
        hook,
        object::Object,
        pool,
    },
    report::SwapStep,
};

/// A generation that is set up, to take over from the present one.
pub(crate) struct Switch {
    pub(crate) generation: Arc<Generation>,
    pub(crate) metadata: ModuleMetadata,
    pub(crate) own_id: String,
    pub(crate) build: Build,
    /// For the hooks of an old generation that is of the host program's own.
    pub(crate) runtime: Option<Handle>,
    /// Whoever asked has gone away.
    pub(crate) abandoned: Arc<AtomicBool>,
}

/// How a module went over.
pub(crate) struct Switched {
    /// No call is led to it any more; it is to be drained and ended.
    pub(crate) old: Arc<Present>,
    pub(crate) now: Arc<Present>,
    /// The module's state before.
    pub(crate) was: ModuleState,
    /// How many calls were inside the old generation when its gate was shut.
    pub(crate) inside: usize,
    pub(crate) state_moved: bool,
    pub(crate) held_calls: u64,
    /// How long calls were held.
    pub(crate) held_for: Duration,
    /// The build before the old one, which nobody can go back to any more.
    pub(crate) forgotten: Option<Build>,
}

/// Leads the module's calls to the new generation.
pub(crate) async fn switch(
    shared: &Shared,
    entry: &Entry,
    new: Switch,
    reply: &oneshot::Sender<Result<Switched, Failure>>,
) -> Result<Switched, Failure> {
    let old = entry.present();
    let was = entry.state();
    if reply.is_closed() {
        return Err(Failure { step: SwapStep::Switch, error: KernelError::Abandoned });
    }
    let runtime = new.runtime.clone();
    let abandoned = new.abandoned.clone();
    let next = Arc::new(Present::new(new.generation, new.metadata, new.own_id, Some(new.build)));
    let change = Change { shared, entry, old: &old, new: &next, runtime, abandoned };
    // No `?`: whatever fails gives the new one's seat back.
    let changed = match was {
        ModuleState::Running => match change.asks_for_a_hold().await {
            Ok(true) => change.with_a_hold().await,
            Ok(false) => change.beside().await,
            Err(failure) => Err(failure),
        },
        _ => change.idle().await,
    };
    match changed {
        Ok(changed) => {
            // Here, and not where the old one ends: an unload may come before that.
            let forgotten = std::mem::replace(&mut *entry.previous.lock(), old.build.lock().take());
            let (from, to) = (old.generation.number, next.generation.number);
            let module_id = entry.id.as_ref().to_owned();
            announce(shared, Event::ModuleSwapped { module_id, from, to });
            let Changed { inside, state_moved, held_calls, held_for } = changed;
            Ok(Switched { old, now: next, was, inside, state_moved, held_calls, held_for, forgotten })
        }
        Err(failure) => {
            SEATS.give_back(next.seat);
            Err(failure)
        }
    }
}

struct Change<'a> {
    shared: &'a Shared,
    entry: &'a Entry,
    old: &'a Present,
    new: &'a Arc<Present>,
    runtime: Option<Handle>,
    abandoned: Arc<AtomicBool>,
}

#[derive(Default)]
struct Changed {
    inside: usize,
    state_moved: bool,
    held_calls: u64,
    held_for: Duration,
}

impl Change<'_> {
    /// Whether the running generation has a state, so that calls must be held while it is handed over. It is asked
    /// while calls go on; what it says then is of no other use.
    async fn asks_for_a_hold(&self) -> Result<bool, Failure> {
        if self.old.has_state.load(SeqCst) {
            return Ok(true);
        }
        // A ticket, as for a call: nobody has the object mutably meanwhile.
        let Some(ticket) = self.entry.route.enter() else {
            return Err(Failure { step: SwapStep::SaveState, error: self.entry.not_running() });
        };
        let limit = self.shared.limits.init;
        let save = self.old.generation.object.save_state(self.shared.limits.state, self.runtime.clone());
        let run = hook::run(ticket, limit, save).await;
        let saved =
            result_of(&self.entry.id, "save_state", limit, run).map_err(Failure::at(SwapStep::SaveState))?;
        let has_state = self.state_of(saved)?.is_some();
        self.old.has_state.store(has_state, SeqCst);
        Ok(has_state)
    }

    /// No state: the new one runs before the first call is led to it, and nobody waits.
    async fn beside(&self) -> Result<Changed, Failure> {
        self.unless_abandoned()?;
        self.start().await?;
        self.new.seat.gate().open();
        self.entry.replace(self.new.clone());
        Ok(Changed { inside: self.old.seat.gate().shut(), ..Changed::default() })
    }

    /// A state: fresh calls and messages wait until it is handed over.
    async fn with_a_hold(&self) -> Result<Changed, Failure> {
        let (entry, limits) = (self.entry, &self.shared.limits);
        let gate = self.old.seat.gate();
        entry.hold.begin();
        let begun = Instant::now();
        let inside = gate.shut();
        let mut step = SwapStep::Drain;
        let module = || entry.id.as_ref().to_owned();
        let hand_over = kernel::within(limits.hold, self.hand_over(&mut step));
        let handed_over = match entry.hold.unless_full(hand_over).await {
            Some(Some(done)) => done,
            Some(None) => Err(KernelError::HeldTooLong { module: module(), after: limits.hold }),
            None => Err(KernelError::TooManyHeld { module: module(), limit: entry.hold.limit() }),
        };
        match handed_over {
            Ok(state_moved) => {
                self.new.seat.gate().open();
                entry.replace(self.new.clone());
                let (held_calls, held_for) = self.release(begun);
                Ok(Changed { inside, state_moved, held_calls, held_for })
            }
            Err(error) => {
                gate.reopen();
                self.release(begun);
                Err(Failure { step, error })
            }
        }
    }

    /// What happens while calls are held. `step` says how far it has come. Tells whether there was a state.
    async fn hand_over(&self, step: &mut SwapStep) -> Result<bool, KernelError> {
        let gate = self.old.seat.gate();
        if kernel::within(self.shared.limits.drain, gate.drained()).await.is_none() {
            return Err(stuck_calls(self.entry, self.old));
        }
        let failed = |step: &mut SwapStep, failure: Failure| {
            *step = failure.step;
            failure.error
        };
        *step = SwapStep::SaveState;
        let state = self.save().await.map_err(|failure| failed(step, failure))?;
        let state_moved = state.is_some();
        *step = SwapStep::RestoreState;
        self.restore(state).await.map_err(|failure| failed(step, failure))?;
        // Not later: whatever has started would have to be stopped again.
        *step = SwapStep::Switch;
        self.unless_abandoned().map_err(|failure| failed(step, failure))?;
        *step = SwapStep::Start;
        self.start().await.map_err(|failure| failed(step, failure))?;
        Ok(state_moved)
    }

    /// The module does not run: nobody calls it, and the new one is not started.
    async fn idle(&self) -> Result<Changed, Failure> {
        if !self.old.seat.gate().is_drained() {
            let error = stuck_calls(self.entry, self.old);
            return Err(Failure { step: SwapStep::Drain, error });
        }
        let state = if self.old.generation.initialised.load(SeqCst) { self.save().await? } else { None };
        let state_moved = state.is_some();
        self.restore(state).await?;
        self.unless_abandoned()?;
        self.entry.replace(self.new.clone());
        set_state(self.entry, ModuleState::Loaded);
        Ok(Changed { state_moved, ..Changed::default() })
    }

    /// The old one's `save_state`, with nobody inside.
    async fn save(&self) -> Result<Option<SavedState>, Failure> {
        let (limits, generation) = (&self.shared.limits, &self.old.generation);
        let save = || generation.object.save_state(limits.state, self.runtime.clone());
        let saved = run_hook(&self.entry.id, "save_state", limits.init, generation, save)
            .await
            .map_err(Failure::at(SwapStep::SaveState))?;
        self.state_of(saved)
    }

    fn state_of(&self, saved: Saved) -> Result<Option<SavedState>, Failure> {
        match saved {
            Saved::Nothing => Ok(None),
            Saved::State(state) => Ok(Some(state)),
            Saved::TooLarge(found) => {
                let (module, limit) = (self.entry.id.as_ref().to_owned(), self.shared.limits.state);
                let error = KernelError::StateTooLarge { module, found, limit };
                Err(Failure { step: SwapStep::SaveState, error })
            }
        }
    }

    async fn restore(&self, state: Option<SavedState>) -> Result<(), Failure> {
        let Some(state) = state else { return Ok(()) };
        let (limit, generation) = (self.shared.limits.init, &self.new.generation);
        let Object::Foreign(foreign) = &generation.object else { return Ok(()) };
        run_hook(&self.entry.id, "restore_state", limit, generation, || foreign.restore_state(state))
            .await
            .map_err(Failure::at(SwapStep::RestoreState))?;
        self.new.has_state.store(true, SeqCst);
        Ok(())
    }

    async fn start(&self) -> Result<(), Failure> {
        start_hook(self.shared, &self.entry.id, &self.new.generation, None)
            .await
            .map_err(Failure::at(SwapStep::Start))
    }

    /// Ends the hold; a gate is open again.
    fn release(&self, begun: Instant) -> (u64, Duration) {
        let held_for = begun.elapsed();
        let waiting = self.entry.mailbox.waiting_calls() as u64;
        let released = self.entry.hold.end();
        let held_calls = released.count + waiting;
        if !released.is_empty() {
            pool::run(move || released.wake());
        }
        self.entry.mailbox.go_on();
        (held_calls, held_for)
    }

    fn unless_abandoned(&self) -> Result<(), Failure> {
        if self.abandoned.load(SeqCst) {
            return Err(Failure { step: SwapStep::Switch, error: KernelError::Abandoned });
        }
        Ok(())
    }
}
