//! One loaded build of a module: its object, its seat at the calls gate, and the right to be alone with it.

use std::{
    path::PathBuf,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    hook::Lease,
    object::{InProcess, Object},
};
use crate::{
    boundary::{
        call::Callee,
        failures::Failures,
        frames::Frame,
        module::ForeignModule,
        seat::{Seat, Seats},
    },
    intake::LinkFacts,
    kernel,
    module::AnyModule,
    report::StopOutcome,
};

/// The seats of all generations of this process.
pub(crate) static SEATS: LazyLock<Seats<Generation>> = LazyLock::new(Seats::new);

/// One loaded build of a module.
pub(crate) struct Generation {
    /// 1, 2, 3… within its module.
    pub(crate) number: u64,
    /// Unique in this process.
    pub(crate) unique: u64,
    pub(crate) object: Object,
    /// The file it came from, and what inspecting it found; `None` for an in-process module.
    pub(crate) origin: Option<Origin>,
    /// Whether `init` has run.
    pub(crate) initialised: AtomicBool,
    /// Whether `start` has ended well, be it past its deadline, and `stop` has not run since.
    pub(crate) started: Arc<AtomicBool>,
    /// What became of the last `stop`, unless it ran and said yes: an unload that comes later must know.
    pub(crate) bad_stop: Mutex<Option<StopOutcome>>,
    alone: Arc<Semaphore>,
}

/// Where a foreign generation came from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) path: PathBuf,
    /// The engine's file, where that one is a WASM guest.
    pub(crate) engine: Option<PathBuf>,
    /// Of the library.
    pub(crate) facts: LinkFacts,
}

/// A number that no other generation or module of this process has.
pub(crate) fn unique_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, SeqCst)
}

impl Generation {
    pub(crate) fn foreign(number: u64, module: ForeignModule, origin: Origin) -> Self {
        let unique = module.lending().generation;
        Self::new(number, unique, Object::Foreign(module), Some(origin))
    }

    pub(crate) fn in_process(number: u64, module_number: u64, module: AnyModule) -> Self {
        let unique = unique_number();
        let frame = Frame { module: module_number, generation: unique, is_call: false };
        Self::new(number, unique, Object::InProcess(InProcess::new(module, frame)), None)
    }

    fn new(number: u64, unique: u64, object: Object, origin: Option<Origin>) -> Self {
        Self {
            number,
            unique,
            object,
            origin,
            initialised: AtomicBool::new(false),
            started: Arc::default(),
            bad_stop: Mutex::new(None),
            alone: Arc::new(Semaphore::new(1)),
        }
    }

    /// What went wrong in it so far; of an in-process module nobody counts that.
    pub(crate) fn failures(&self) -> Option<&Arc<Failures>> {
        self.foreign().map(ForeignModule::failures)
    }

    /// Waits to be alone with the object; `None` when an earlier hook still has it after `limit`.
    pub(crate) async fn alone(&self, limit: Duration) -> Option<Lease> {
        kernel::within(limit, self.alone.clone().acquire_owned()).await.and_then(Result::ok)
    }
}

impl Callee for Generation {
    fn foreign(&self) -> Option<&ForeignModule> {
        match &self.object {
            Object::Foreign(module) => Some(module),
            Object::InProcess(_) => None,
        }
    }
}

/// A generation's seat.
pub(crate) type GenerationSeat = &'static Seat<Generation>;
