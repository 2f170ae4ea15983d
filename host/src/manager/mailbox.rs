//! A module's mailbox: commands and messages wait here until the module runs, in order, bounded.
//!
//! Calls over the bus are begun in order and may overlap; messages are delivered one after the other. Both
//! survive whatever happens to the generation; what is left at the unload is answered, not dropped in
//! silence.

use std::{collections::VecDeque, sync::Arc};

use oxide_plugin_api::{Command, Envelope, Event, Message, ModuleState, Payload};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use super::{
    handle::Invoke,
    lifecycle::result_of,
    registry::{Entry, Shared},
};
use crate::{
    boundary::frames::{self, Chain},
    error::{KernelError, Result},
    kernel,
    life::{
        hook::{self, Cancel},
        pool,
    },
};

/// So many calls over the bus may be inside one module at once.
const CALLS: usize = 1024;

/// One module's mailbox.
pub(crate) struct Mailbox {
    lines: Mutex<Lines>,
    /// Something was put in, or the mailbox was closed.
    news: Notify,
    /// Something was taken out, or the mailbox was closed.
    room: Notify,
    /// The message that is being delivered.
    delivering: Mutex<Option<Arc<Cancel>>>,
}

#[derive(Default)]
struct Lines {
    calls: VecDeque<Item>,
    messages: VecDeque<Envelope>,
    closed: bool,
}

/// A call over the bus, with the frames of whoever sent it.
struct Item {
    envelope: Envelope,
    chain: Option<Chain>,
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        Self {
            lines: Mutex::default(),
            news: Notify::new(),
            room: Notify::new(),
            delivering: Mutex::default(),
        }
    }

    /// Puts a message in; waits for room.
    ///
    /// # Errors
    /// [`KernelError::Bus`] when there is no room in time.
    pub(crate) async fn put(&self, shared: &Shared, entry: &Entry, envelope: Envelope) -> Result<()> {
        let chain = frames::chain();
        let mut envelope = Some(envelope);
        let fits = async {
            loop {
                let room = self.room.notified();
                if self.try_put(shared, &mut envelope, chain.as_ref()) {
                    return;
                }
                room.await;
            }
        };
        kernel::within(shared.limits.mailbox_wait, fits).await.ok_or_else(|| {
            KernelError::Bus(format!(
                "the mailbox of module `{}` is full ({} messages) and the module is {}",
                entry.id,
                shared.limits.mailbox,
                entry.state()
            ))
        })
    }

    fn try_put(&self, shared: &Shared, envelope: &mut Option<Envelope>, chain: Option<&Chain>) -> bool {
        let mut lines = self.lines.lock();
        if lines.closed {
            // The module is gone: nobody is left to have it.
            return true;
        }
        // A call that comes back to its own module must not wait for itself.
        if chain.is_none() && lines.calls.len() + lines.messages.len() >= shared.limits.mailbox {
            return false;
        }
        if let Some(envelope) = envelope.take() {
            match envelope.message {
                Message::Command(_) => lines.calls.push_back(Item { envelope, chain: chain.cloned() }),
                Message::Event(_) => lines.messages.push_back(envelope),
            }
        }
        drop(lines);
        self.news.notify_waiters();
        true
    }

    /// Ends the delivery of a message at its next suspension; tells how many that are.
    pub(crate) fn cancel_delivery(&self) -> usize {
        let delivering = self.delivering.lock().take();
        delivering.map_or(0, |delivery| {
            delivery.cancel();
            1
        })
    }

    /// Closes the mailbox of an unloaded module, and answers what is left.
    pub(crate) fn close(&self, shared: &Arc<Shared>, entry: &Entry) {
        let (calls, messages) = {
            let mut lines = self.lines.lock();
            lines.closed = true;
            (std::mem::take(&mut lines.calls), std::mem::take(&mut lines.messages))
        };
        self.news.notify_waiters();
        self.room.notify_waiters();
        for item in calls {
            refuse(shared, entry, &item.envelope, "it was unloaded before the call reached it");
        }
        if !messages.is_empty() {
            tracing::warn!(module = %entry.id, count = messages.len(), "messages were not delivered: unloaded");
        }
    }

    /// Takes the first call that may go in now, or one that must be refused.
    fn next_call(&self, entry: &Entry) -> Next {
        let mut lines = self.lines.lock();
        if lines.closed {
            return Next::Closed;
        }
        let own = |item: &Item| {
            item.chain.as_ref().is_some_and(|chain| chain.iter().any(|frame| frame.module == entry.number))
        };
        let at = match entry.state() {
            ModuleState::Running | ModuleState::Stopped | ModuleState::Failed => {
                (!lines.calls.is_empty()).then_some(0)
            }
            _ => lines.calls.iter().position(own),
        };
        match at.and_then(|at| lines.calls.remove(at)) {
            Some(item) => Next::Item(item),
            None => Next::Nothing,
        }
    }

    fn next_message(&self, entry: &Entry) -> Next<Envelope> {
        let mut lines = self.lines.lock();
        if lines.closed {
            return Next::Closed;
        }
        if entry.state() != ModuleState::Running {
            return Next::Nothing;
        }
        lines.messages.pop_front().map_or(Next::Nothing, Next::Item)
    }
}

enum Next<T = Item> {
    Item(T),
    Nothing,
    Closed,
}

/// Starts the two deliverers of a registered module.
pub(crate) fn run(shared: &Arc<Shared>, entry: &Arc<Entry>) {
    kernel::spawn(deliver_calls(shared.clone(), entry.clone()));
    kernel::spawn(deliver_messages(shared.clone(), entry.clone()));
}

async fn deliver_calls(shared: Arc<Shared>, entry: Arc<Entry>) {
    let inside = Arc::new(Semaphore::new(CALLS));
    let mut state = entry.state.subscribe();
    loop {
        let news = entry.mailbox.news.notified();
        state.mark_unchanged();
        match entry.mailbox.next_call(&entry) {
            Next::Closed => return,
            Next::Item(item) => {
                entry.mailbox.room.notify_waiters();
                let Ok(permit) = inside.clone().acquire_owned().await else { return };
                let (shared, entry) = (shared.clone(), entry.clone());
                let call = async move {
                    let answer = call(&entry, &item).await;
                    drop(permit);
                    reply(&shared, &entry, &item.envelope, answer).await;
                };
                pool::spawn(call);
            }
            Next::Nothing => tokio::select! {
                () = news => {}
                _ = state.changed() => {}
            },
        }
    }
}

async fn call(entry: &Arc<Entry>, item: &Item) -> Result<Payload> {
    let Message::Command(Command::Invoke { method, payload, .. }) = &item.envelope.message else {
        return Err(KernelError::Bus("a module takes no such command".to_owned()));
    };
    let payload = Payload::json(payload)?;
    let chain = item.chain.as_deref().unwrap_or(&[]);
    // Made under the chain, too: it is then that the call goes in, perhaps back into a module that drains.
    let call = frames::within_chain(chain, || Invoke::new(entry.clone(), method, payload));
    let mut call = std::pin::pin!(call);
    std::future::poll_fn(|context| frames::within_chain(chain, || call.as_mut().poll(context))).await
}

async fn reply(shared: &Shared, entry: &Entry, command: &Envelope, answer: Result<Payload>) {
    let module_id = entry.id.as_ref().to_owned();
    let event = match answer {
        Ok(payload) => Event::InvokeCompleted { module_id, payload: value_of(&payload) },
        Err(error) => Event::CommandFailed { module_id: Some(module_id), error: error.to_string() },
    };
    let answer = Envelope::new(entry.id.as_ref(), event).answering(command.id);
    if let Err(error) = shared.bus.publish(answer).await {
        tracing::warn!(module = %entry.id, %error, "the answer to a call could not be published");
    }
}

/// The JSON a reply holds, else its text, else its bytes in base 64.
pub(crate) fn value_of(payload: &Payload) -> Value {
    if let Ok(value) = payload.to_json() {
        return value;
    }
    match std::str::from_utf8(payload.as_bytes()) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => json!({ "base64": base64(payload.as_bytes()) }),
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

/// Answers a command that cannot be carried out.
pub(crate) fn refuse(shared: &Shared, entry: &Entry, command: &Envelope, why: &str) {
    let error = format!("module `{}` took no call: {why}", entry.id);
    let event = Event::CommandFailed { module_id: Some(entry.id.as_ref().to_owned()), error };
    shared.bus.announce(Envelope::new(super::lifecycle::KERNEL, event).answering(command.id));
}

async fn deliver_messages(shared: Arc<Shared>, entry: Arc<Entry>) {
    // One after the other, also when one runs past its deadline: the permit goes with the hook.
    let alone = Arc::new(Semaphore::new(1));
    let mut state = entry.state.subscribe();
    loop {
        let Ok(permit) = alone.clone().acquire_owned().await else { return };
        let news = entry.mailbox.news.notified();
        state.mark_unchanged();
        match entry.mailbox.next_message(&entry) {
            Next::Closed => return,
            Next::Item(envelope) => {
                entry.mailbox.room.notify_waiters();
                // Before it goes in: whoever finds it inside can cancel it.
                let cancel = Arc::new(Cancel::default());
                *entry.mailbox.delivering.lock() = Some(cancel.clone());
                let Some(ticket) = entry.route.enter() else {
                    // Stopped in between: it goes back to the front.
                    *entry.mailbox.delivering.lock() = None;
                    entry.mailbox.lines.lock().messages.push_front(envelope);
                    continue;
                };
                let runtime = None;
                let hook = ticket.object.on_message(envelope, runtime);
                let limit = shared.limits.message;
                let run = hook::run_cancellable((ticket, permit), limit, hook, cancel).await;
                *entry.mailbox.delivering.lock() = None;
                if let Err(error) = result_of(&entry.id, "on_message", limit, run) {
                    tracing::warn!(module = %entry.id, %error, "a message was not taken well");
                }
            }
            Next::Nothing => {
                drop(permit);
                tokio::select! {
                    () = news => {}
                    _ = state.changed() => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_its_json_or_its_text_or_base_64() {
        assert_eq!(value_of(&Payload::from("{\"a\":1}")), json!({"a": 1}));
        assert_eq!(value_of(&Payload::from("hello")), json!("hello"));
        // The examples of RFC 4648, section 10.
        for (bytes, text) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(value_of(&Payload::from(&[0xff, 0xfe])), json!({"base64": "//4="}));
    }
}
