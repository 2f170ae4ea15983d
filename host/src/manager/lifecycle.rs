//! A module's life: one actor for each module carries out what is asked of it, one thing after the other.
//!
//! It runs on the kernel's own thread and never on anybody's runtime, so an operation ends although its
//! caller went away. Hooks run on life threads; nothing is locked while they do.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use oxide_plugin_api::{Event, ModuleState, Payload};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use uuid::Uuid;

use super::{
    announce::{announce, answer},
    load::Failure,
    registry::{Entry, Present, Shared},
    switch::{self, Switch, Switched},
    unload,
};
use crate::{
    boundary::{
        frames,
        hooks::HookEnd,
        lend::{BoxFuture, Phase},
    },
    error::{KernelError, Result},
    kernel,
    life::{
        coordinator, flush,
        generation::Generation,
        hook::{self, HookRun},
        object::Object,
    },
    report::{Receipt, StopOutcome},
};

/// Something to do with a module, and where to tell how it went.
pub(crate) enum Op {
    Init(Option<Handle>, oneshot::Sender<Result<()>>),
    Start(Asked, oneshot::Sender<Result<Moved>>),
    Stop(Asked, oneshot::Sender<Result<Moved>>),
    Unload(Option<Handle>, oneshot::Sender<Result<Receipt>>),
    Switch(Box<Switch>, oneshot::Sender<Result<Switched, Failure>>),
}

/// On whose behalf something is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// The caller's runtime, for the hooks of an in-process module.
    pub(crate) runtime: Option<Handle>,
    /// The command that asked; the announcement answers it.
    pub(crate) command: Option<Uuid>,
}

/// Whether an operation changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Yes,
    /// It was so already; nothing was run and nothing announced.
    AlreadyThere,
}

/// Asks the actor and waits for its answer.
///
/// # Errors
/// [`KernelError::SelfWait`] from inside the module itself; whatever the operation fails with.
pub(crate) async fn ask<T>(
    entry: &Entry,
    action: &'static str,
    op: impl FnOnce(oneshot::Sender<Result<T>>) -> Op,
) -> Result<T> {
    not_from_inside(entry, action)?;
    let (send, receive) = oneshot::channel();
    let gone = || KernelError::UnknownModule(entry.id.as_ref().to_owned());
    let _under_way = kernel::UnderWay::begin();
    coordinator::asking(|| entry.ops.send(op(send))).map_err(|_| gone())?;
    // Meanwhile this thread runs what it owes, so that a generation may wait for it.
    flush::attend(receive).await.map_err(|_| gone())?
}

/// A module must not wait for what waits for its calls.
///
/// # Errors
/// [`KernelError::SelfWait`] from inside the module itself.
pub(crate) fn not_from_inside(entry: &Entry, action: &'static str) -> Result<()> {
    match frames::find(|frame| frame.module == entry.number) {
        Some(_) => Err(KernelError::SelfWait { module: entry.id.as_ref().to_owned(), action }),
        None => Ok(()),
    }
}

/// Has a module unloaded although nobody waits for the receipt.
pub(crate) fn unload_unasked(entry: &Entry) {
    let (reply, _) = oneshot::channel();
    let _ = entry.ops.send(Op::Unload(None, reply));
}

/// Starts the actor of a registered module.
pub(crate) fn run(shared: Arc<Shared>, entry: Arc<Entry>, mut ops: mpsc::UnboundedReceiver<Op>) {
    coordinator::spawn(async move {
        while let Some(op) = ops.recv().await {
            match op {
                Op::Init(runtime, reply) => {
                    let done = init(&shared, &entry, runtime.as_ref()).await;
                    let _ = reply.send(done);
                }
                Op::Start(asked, reply) => {
                    let done = start(&shared, &entry, &asked).await;
                    let _ = reply.send(done);
                }
                Op::Stop(asked, reply) => {
                    let done = stop(&shared, &entry, &asked).await;
                    let _ = reply.send(done);
                }
                Op::Switch(new, reply) => {
                    let done = switch::switch(&shared, &entry, *new, &reply).await;
                    let _ = reply.send(done);
                }
                Op::Unload(runtime, reply) => {
                    let receipt = unload::unload(&shared, &entry, runtime.as_ref()).await;
                    let _ = reply.send(Ok(receipt));
                    // Not by being dropped: that overlooks what is being sent at this moment, and whoever
                    // waits for its answer keeps it alive, for ever.
                    ops.close();
                    while ops.recv().await.is_some() {}
                    return;
                }
            }
        }
    });
}

/// Moves to a state. Announcements come after, when it is true.
pub(crate) fn set_state(entry: &Entry, state: ModuleState) {
    if state != ModuleState::Failed {
        *entry.failure.lock() = None;
    }
    entry.state.send_replace(state);
}

fn fail(shared: &Shared, entry: &Entry, error: KernelError) -> KernelError {
    let reason = error.to_string();
    *entry.failure.lock() = Some(reason.clone());
    set_state(entry, ModuleState::Failed);
    announce(shared, Event::ModuleFailed { module_id: entry.id.as_ref().to_owned(), reason });
    error
}

fn illegal(entry: &Entry, to: ModuleState) -> KernelError {
    KernelError::IllegalTransition { module: entry.id.as_ref().to_owned(), from: entry.state(), to }
}

/// Runs one exclusive hook, within its deadline.
pub(crate) async fn run_hook<T: Send + 'static>(
    module: &str,
    hook: &'static str,
    limit: Duration,
    generation: &Generation,
    make: impl FnOnce() -> BoxFuture<HookEnd<T>>,
) -> Result<T> {
    let Some(lease) = generation.alone(limit).await else {
        return Err(KernelError::HookStuck { module: module.to_owned(), hook });
    };
    let run = hook::run(lease, limit, make()).await;
    result_of(module, hook, limit, run)
}

/// What a hook's run comes to.
pub(crate) fn result_of<T>(module: &str, hook: &'static str, limit: Duration, run: HookRun<T>) -> Result<T> {
    let module = module.to_owned();
    match run {
        HookRun::Ended(HookEnd::Ok(value)) => Ok(value),
        HookRun::Ended(HookEnd::Failed(error)) => Err(KernelError::HookFailed {
            module,
            hook,
            message: error.to_string(),
            chain: error.chain().to_vec(),
        }),
        HookRun::Ended(HookEnd::Panicked(message)) => {
            Err(KernelError::HookPanicked { module, hook, message })
        }
        HookRun::TimedOut => Err(KernelError::HookTimedOut { module, hook, after: limit }),
    }
}

async fn init_hook(
    shared: &Shared,
    entry: &Entry,
    generation: &Generation,
    runtime: Option<&Handle>,
) -> Result<()> {
    if generation.initialised.load(SeqCst) {
        return Ok(());
    }
    run_hook(&entry.id, "init", shared.limits.init, generation, || {
        generation.object.init(shared.bus.clone(), runtime.cloned())
    })
    .await?;
    generation.initialised.store(true, SeqCst);
    Ok(())
}

/// `init`: Loaded (or Failed in an earlier `init`) to Loaded.
async fn init(shared: &Shared, entry: &Entry, runtime: Option<&Handle>) -> Result<()> {
    let present = entry.present();
    if present.generation.initialised.load(SeqCst) {
        return Ok(());
    }
    set_state(entry, ModuleState::Starting);
    match init_hook(shared, entry, &present.generation, runtime).await {
        Ok(()) => {
            set_state(entry, ModuleState::Loaded);
            Ok(())
        }
        Err(error) => Err(fail(shared, entry, error)),
    }
}

/// `start`: Loaded, Stopped or Failed to Running.
async fn start(shared: &Shared, entry: &Entry, asked: &Asked) -> Result<Moved> {
    let was = entry.state();
    match was {
        ModuleState::Running => return Ok(Moved::AlreadyThere),
        ModuleState::Loaded | ModuleState::Stopped | ModuleState::Failed => {}
        ModuleState::Starting | ModuleState::Stopping => return Err(illegal(entry, ModuleState::Running)),
    }
    let present = entry.present();
    if !present.seat.gate().is_drained() {
        // Calls that did not come out before the stop failed: `start` would be a second `&mut`.
        return Err(fail(shared, entry, stuck_calls(entry, &present)));
    }
    set_state(entry, ModuleState::Starting);
    if let Err(error) = init_hook(shared, entry, &present.generation, asked.runtime.as_ref()).await {
        return Err(fail(shared, entry, error));
    }
    if was == ModuleState::Failed
        && let Err(error) = stop_if_owed(shared, &entry.id, &present.generation, asked.runtime.as_ref()).await
    {
        return Err(fail(shared, entry, error));
    }
    let started = start_hook(shared, &entry.id, &present.generation, asked.runtime.clone()).await;
    match started {
        Ok(()) => {
            // The gate first: whoever sees it running may call it.
            present.seat.gate().open();
            set_state(entry, ModuleState::Running);
            answer(shared, asked.command, Event::ModuleStarted { module_id: entry.id.as_ref().to_owned() });
            Ok(Moved::Yes)
        }
        Err(error) => {
            end_run_tasks(shared, &entry.id, &present.generation).await;
            Err(fail(shared, entry, error))
        }
    }
}

/// Runs `start`; its calls may wait again, because the gate is about to be opened.
pub(crate) async fn start_hook(
    shared: &Shared,
    id: &str,
    generation: &Generation,
    runtime: Option<Handle>,
) -> Result<()> {
    let start = || {
        let (start, started) = (generation.object.start(runtime), generation.started.clone());
        let noted = async move {
            let end = start.await;
            started.store(matches!(end, HookEnd::Ok(_)), SeqCst);
            end
        };
        Box::pin(noted) as BoxFuture<HookEnd<Payload>>
    };
    run_hook(id, "start", shared.limits.start, generation, start).await?;
    match &generation.object {
        Object::Foreign(foreign) => foreign.waiting_calls().reopen(),
        Object::InProcess(module) => module.reopen(),
    }
    Ok(())
}

/// `stop`: Running to Stopped.
async fn stop(shared: &Shared, entry: &Entry, asked: &Asked) -> Result<Moved> {
    match entry.state() {
        ModuleState::Stopped => return Ok(Moved::AlreadyThere),
        ModuleState::Running => {}
        _ => return Err(illegal(entry, ModuleState::Stopped)),
    }
    set_state(entry, ModuleState::Stopping);
    let present = entry.present();
    if !drain(shared, entry, &present).await.drained {
        return Err(fail(shared, entry, stuck_calls(entry, &present)));
    }
    match stop_hook(shared, &entry.id, &present.generation, asked.runtime.as_ref()).await {
        Ok(()) => {
            set_state(entry, ModuleState::Stopped);
            answer(shared, asked.command, Event::ModuleStopped { module_id: entry.id.as_ref().to_owned() });
            Ok(Moved::Yes)
        }
        Err(error) => Err(fail(shared, entry, error)),
    }
}

/// Runs the `stop` that a generation owes which has failed: because calls were inside when it was to stop, or because its
/// `start` ended well past its deadline. Nobody may be inside.
async fn stop_if_owed(
    shared: &Shared,
    id: &str,
    generation: &Generation,
    runtime: Option<&Handle>,
) -> Result<()> {
    if generation.alone(shared.limits.start).await.is_none() {
        return Err(KernelError::HookStuck { module: id.to_owned(), hook: "start" });
    }
    if generation.started.load(SeqCst) {
        return stop_hook(shared, id, generation, runtime).await;
    }
    // What one that ended badly has begun since.
    end_run_tasks(shared, id, generation).await;
    Ok(())
}

/// Runs `stop` and ends the tasks that belong to it. After the drain. What became of it is remembered.
pub(crate) async fn stop_hook(
    shared: &Shared,
    id: &str,
    generation: &Generation,
    runtime: Option<&Handle>,
) -> Result<()> {
    let stop = || generation.object.stop(runtime.cloned());
    let stopped = run_hook(id, "stop", shared.limits.stop, generation, stop).await.map(drop);
    end_run_tasks(shared, id, generation).await;
    if !matches!(stopped, Err(KernelError::HookStuck { .. })) {
        generation.started.store(false, SeqCst);
    }
    *generation.bad_stop.lock() = stopped.as_ref().err().map(stop_outcome);
    stopped
}

/// The same for one that is on its way out; gives what its receipt says of it.
pub(crate) async fn stop_at_the_end(
    shared: &Shared,
    id: &str,
    generation: &Generation,
    runtime: Option<&Handle>,
) -> StopOutcome {
    let stopped = stop_hook(shared, id, generation, runtime).await;
    stopped.map_or_else(|error| stop_outcome(&error), |()| StopOutcome::Ok)
}

/// What a receipt says of a `stop` that did not end well.
fn stop_outcome(error: &KernelError) -> StopOutcome {
    match error {
        KernelError::HookPanicked { .. } => StopOutcome::Panicked,
        KernelError::HookTimedOut { .. } | KernelError::HookStuck { .. } => StopOutcome::TimedOut,
        _ => StopOutcome::Failed,
    }
}

async fn end_run_tasks(shared: &Shared, id: &str, generation: &Generation) {
    if let Object::Foreign(foreign) = &generation.object {
        let ended = foreign.lending().end_tasks(Phase::Run);
        if kernel::within(shared.limits.stop, ended).await.is_none() {
            tracing::warn!(module = id, "a task of the module does not end");
        }
    }
}

pub(crate) fn stuck_calls(entry: &Entry, present: &Present) -> KernelError {
    KernelError::CallsInside { module: entry.id.as_ref().to_owned(), count: present.seat.gate().inside() }
}

/// What a drain came to.
pub(crate) struct Drain {
    /// Whether nobody is inside any more.
    pub(crate) drained: bool,
    /// Calls that came out by themselves.
    pub(crate) came_out: u64,
    /// Waiting calls that were cancelled.
    pub(crate) cancelled: u64,
}

/// Shuts the gate and waits until nobody is inside; past the deadline, what waits is cancelled.
pub(crate) async fn drain(shared: &Shared, entry: &Entry, present: &Present) -> Drain {
    let gate = present.seat.gate();
    let before = gate.shut();
    if kernel::within(shared.limits.drain, gate.drained()).await.is_some() {
        return Drain { drained: true, came_out: before as u64, cancelled: 0 };
    }
    let messages = entry.mailbox.give_up_message();
    let calls = cancel_calls(&present.generation).await;
    let drained = kernel::within(CANCELLING, gate.drained()).await.is_some();
    let calls = match &present.generation.object {
        Object::Foreign(_) => calls,
        // Known only once their callers have polled them.
        Object::InProcess(module) => module.take_cancelled() as usize,
    };
    let cancelled = calls + messages;
    let left = gate.inside();
    Drain { drained, came_out: before.saturating_sub(cancelled + left) as u64, cancelled: cancelled as u64 }
}

/// Cancels the calls that wait; tells how many those were, as far as it is known.
pub(crate) async fn cancel_calls(generation: &Arc<Generation>) -> usize {
    match &generation.object {
        Object::Foreign(foreign) => {
            let generation = generation.clone();
            let run = foreign.waiting_calls().run();
            // Cancelling drops futures of the plugin's: on a life thread, under a ticket.
            let cancelling = hook::run_blocking(
                CANCELLING,
                move || {
                    let Object::Foreign(foreign) = &generation.object else { return 0 };
                    let Some(_ticket) = foreign.lending().ticket() else { return 0 };
                    foreign.lending().within(|| foreign.waiting_calls().cancel_all(run))
                },
                drop,
            );
            cancelling.await.unwrap_or(0)
        }
        Object::InProcess(module) => {
            module.cancel_calls();
            0
        }
    }
}

/// How long cancelled calls may take to be gone.
pub(crate) const CANCELLING: Duration = Duration::from_secs(2);
