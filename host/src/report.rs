//! What the host says about modules, unloads and swaps: one serde type for the table, `--json` and the API.

use std::path::PathBuf;

use oxide_plugin_api::{ModuleKind, ModuleMetadata, ModuleState};
use serde::{Deserialize, Serialize};

/// A module under management.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModuleInfo {
    /// The id it is managed under.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Native or wasm.
    pub kind: ModuleKind,
    /// Where it stands in its life.
    pub state: ModuleState,
    /// One line on what it does.
    pub description: Option<String>,
    /// The number of the loaded build: 1, 2, 3…
    pub generation: u64,
    /// The file it was loaded from; `None` for an in-process module.
    pub path: Option<PathBuf>,
    /// The engine's library, where that file is a WASM guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<PathBuf>,
    /// Why it failed, when `state` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// For how much longer, in milliseconds, its build is on probation, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation_millis: Option<u64>,
    /// Why its library will stay mapped after an unload, when its file already says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained_by: Vec<Retention>,
}

impl ModuleInfo {
    /// Puts together what the registry knows of a module.
    pub(crate) fn new(metadata: ModuleMetadata, state: ModuleState, generation: u64) -> Self {
        let ModuleMetadata { id, name, version, kind, description } = metadata;
        Self {
            id,
            name,
            version,
            kind,
            state,
            description,
            generation,
            path: None,
            engine: None,
            failure: None,
            probation_millis: None,
            retained_by: Vec::new(),
        }
    }
}

/// What an unload did: what was drained, stopped and revoked, and whether the mapping is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The module.
    pub id: String,
    /// The generation that was unloaded.
    pub generation: u64,
    /// Whether the library is gone from the process: looked at, not assumed. Always true for an in-process
    /// module, of which nothing was mapped.
    pub unmapped: bool,
    /// Why it was kept, if it was.
    pub retained_by: Vec<Retention>,
    /// Calls that were inside when the gate was shut and came out by themselves.
    pub drained: u64,
    /// Waiting calls that were cancelled at the drain's deadline.
    pub cancelled: u64,
    /// What became of the `stop` hook.
    pub stop: StopOutcome,
    /// What became of the object's destructor.
    pub drop: DropOutcome,
    /// Bytes the generation allocated and never freed, which went with its heap. `None` (`"unknown"` in JSON)
    /// when it has an allocator of its own, or is still mapped.
    #[serde(with = "leaked_bytes")]
    pub leaked_bytes: Option<u64>,
    /// Destructors of thread-locals that never ran, because their threads did not come by for 10 s.
    #[serde(default)]
    pub forgotten_locals: u64,
    /// Handles that the plugin still held (bus subscriptions, timers, tasks) and that were taken back.
    #[serde(default)]
    pub revoked: u64,
}

/// A number, or the word `unknown`.
mod leaked_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_u64(*bytes),
            None => serializer.serialize_str("unknown"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(word) if word == "unknown" => Ok(None),
            Value::Number(number) => Ok(number.as_u64()),
            _ => Err(D::Error::custom("neither a number nor `unknown`")),
        }
    }
}

/// One reason why a generation is still mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retention {
    /// What sort of thing holds it.
    pub holder: Holder,
    /// How many of them.
    pub count: u64,
    /// Which, in words.
    pub detail: String,
}

/// What can hold a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Holder {
    /// A call is still inside.
    Call,
    /// Something the host lent is still out.
    Handle,
    /// A buffer of the plugin's is still lent to the host.
    Buffer,
    /// A thread it started is still running.
    Thread,
    /// A thread-local destructor is registered on a living thread.
    ThreadLocal,
    /// A signal handler points into it.
    SignalHandler,
    /// It imports a function whose effects the host cannot see or undo.
    ForeignImport,
    /// The dynamic loader was told to keep it.
    Loader,
    /// Its `stop` failed, panicked, timed out or was skipped.
    Stop,
    /// This platform is not proven to unload.
    Platform,
}

/// What became of the `stop` hook in an unload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopOutcome {
    /// It ran and said yes.
    Ok,
    /// It returned an error.
    Failed,
    /// It did not end in time.
    TimedOut,
    /// It panicked.
    Panicked,
    /// It was not run, because a call was still inside.
    Skipped,
    /// The module was not running, as far as was known, so there was nothing to stop.
    NotRunning,
}

/// What became of the object's destructor in an unload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DropOutcome {
    /// It ran.
    Ok,
    /// It panicked; the rest of the unload went on.
    Panicked,
    /// It was not run, because something may still be inside the object.
    Skipped,
}

/// What a swap did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SwapReport {
    /// The module.
    pub id: String,
    /// The generation before.
    pub from: u64,
    /// The generation now.
    pub to: u64,
    /// The version before.
    pub from_version: String,
    /// The version now.
    pub to_version: String,
    /// Whether the version now is lower, as [semantic versions](https://semver.org) are compared; `false` when one of
    /// them is none.
    pub downgrade: bool,
    /// Whether the old generation's state was handed over. Without one nobody waits.
    pub state_moved: bool,
    /// Calls that waited while the state was handed over.
    pub held_calls: u64,
    /// How long fresh calls were held, in microseconds; 0 when none were.
    pub hold_micros: u64,
    /// What became of the old generation.
    pub old: Receipt,
}

/// A step of a swap, for telling which one failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SwapStep {
    /// Looking at the file, as bytes.
    Inspect,
    /// Making the private copy.
    Stage,
    /// Opening the library (its constructors run), and comparing the tables.
    Open,
    /// Constructing the module.
    Constructor,
    /// Asking it what it is.
    Metadata,
    /// `configure`.
    Configure,
    /// `init`, or `instantiate`.
    Init,
    /// Waiting for the calls inside the old generation to come out.
    Drain,
    /// The old generation's `save_state`.
    SaveState,
    /// The new one's `restore_state`.
    RestoreState,
    /// The new one's `start`.
    Start,
    /// Leading calls to it.
    Switch,
}

impl std::fmt::Display for SwapStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Inspect => "inspect",
            Self::Stage => "stage",
            Self::Open => "open",
            Self::Constructor => "constructor",
            Self::Metadata => "metadata",
            Self::Configure => "configure",
            Self::Init => "init",
            Self::Drain => "drain",
            Self::SaveState => "save_state",
            Self::RestoreState => "restore_state",
            Self::Start => "start",
            Self::Switch => "switch",
        })
    }
}

/// A generation that could not be unmapped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retained {
    /// The module it belonged to.
    pub id: String,
    /// Its number.
    pub generation: u64,
    /// The file it was loaded from.
    pub path: PathBuf,
    /// Why it is still mapped.
    pub retained_by: Vec<Retention>,
}
