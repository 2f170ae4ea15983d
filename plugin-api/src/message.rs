//! What travels on the bus. These types are defined once, here, and the host re-exports them; they cross
//! the wall as JSON text.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// One message with its circumstances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// This message's own id.
    pub id: Uuid,
    /// Who sent it: a module's id, `"kernel"` for the manager, or what an embedder calls itself. The host
    /// writes a plugin's id here, whatever the plugin said.
    pub source: String,
    /// The id of the message that this one answers.
    pub correlation_id: Option<Uuid>,
    /// When it was made.
    pub timestamp: DateTime<Utc>,
    /// The message itself.
    pub message: Message,
}

impl Envelope {
    /// A new message from `source`, with a fresh id and the present time.
    pub fn new(source: impl Into<String>, message: impl Into<Message>) -> Self {
        Self {
            id: Uuid::new_v4(),
            source: source.into(),
            correlation_id: None,
            timestamp: Utc::now(),
            message: message.into(),
        }
    }

    /// The same message, marked as the answer to `id`.
    #[must_use]
    pub fn answering(mut self, id: Uuid) -> Self {
        self.correlation_id = Some(id);
        self
    }
}

/// What an envelope holds: something to do, or something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Something to do.
    Command(Command),
    /// Something that happened.
    Event(Event),
}

impl Message {
    /// The module it is about or addressed to, if any.
    pub fn module_id(&self) -> Option<&str> {
        match self {
            Self::Command(command) => command.module_id(),
            Self::Event(event) => event.module_id(),
        }
    }
}

impl From<Command> for Message {
    fn from(command: Command) -> Self {
        Self::Command(command)
    }
}

impl From<Event> for Message {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// Something to do. A manager on the bus acts on it and answers with an event that carries the command's
/// id as `correlation_id`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[non_exhaustive]
pub enum Command {
    /// Start a module; answered by [`Event::ModuleStarted`], by [`Event::CommandCompleted`] when it was
    /// running already, by [`Event::CommandScheduled`] when the module itself asked, or by
    /// [`Event::CommandFailed`].
    Start {
        /// Which one.
        module_id: String,
    },
    /// Stop a module; answered as [`Command::Start`] is, with [`Event::ModuleStopped`].
    Stop {
        /// Which one.
        module_id: String,
    },
    /// Call a module; answered by [`Event::InvokeCompleted`] or [`Event::CommandFailed`].
    Invoke {
        /// Which one.
        module_id: String,
        /// The method's name.
        method: String,
        /// Its argument; the module gets it as JSON text.
        payload: Value,
    },
    /// Ask who is there; answered by [`Event::Pong`].
    Ping,
}

impl Command {
    /// The module it is addressed to, if any.
    pub fn module_id(&self) -> Option<&str> {
        match self {
            Self::Start { module_id } | Self::Stop { module_id } | Self::Invoke { module_id, .. } => {
                Some(module_id)
            }
            Self::Ping => None,
        }
    }
}

/// Something that happened. The manager's own events come from source `"kernel"`, each once and only after
/// it is true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[non_exhaustive]
pub enum Event {
    /// A module was registered.
    ModuleLoaded {
        /// Which one.
        module_id: String,
    },
    /// A module is running.
    ModuleStarted {
        /// Which one.
        module_id: String,
    },
    /// A module has stopped.
    ModuleStopped {
        /// Which one.
        module_id: String,
    },
    /// A module's hook failed, panicked or took too long.
    ModuleFailed {
        /// Which one.
        module_id: String,
        /// The error, in words.
        reason: String,
    },
    /// A module went over to another build.
    ModuleSwapped {
        /// Which one.
        module_id: String,
        /// The generation before.
        from: u64,
        /// The generation now.
        to: u64,
    },
    /// A build on probation failed, and its module went back to the build before; announced by
    /// [`Event::ModuleSwapped`], too.
    ModuleRolledBack {
        /// Which one.
        module_id: String,
        /// The generation that failed.
        from: u64,
        /// The generation now.
        to: u64,
        /// What it did wrong.
        reason: String,
    },
    /// A build on probation failed, and its module could not go back to the build before: it stays.
    RollbackFailed {
        /// Which one.
        module_id: String,
        /// What the build did wrong, and why it stays.
        reason: String,
    },
    /// A module is no longer registered.
    ModuleUnloaded {
        /// Which one.
        module_id: String,
        /// The unload's receipt, as `--json` shows it.
        receipt: Value,
    },
    /// The library of a module that was unloaded, and retained then, is gone after all.
    ModuleUnmapped {
        /// The module it belonged to.
        module_id: String,
        /// The receipt as it stands now.
        receipt: Value,
    },
    /// The answer to [`Command::Invoke`].
    InvokeCompleted {
        /// Which one answered.
        module_id: String,
        /// The reply: the JSON it holds, else its text, else `{"base64": "…"}`.
        payload: Value,
    },
    /// A command had nothing to change: what it asks for is so already.
    CommandCompleted {
        /// Which one.
        module_id: String,
    },
    /// A module asked for its own start or stop: it will be done when its present calls allow.
    CommandScheduled {
        /// Which one.
        module_id: String,
    },
    /// A command could not be carried out.
    CommandFailed {
        /// The module it was addressed to, if any.
        module_id: Option<String>,
        /// The error, in words.
        error: String,
    },
    /// Whatever a module or an embedder wants to say.
    Custom {
        /// The module it is about; a module other than the source finds it in its `on_message`.
        module_id: String,
        /// What kind of event.
        kind: String,
        /// Its content.
        payload: Value,
    },
    /// The answer to [`Command::Ping`].
    Pong {
        /// Who answered.
        from: String,
    },
}

impl Event {
    /// The module it is about, if any.
    pub fn module_id(&self) -> Option<&str> {
        match self {
            Self::ModuleLoaded { module_id }
            | Self::ModuleStarted { module_id }
            | Self::ModuleStopped { module_id }
            | Self::ModuleFailed { module_id, .. }
            | Self::ModuleSwapped { module_id, .. }
            | Self::ModuleRolledBack { module_id, .. }
            | Self::RollbackFailed { module_id, .. }
            | Self::ModuleUnloaded { module_id, .. }
            | Self::ModuleUnmapped { module_id, .. }
            | Self::InvokeCompleted { module_id, .. }
            | Self::CommandCompleted { module_id }
            | Self::CommandScheduled { module_id }
            | Self::Custom { module_id, .. } => Some(module_id),
            Self::CommandFailed { module_id, .. } => module_id.as_deref(),
            Self::Pong { .. } => None,
        }
    }
}

/// Which messages a subscription wants: those that match every condition given. The default wants all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Filter {
    /// Only messages of this class.
    pub class: Option<MessageClass>,
    /// Only messages from this source.
    pub source: Option<String>,
    /// Only messages about, or addressed to, this module.
    pub module_id: Option<String>,
    /// Only custom events of this kind.
    pub kind: Option<String>,
    /// Only answers to the message with this id.
    pub correlation_id: Option<Uuid>,
}

/// The two classes of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageClass {
    /// [`Message::Command`].
    Command,
    /// [`Message::Event`].
    Event,
}

impl Filter {
    /// Wants everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Wants events only.
    pub fn events() -> Self {
        Self { class: Some(MessageClass::Event), ..Self::default() }
    }

    /// Wants commands only.
    pub fn commands() -> Self {
        Self { class: Some(MessageClass::Command), ..Self::default() }
    }

    /// Wants, in addition, this source.
    #[must_use]
    pub fn from_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wants, in addition, this module.
    #[must_use]
    pub fn about(mut self, module_id: impl Into<String>) -> Self {
        self.module_id = Some(module_id.into());
        self
    }

    /// Wants, in addition, custom events of this kind.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Wants, in addition, answers to the message with this id.
    #[must_use]
    pub fn answering(mut self, id: Uuid) -> Self {
        self.correlation_id = Some(id);
        self
    }

    /// Whether `envelope` matches every condition.
    pub fn matches(&self, envelope: &Envelope) -> bool {
        let class = match envelope.message {
            Message::Command(_) => MessageClass::Command,
            Message::Event(_) => MessageClass::Event,
        };
        let kind = match &envelope.message {
            Message::Event(Event::Custom { kind, .. }) => Some(kind),
            _ => None,
        };
        self.class.is_none_or(|wanted| wanted == class)
            && self.source.as_ref().is_none_or(|wanted| *wanted == envelope.source)
            && self.module_id.as_deref().is_none_or(|wanted| envelope.message.module_id() == Some(wanted))
            && self.kind.as_ref().is_none_or(|wanted| kind == Some(wanted))
            && self.correlation_id.is_none_or(|wanted| envelope.correlation_id == Some(wanted))
    }
}
