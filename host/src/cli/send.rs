//! `send`: a command or an event over the bus.

use clap::Subcommand;
use hyper::Method;
use oxide_plugin_api::{Command, Envelope, Event, Message};

use super::{Context, Exit, Failure, events::describe, input, text::escape_json};
use crate::daemon::{ErrorReport, MessageRequest};

/// What `send` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Send {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Start a module
    Start {
        /// The module's id
        id: String,
    },
    /// Stop a module
    Stop {
        /// The module's id
        id: String,
    },
    /// Call a module, with JSON for its payload and its reply
    Invoke {
        /// The module's id
        id: String,
        /// The method's name
        method: String,
        /// The payload; null when left out
        #[arg(value_name = "JSON|@FILE", allow_negative_numbers = true)]
        payload: Option<String>,
    },
    /// Ask who is there
    Ping,
    /// Tell a module, and whoever listens, that something happened
    Event {
        /// The id of the module it is about; a running module finds it in its `on_message`
        id: String,
        /// What kind of event
        kind: String,
        /// Its content; null when left out
        #[arg(value_name = "JSON|@FILE", allow_negative_numbers = true)]
        payload: Option<String>,
    },
}

impl Send {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let request = self.what.request()?;
        let is_event = matches!(request, MessageRequest::Event(_));
        let mut host = context.host().await?;
        let envelope: Envelope = host.call(Method::POST, "/v1/messages", Some(&request)).await?;
        if let Message::Event(Event::CommandFailed { error, .. }) = envelope.message {
            return Err(Failure::new(ErrorReport::new("command_failed", error)));
        }
        if context.printer.json() {
            context.printer.value(&envelope)?;
        } else if is_event {
            context.printer.say("sent");
        } else {
            context.printer.text(&reply(&envelope))?;
        }
        Ok(Exit::Done)
    }
}

impl What {
    fn request(self) -> Result<MessageRequest, Failure> {
        let payload = |argument: Option<String>| input::json("the payload", argument.as_deref());
        Ok(match self {
            Self::Start { id } => MessageRequest::Command(Command::Start { module_id: id }),
            Self::Stop { id } => MessageRequest::Command(Command::Stop { module_id: id }),
            Self::Invoke { id, method, payload: argument } => {
                let payload = payload(argument)?;
                MessageRequest::Command(Command::Invoke { module_id: id, method, payload })
            }
            Self::Ping => MessageRequest::Command(Command::Ping),
            Self::Event { id, kind, payload: argument } => {
                let payload = payload(argument)?;
                MessageRequest::Event(Event::Custom { module_id: id, kind, payload })
            }
        })
    }
}

/// A call's reply is its payload and nothing else; all other answers are described.
fn reply(envelope: &Envelope) -> String {
    match &envelope.message {
        Message::Event(Event::InvokeCompleted { payload, .. }) => {
            format!("{}\n", escape_json(&payload.to_string()))
        }
        _ => format!("{}\n", describe(envelope)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_reads_back_as_it_was_sent() {
        let requests = [
            What::Start { id: "a".into() },
            What::Stop { id: "a".into() },
            What::Invoke { id: "a".into(), method: "m".into(), payload: Some("[1]".into()) },
            What::Ping,
            What::Event { id: "a".into(), kind: "k".into(), payload: None },
        ];
        let lines: Vec<String> = requests
            .into_iter()
            .map(|what| {
                let text = serde_json::to_string(&what.request().expect("a request")).expect("JSON");
                let again: MessageRequest = serde_json::from_str(&text).expect("the same");
                assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
                text
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"command":{"type":"start","module_id":"a"}}
        {"command":{"type":"stop","module_id":"a"}}
        {"command":{"type":"invoke","module_id":"a","method":"m","payload":[1]}}
        {"command":{"type":"ping"}}
        {"event":{"type":"custom","module_id":"a","kind":"k","payload":null}}
        "#);
    }
}
