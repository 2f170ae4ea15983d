//! The last messages of the bus, for those who come late. Bounded in number and in bytes.

use std::{collections::VecDeque, sync::Arc};

use oxide_plugin_api::Envelope;
use parking_lot::Mutex;

use crate::bus::{MessageBus, SubscribeOptions};

const MOST_MESSAGES: usize = 512;
const MOST_BYTES: usize = 1 << 20;

/// The last messages, oldest first, as JSON text.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Journal {
    /// Keeps what is published from now on, until the bus is gone or the task is aborted.
    pub(super) async fn keep(bus: &MessageBus) -> (Self, tokio::task::JoinHandle<()>) {
        let journal = Self::default();
        let mut subscription = bus.subscribe_with(SubscribeOptions::new()).await;
        let writer = journal.clone();
        let task = tokio::spawn(async move {
            while let Some(envelope) = subscription.receiver.recv().await {
                writer.add(&envelope);
            }
        });
        (journal, task)
    }

    /// What there is, oldest first.
    pub(super) fn recent(&self) -> Vec<String> {
        self.0.lock().lines.iter().cloned().collect()
    }

    fn add(&self, envelope: &Envelope) {
        let Ok(line) = serde_json::to_string(envelope) else { return };
        // One huge message must not push out all others; it is seen by those who follow the bus.
        if line.len() > MOST_BYTES / 16 {
            return;
        }
        let mut lines = self.0.lock();
        lines.bytes += line.len();
        lines.lines.push_back(line);
        while lines.lines.len() > MOST_MESSAGES || lines.bytes > MOST_BYTES {
            let Some(oldest) = lines.lines.pop_front() else { break };
            lines.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use oxide_plugin_api::Event;

    use super::*;

    fn custom(payload: serde_json::Value) -> Envelope {
        Envelope::new("test", Event::Custom { module_id: "m".into(), kind: "k".into(), payload })
    }

    #[test]
    fn the_journal_is_bounded_in_number_and_in_bytes() {
        let journal = Journal::default();
        let newest = custom(1.into());
        for _ in 0..MOST_MESSAGES {
            journal.add(&custom(0.into()));
        }
        journal.add(&newest);
        let recent = journal.recent();
        assert_eq!(recent.len(), MOST_MESSAGES);
        let last: Envelope = serde_json::from_str(recent.last().expect("some")).expect("an envelope");
        assert_eq!(last, newest);

        for _ in 0..100 {
            journal.add(&custom("x".repeat(MOST_BYTES / 20).into()));
        }
        assert!(journal.0.lock().bytes <= MOST_BYTES);
        assert!(journal.recent().len() < 20);

        journal.add(&custom("x".repeat(MOST_BYTES).into()));
        assert!(!journal.recent().is_empty(), "a huge message pushes nothing out");
    }
}
