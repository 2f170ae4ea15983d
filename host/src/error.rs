//! Everything that can go wrong, typed, each with a code for programs and a hint for people.

use std::{path::PathBuf, time::Duration};

use oxide_plugin_api::{ErrorKind, ModuleState};

use crate::{
    intake::{Refusal, RefusalReason},
    report::SwapStep,
};

/// What the host's functions return.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// Why the host could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A module said no, in its own words.
    #[error("{0}")]
    Module(String),
    /// The id is taken.
    #[error("a module with the id `{}` is already registered", .0.escape_debug())]
    DuplicateModule(String),
    /// No module has this id.
    #[error("no module has the id `{}`", .0.escape_debug())]
    UnknownModule(String),
    /// The bus could not carry a message.
    #[error("{0}")]
    Bus(String),
    /// The publisher lacks a capability.
    #[error("`{publisher}` may not do this: it lacks the capability `{capability}`")]
    Denied {
        /// Who wanted to.
        publisher: String,
        /// What it lacks.
        capability: String,
    },
    /// The id is empty, too long, or holds characters that an id may not hold.
    #[error("`{}` cannot be a module's id: {problem}", abbreviate(.id))]
    InvalidId {
        /// The id.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file was refused before any of its code ran.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The private copy could not be made, or its folder not prepared.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The module does not know this method.
    #[error("module `{module}` has no method `{}`", abbreviate(.method))]
    UnknownMethod {
        /// Which module.
        module: String,
        /// The method.
        method: String,
    },
    /// A hook returned an error.
    #[error("{hook} of module `{module}` failed: {message}")]
    HookFailed {
        /// Which module.
        module: String,
        /// Which hook.
        hook: &'static str,
        /// Its message.
        message: String,
        /// What caused it, nearest first.
        chain: Vec<String>,
    },
    /// A hook panicked; the panic went no further.
    #[error("{hook} of module `{module}` panicked: {message}")]
    HookPanicked {
        /// Which module.
        module: String,
        /// Which hook.
        hook: &'static str,
        /// The panic's message, and where it happened.
        message: String,
    },
    /// A hook did not end within its deadline.
    #[error("{hook} of module `{module}` did not end within {after:?}")]
    HookTimedOut {
        /// Which module.
        module: String,
        /// Which hook.
        hook: &'static str,
        /// Its deadline.
        after: Duration,
    },
    /// A hook that ran past its deadline is still inside the object.
    #[error(
        "module `{module}` is still held by an earlier hook that ran past its deadline, so {hook} cannot run"
    )]
    HookStuck {
        /// Which module.
        module: String,
        /// Which hook.
        hook: &'static str,
    },
    /// Calls did not come out of the module before the deadline.
    #[error("calls are still inside module `{module}` ({count} of them), so its hooks cannot run")]
    CallsInside {
        /// Which module.
        module: String,
        /// How many.
        count: usize,
    },
    /// The module is not in a state in which it can do this.
    #[error("module `{module}` is {from}, so it cannot become {to}")]
    IllegalTransition {
        /// Which module.
        module: String,
        /// Where it stands.
        from: ModuleState,
        /// Where it was to go.
        to: ModuleState,
    },
    /// Only a running module answers calls.
    #[error("module `{module}` is {state}, not running, so it takes no calls")]
    NotRunning {
        /// Which module.
        module: String,
        /// Where it stands.
        state: ModuleState,
    },
    /// A module waited for its own end, from inside one of its own calls.
    #[error("module `{module}` cannot wait for its own {action}")]
    SelfWait {
        /// Which module.
        module: String,
        /// What it wanted to wait for.
        action: &'static str,
    },
    /// The call still waited when the module's time to drain, for a stop or an unload, was over.
    #[error("the call of `{method}` was cancelled: module `{module}` is being stopped")]
    Cancelled {
        /// Which module.
        module: String,
        /// The method.
        method: String,
    },
    /// A swap failed; the old generation goes on as if nothing had happened.
    #[error("the swap of module `{module}` failed at {step}; generation {generation} goes on")]
    SwapFailed {
        /// Which module.
        module: String,
        /// At which step.
        step: SwapStep,
        /// The generation that goes on.
        generation: u64,
        /// What failed.
        source: Box<KernelError>,
    },
    /// The file holds the very bytes of the build that is loaded.
    #[error("module `{module}` already runs this very build (generation {generation})")]
    SameBuild {
        /// Which module.
        module: String,
        /// The generation that has these bytes.
        generation: u64,
    },
    /// The file is a build of another module.
    #[error("this is a build of module `{found}`, expected one of `{module}`")]
    OtherModule {
        /// Which module was to be swapped.
        module: String,
        /// What the build calls itself.
        found: String,
    },
    /// There is nothing to go back to.
    #[error("module `{0}` has no previous build to go back to")]
    NoPreviousBuild(String),
    /// Somebody else has swapped the module meanwhile.
    #[error("module `{module}` has been swapped meanwhile")]
    Superseded {
        /// Which module.
        module: String,
    },
    /// So many generations of the module are still mapped that no further one is loaded.
    #[error("{count} earlier generations of module `{module}` are still mapped: {list}")]
    TooManyRetained {
        /// Which module.
        module: String,
        /// How many.
        count: usize,
        /// Which, and by whom they are held.
        list: String,
    },
    /// The state that `save_state` gave is larger than the host's limit.
    #[error("the state of module `{module}` has {found} bytes, more than the {limit} that are allowed")]
    StateTooLarge {
        /// Which module.
        module: String,
        /// Its bytes.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A swap would have held more calls than the host's limit. None of them fails.
    #[error("more than {limit} calls of module `{module}` would have had to wait")]
    TooManyHeld {
        /// Which module.
        module: String,
        /// The limit.
        limit: usize,
    },
    /// A swap would have held calls for longer than the host's limit. None of them fails.
    #[error("the calls of module `{module}` would have had to wait for more than {after:?}")]
    HeldTooLong {
        /// Which module.
        module: String,
        /// The limit.
        after: Duration,
    },
    /// Whoever asked for it has gone away before it was done.
    #[error("whoever asked for it went away")]
    Abandoned,
    /// The host is shutting down, or its service threads are gone.
    #[error("the host is shutting down")]
    ShuttingDown,
    /// There is no engine to run WASM guests.
    #[error("there is no engine for WASM guests at {}", places(.looked))]
    NoWasmEngine {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A library that is being opened or closed has blocked the loader.
    #[error("loading is stuck: {0}")]
    LoaderStuck(String),
    /// The host itself could not be set up.
    #[error("{0}")]
    Setup(String),
}

impl KernelError {
    /// A module's own error, as a hook of an in-process module returns it.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self::Module(message.to_string())
    }

    /// The answer of an in-process module's `invoke` to a method that it does not know.
    pub fn unknown_method(method: impl std::fmt::Display) -> Self {
        Self::UnknownMethod { module: String::new(), method: method.to_string() }
    }

    /// Its name for programs. Never renamed.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Module(_) => "module",
            Self::DuplicateModule(_) => "duplicate_module",
            Self::UnknownModule(_) => "unknown_module",
            Self::Bus(_) => "bus",
            Self::Denied { .. } => "denied",
            Self::InvalidId { .. } => "invalid_id",
            Self::Refused(refusal) => refusal.reason.as_str(),
            Self::Io { .. } => "io",
            Self::UnknownMethod { .. } => "unknown_method",
            Self::HookFailed { .. } => "hook_failed",
            Self::HookPanicked { .. } => "hook_panicked",
            Self::HookTimedOut { .. } => "hook_timed_out",
            Self::HookStuck { .. } => "hook_stuck",
            Self::CallsInside { .. } => "calls_inside",
            Self::IllegalTransition { .. } => "illegal_transition",
            Self::NotRunning { .. } => "not_running",
            Self::SelfWait { .. } => "self_wait",
            Self::Cancelled { .. } => "cancelled",
            Self::SwapFailed { .. } => "swap_failed",
            Self::SameBuild { .. } => "same_build",
            Self::OtherModule { .. } => "other_module",
            Self::NoPreviousBuild(_) => "no_previous_build",
            Self::Superseded { .. } => "superseded",
            Self::TooManyRetained { .. } => "too_many_retained",
            Self::StateTooLarge { .. } => "state_too_large",
            Self::TooManyHeld { .. } => "too_many_held",
            Self::HeldTooLong { .. } => "held_too_long",
            Self::Abandoned => "abandoned",
            Self::ShuttingDown => "shutting_down",
            Self::NoWasmEngine { .. } => "no_wasm_engine",
            Self::LoaderStuck(_) => "loader_stuck",
            Self::Setup(_) => "setup",
        }
    }

    /// What to do about it, in one line, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::DuplicateModule(id) => {
                format!("unload `{id}` first, or load this file under another id with --id")
            }
            Self::UnknownModule(_) => "`oxide-host list` shows the modules there are".to_owned(),
            Self::InvalidId { .. } => {
                "an id is 1 to 128 bytes, without `/` and control characters, and begins with no `-`"
                    .to_owned()
            }
            Self::NotRunning { module, .. } => format!("`oxide-host start {module}` starts it"),
            Self::HookTimedOut { .. } => {
                "the deadlines are set in the host's configuration (`init_timeout`, `start_timeout`, \
                 `stop_timeout`)"
                    .to_owned()
            }
            Self::HookStuck { .. } => {
                "it can be started again once that hook returns, or replaced under another id".to_owned()
            }
            // There are commands for these two.
            Self::SelfWait { action: action @ ("start" | "stop"), .. } => {
                format!(
                    "ask for the {action} from outside the module's own calls, or by a command on the bus"
                )
            }
            Self::SelfWait { action, .. } => {
                format!("ask for the {action} from outside the module's own calls")
            }
            Self::SwapFailed { source, .. } => return source.hint(),
            Self::SameBuild { .. } => "`--force` loads it all the same, as a new generation".to_owned(),
            Self::OtherModule { found, .. } => {
                format!("load it beside this one, or name `{found}` in place of it")
            }
            Self::NoPreviousBuild(_) => "a module has one after its first swap".to_owned(),
            Self::TooManyRetained { .. } => {
                "`oxide-host retained` shows what holds them; the limit is `retained` in the host's configuration"
                    .to_owned()
            }
            Self::StateTooLarge { .. } => "the limit is `state_bytes` in the host's configuration".to_owned(),
            Self::TooManyHeld { .. } => "the limit is `held_calls` in the host's configuration".to_owned(),
            Self::HeldTooLong { .. } => "the limit is `hold_timeout` in the host's configuration".to_owned(),
            Self::NoWasmEngine { .. } => {
                "`scripts/wasm-runtime.sh build`, in the host's sources, builds it; `wasm_engine` in the \
                 host's configuration says where it is"
                    .to_owned()
            }
            Self::LoaderStuck(_) => "restart the host without that file".to_owned(),
            _ => return None,
        })
    }

    /// The error and everything that caused it, one step each.
    pub fn chain(&self) -> Vec<String> {
        let mut steps = chain(self);
        // The causes of a plugin's error crossed the wall as text.
        if let Self::HookFailed { chain, .. } = self.at_the_root() {
            steps.extend(chain.iter().cloned());
        }
        steps
    }

    /// The error and everything that caused it, in one line.
    pub fn in_full(&self) -> String {
        self.chain().join(": ")
    }

    /// What failed, when a swap did; otherwise the error itself.
    pub(crate) fn at_the_root(&self) -> &Self {
        match self {
            Self::SwapFailed { source, .. } => source.at_the_root(),
            other => other,
        }
    }

    /// The kind of refusal, when it is one.
    pub fn refusal(&self) -> Option<RefusalReason> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason),
            Self::SwapFailed { source, .. } => source.refusal(),
            _ => None,
        }
    }
}

/// An error and what caused it. A wrapper that only repeats its source counts once.
pub(crate) fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut steps = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if steps.last() != Some(&text) {
            steps.push(text);
        }
        next = cause.source();
    }
    steps
}

fn places(looked: &[PathBuf]) -> String {
    let shown: Vec<String> = looked.iter().map(|place| format!("`{}`", place.display())).collect();
    if shown.is_empty() { "any place that is known".to_owned() } else { shown.join(", ") }
}

/// The first 64 characters of a name that came from outside, safe to print.
fn abbreviate(name: &str) -> String {
    let mut short: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    if name.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

impl From<Refusal> for KernelError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<oxide_plugin_api::Error> for KernelError {
    fn from(error: oxide_plugin_api::Error) -> Self {
        if error.kind() == ErrorKind::UnknownMethod {
            return Self::unknown_method(error.message());
        }
        let mut message = error.to_string();
        for cause in error.chain() {
            message.push_str(": ");
            message.push_str(cause);
        }
        Self::Module(message)
    }
}

impl From<serde_json::Error> for KernelError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error)
    }
}

impl From<std::io::Error> for KernelError {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}
