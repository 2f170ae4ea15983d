//! Which modules there are: one entry each, and the ids that are taken.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use oxide_plugin_api::{ModuleMetadata, ModuleState};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::{guest::Material, lifecycle::Op, limits::Limits, mailbox::Mailbox};
use crate::{
    boundary::{hold::Hold, seat::Route},
    bus::MessageBus,
    error::{KernelError, Result},
    life::{
        generation::{Generation, GenerationSeat, SEATS},
        undertaker,
    },
    report::ModuleInfo,
};

/// A module under management.
pub(crate) struct Entry {
    pub(crate) id: Arc<str>,
    /// The module's number, as its frames carry it.
    pub(crate) number: u64,
    pub(crate) state: watch::Sender<ModuleState>,
    pub(crate) failure: Mutex<Option<String>>,
    pub(crate) route: Route<Generation>,
    /// The build that is managed now. Only the actor replaces it.
    present: RwLock<Arc<Present>>,
    /// The build before it, for a rollback.
    pub(crate) previous: Mutex<Option<Build>>,
    /// The generation on probation, and until when it is.
    pub(crate) probation: Mutex<Option<(u64, Instant)>>,
    /// Calls wait here while a swap hands the state over.
    pub(crate) hold: Hold,
    /// Swaps of this module take turns.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// What is to be done with it, one thing after the other.
    pub(crate) ops: mpsc::UnboundedSender<Op>,
    pub(crate) mailbox: Mailbox,
}

/// A generation in the place where a module's calls go.
pub(crate) struct Present {
    pub(crate) generation: Arc<Generation>,
    pub(crate) seat: GenerationSeat,
    pub(crate) metadata: ModuleMetadata,
    /// The id by which the build calls itself.
    pub(crate) own_id: String,
    /// What to make it from again; `None` for an in-process module, and once it is on its way out.
    pub(crate) build: Mutex<Option<Build>>,
    /// Whether it is known to have a state, so that it need not be asked.
    pub(crate) has_state: AtomicBool,
}

impl Present {
    /// Gives a generation its seat, the gate shut.
    pub(crate) fn new(
        generation: Arc<Generation>,
        metadata: ModuleMetadata,
        own_id: String,
        build: Option<Build>,
    ) -> Self {
        let seat = SEATS.take(generation.clone());
        Self {
            generation,
            seat,
            metadata,
            own_id,
            build: Mutex::new(build),
            has_state: AtomicBool::new(false),
        }
    }
}

/// What a generation of a plugin is made from.
#[derive(Clone)]
pub(crate) struct Build {
    /// Its private copy stays as long as this does.
    pub(crate) material: Material,
    /// Where it was loaded from.
    pub(crate) path: PathBuf,
    pub(crate) config: Value,
}

impl Entry {
    pub(crate) fn state(&self) -> ModuleState {
        *self.state.borrow()
    }

    pub(crate) fn new(
        id: Arc<str>,
        number: u64,
        present: Present,
        ops: mpsc::UnboundedSender<Op>,
        limits: &Limits,
    ) -> Self {
        Self {
            id,
            number,
            state: watch::Sender::new(ModuleState::Loaded),
            failure: Mutex::new(None),
            route: Route::to(present.seat),
            present: RwLock::new(Arc::new(present)),
            previous: Mutex::new(None),
            probation: Mutex::new(None),
            hold: Hold::new(limits.held),
            turn: tokio::sync::Mutex::new(()),
            ops,
            mailbox: Mailbox::new(),
        }
    }

    /// The build that is managed now.
    pub(crate) fn present(&self) -> Arc<Present> {
        self.present.read().clone()
    }

    /// Puts another build in its place, and leads calls to it from now on. For the actor.
    pub(crate) fn replace(&self, new: Arc<Present>) {
        let seat = new.seat;
        *self.present.write() = new;
        self.route.lead_to(seat);
    }

    pub(crate) fn info(&self) -> ModuleInfo {
        let present = self.present();
        let generation = &present.generation;
        let mut info = ModuleInfo::new(present.metadata.clone(), self.state(), generation.number);
        if let Some(origin) = &generation.origin {
            info.path = Some(origin.path.clone());
            info.engine.clone_from(&origin.engine);
            info.retained_by = undertaker::static_holders(&origin.facts);
        }
        if let Some((unique, until)) = *self.probation.lock()
            && unique == generation.unique
        {
            let left = until.saturating_duration_since(Instant::now());
            info.probation_millis = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        }
        if info.state == ModuleState::Failed {
            info.failure.clone_from(&self.failure.lock());
        }
        info
    }

    pub(crate) fn not_running(&self) -> KernelError {
        KernelError::NotRunning { module: self.id.as_ref().to_owned(), state: self.state() }
    }
}

/// What all modules of one manager share.
pub(crate) struct Shared {
    pub(crate) bus: MessageBus,
    pub(crate) limits: Limits,
    /// The last manager is gone: what is registered from now on is unloaded at once.
    pub(crate) abandoned: AtomicBool,
    /// Each swap holds it for reading until its old generation has ended; a shutdown waits for that.
    pub(crate) swaps: Arc<tokio::sync::RwLock<()>>,
    modules: RwLock<HashMap<Arc<str>, Slot>>,
}

enum Slot {
    /// Somebody is about to register it.
    Reserved,
    Taken(Arc<Entry>),
    /// The module of this number is gone, but that is not announced yet: the receiver ends when it is. The
    /// id is free.
    Leaving(u64, watch::Receiver<()>),
}

/// An id that is taken for a module not registered yet. Given back by being dropped.
pub(crate) struct Reservation {
    shared: Arc<Shared>,
    id: Option<Arc<str>>,
    /// Ends when the one before under this id has been announced to be gone.
    before: Option<watch::Receiver<()>>,
}

/// A module that is gone, until that has been announced.
pub(crate) struct Departure {
    shared: Arc<Shared>,
    id: Arc<str>,
    number: u64,
    /// Dropped last, after the slot is free.
    _told: watch::Sender<()>,
}

impl Drop for Departure {
    fn drop(&mut self) {
        let mut modules = self.shared.modules.write();
        // Somebody may have taken the id over by now.
        if matches!(modules.get(&self.id), Some(Slot::Leaving(number, _)) if *number == self.number) {
            modules.remove(&self.id);
        }
    }
}

impl Shared {
    pub(crate) fn new(bus: MessageBus, limits: Limits) -> Self {
        Self {
            bus,
            limits,
            abandoned: AtomicBool::new(false),
            swaps: Arc::default(),
            modules: RwLock::default(),
        }
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Entry>> {
        match self.modules.read().get(id) {
            Some(Slot::Taken(entry)) => Ok(entry.clone()),
            _ => Err(KernelError::UnknownModule(id.to_owned())),
        }
    }

    /// All modules, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self
            .modules
            .read()
            .values()
            .filter_map(|slot| match slot {
                Slot::Taken(entry) => Some(entry.clone()),
                Slot::Reserved | Slot::Leaving(..) => None,
            })
            .collect();
        entries.sort_by(|one, other| one.id.cmp(&other.id));
        entries
    }

    /// Takes an id.
    ///
    /// # Errors
    /// [`KernelError::InvalidId`], [`KernelError::DuplicateModule`].
    pub(crate) fn reserve(self: &Arc<Self>, id: &str) -> Result<Reservation> {
        check_id(id)?;
        let id: Arc<str> = id.into();
        let mut modules = self.modules.write();
        let before = match modules.get(&id) {
            None => None,
            Some(Slot::Leaving(_, told)) => Some(told.clone()),
            Some(Slot::Reserved | Slot::Taken(_)) => {
                return Err(KernelError::DuplicateModule(id.as_ref().to_owned()));
            }
        };
        modules.insert(id.clone(), Slot::Reserved);
        Ok(Reservation { shared: self.clone(), id: Some(id), before })
    }

    /// Takes a module off the list. To be announced before what this gives is dropped.
    pub(crate) fn depart(self: &Arc<Self>, entry: &Entry) -> Departure {
        let (told, leaving) = watch::channel(());
        self.modules.write().insert(entry.id.clone(), Slot::Leaving(entry.number, leaving));
        Departure { shared: self.clone(), id: entry.id.clone(), number: entry.number, _told: told }
    }
}

impl Reservation {
    pub(crate) fn id(&self) -> Arc<str> {
        self.id.clone().unwrap_or_else(|| "".into())
    }

    /// Waits until the end of the one before under this id has been announced: whoever follows the
    /// announcements sees one life after the other.
    pub(crate) async fn after_the_one_before(&mut self) {
        if let Some(mut before) = self.before.take() {
            while before.changed().await.is_ok() {}
        }
    }

    /// Registers the module.
    pub(crate) fn register(mut self, entry: Arc<Entry>) {
        if let Some(id) = self.id.take() {
            self.shared.modules.write().insert(id, Slot::Taken(entry));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.shared.modules.write().remove(id);
        }
    }
}

/// The longest id, in bytes.
const LONGEST_ID: usize = 128;

/// Names that are sources on the bus and no modules: the manager's, and the command line's.
const RESERVED: [&str; 2] = [super::announce::KERNEL, "operator"];

/// Whether a module may be managed under this id.
///
/// # Errors
/// [`KernelError::InvalidId`] says what is wrong with it.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let problem = if id.is_empty() {
        "it is empty".to_owned()
    } else if id.len() > LONGEST_ID {
        format!("it is {} bytes long, more than {LONGEST_ID}", id.len())
    } else if let Some(character) = id.chars().find(|character| character.is_control()) {
        format!("it holds the control character {character:?}")
    } else if id.contains('/') {
        "it holds a `/`".to_owned()
    } else if id.starts_with('-') {
        "it begins with `-`, as options do".to_owned()
    } else if RESERVED.contains(&id) {
        "the host itself speaks under this name".to_owned()
    } else if id.trim() != id {
        "it begins or ends with white space".to_owned()
    } else {
        return Ok(());
    };
    Err(KernelError::InvalidId { id: id.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_ids_are_refused_and_sensible_ones_taken() {
        for id in ["", " x", "-x", "kernel", "operator", "a/b", "a\nb", "\u{7f}", &"x".repeat(129)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["echo", "my module", "ümläut", "a.b-c_d", &"x".repeat(128)] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
    }
}
