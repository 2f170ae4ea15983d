//! `events`: the bus, as it was or as it goes on.

use http_body_util::BodyExt;
use hyper::{Method, body::Incoming};
use oxide_plugin_api::{Envelope, Message};
use serde::Serialize;
use serde_json::Value;

use super::{
    Context, Exit, Failure, Printer,
    client::{error_of, parse, whole},
    text::{escape, escape_json},
};

/// What `events` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// Print what comes from now on, until the host ends or Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

impl Events {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let printer = &context.printer;
        let mut host = context.host().await?;
        if !self.follow {
            let recent: Vec<Envelope> = host.get("/v1/events?follow=false").await?;
            if recent.is_empty() && !printer.json() {
                printer.say("no messages");
            }
            printer.answer(&recent, || recent.iter().map(|envelope| line(envelope) + "\n").collect())?;
            return Ok(Exit::Done);
        }
        let response = host.request(Method::GET, "/v1/events", Vec::new()).await?;
        if !response.status().is_success() {
            let (status, bytes) = whole(response).await?;
            return Err(error_of(status, &bytes));
        }
        printer.say("following the bus; Ctrl-C ends it");
        follow(printer, response.into_body()).await
    }
}

async fn follow(printer: &Printer, mut body: Incoming) -> Result<Exit, Failure> {
    let mut reader = SseReader::default();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            printer.say("the host is gone");
            return Ok(Exit::Failed);
        };
        let Some(bytes) = frame.data_ref() else { continue };
        for SseEvent { name, data } in reader.feed(bytes) {
            if name == "missed" {
                let count = parse::<Value>(data.as_bytes())?["missed"].clone();
                printer
                    .say(format_args!("{count} messages were missed: they came faster than they were read"));
                continue;
            }
            let envelope: Envelope = parse(data.as_bytes())?;
            printer.line(&envelope, || line(&envelope))?;
        }
    }
    printer.say("the host has ended");
    Ok(Exit::Done)
}

/// One message on one line, for people.
fn line(envelope: &Envelope) -> String {
    let time = envelope.timestamp.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    format!("{time} {} {}", escape(&envelope.source), describe(envelope))
}

/// What a message says: its type, the module, and the rest as JSON.
pub(super) fn describe(envelope: &Envelope) -> String {
    fn fields(message: &impl Serialize) -> Value {
        serde_json::to_value(message).unwrap_or_default()
    }
    let mut fields = match &envelope.message {
        Message::Command(command) => fields(command),
        Message::Event(event) => fields(event),
    };
    let mut words = Vec::new();
    if matches!(envelope.message, Message::Command(_)) {
        words.push("command".to_owned());
    }
    if let Some(fields) = fields.as_object_mut() {
        for name in ["type", "module_id", "method", "kind", "from"] {
            if let Some(Value::String(word)) = fields.get(name) {
                words.push(escape(word).into_owned());
                fields.remove(name);
            }
        }
        fields.retain(|_, value| !value.is_null());
        if !fields.is_empty() {
            words.push(escape_json(&Value::Object(std::mem::take(fields)).to_string()).into_owned());
        }
    }
    words.join(" ")
}

/// Takes server-sent events apart, whatever pieces they arrive in.
#[derive(Default)]
struct SseReader {
    rest: Vec<u8>,
    name: String,
    data: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct SseEvent {
    name: String,
    data: String,
}

impl SseReader {
    fn feed(&mut self, bytes: &[u8]) -> Vec<SseEvent> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[start..start + length]);
            start += length + 1;
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                // An empty line ends an event; one without data is a sign of life.
                "" if line.is_empty() => {
                    let name = std::mem::take(&mut self.name);
                    events.extend(self.data.take().map(|data| SseEvent { name, data }));
                }
                "event" => value.clone_into(&mut self.name),
                "data" => match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
        self.rest.drain(..start);
        events
    }
}

#[cfg(test)]
mod tests {
    use oxide_plugin_api::{Command, Event};
    use serde_json::json;

    use super::*;

    #[test]
    fn server_sent_events_are_put_together_from_any_pieces() {
        let text =
            ":\n\nevent: event\nid: 1\ndata: {\"a\":1}\n\nevent: missed\ndata: x\ndata: y\n\nevent: e\n\n";
        let expected = [
            SseEvent { name: "event".into(), data: "{\"a\":1}".into() },
            SseEvent { name: "missed".into(), data: "x\ny".into() },
        ];
        for size in 1..text.len() {
            let mut reader = SseReader::default();
            let events: Vec<_> = text.as_bytes().chunks(size).flat_map(|piece| reader.feed(piece)).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_message_is_described_on_one_line() {
        let id = || "echo".to_owned();
        let messages: Vec<Message> = vec![
            Command::Ping.into(),
            Command::Invoke { module_id: id(), method: "m".into(), payload: json!({"a": "\u{9b}2J"}) }.into(),
            Event::ModuleStarted { module_id: id() }.into(),
            Event::ModuleFailed { module_id: id(), reason: "no\nclock".into() }.into(),
            Event::ModuleSwapped { module_id: id(), from: 1, to: 2 }.into(),
            Event::Custom { module_id: id(), kind: "tick".into(), payload: json!(7) }.into(),
            Event::Pong { from: "kernel".into() }.into(),
        ];
        let lines: Vec<String> =
            messages.into_iter().map(|message| describe(&Envelope::new("kernel", message))).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        command ping
        command invoke echo m {"payload":{"a":"\u009b2J"}}
        module_started echo
        module_failed echo {"reason":"no\nclock"}
        module_swapped echo {"from":1,"to":2}
        custom echo tick {"payload":7}
        pong kernel
        "#);
    }
}
