//! A module's mailbox: commands and messages wait here until the module runs, in order, bounded.
//!
//! Calls over the bus are begun in order and may overlap; messages are delivered one after the other. Both
//! survive whatever happens to the generation; what is left at the unload is answered, not dropped in
//! silence.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use oxide_plugin_api::{Command, Envelope, Event, Message, ModuleState, Payload};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, oneshot},
};

use super::{
    handle::Invoke,
    lifecycle::result_of,
    registry::{Entry, Shared},
};
use crate::{
    boundary::frames::{self, Chain, Frame},
    error::{KernelError, Result},
    kernel,
    life::{coordinator, hook, pool},
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
    /// The message being delivered is given up, so that the module can be stopped.
    give_up: Notify,
    /// Whether a message is being delivered.
    delivering: AtomicBool,
}

#[derive(Default)]
struct Lines {
    calls: VecDeque<Item>,
    messages: VecDeque<Item>,
    closed: bool,
}

/// A call or a message, with the frames and the runtime of whoever sent it.
struct Item {
    envelope: Envelope,
    chain: Option<Chain>,
    /// Entered around the hooks of an in-process module.
    runtime: Option<Handle>,
}

impl Item {
    /// Whether the module itself sent it, or somebody on its behalf.
    fn is_from(&self, entry: &Entry) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.iter().any(|frame| frame.module == entry.number))
    }

    /// Whether it comes back from inside one of the module's calls or messages, which a drain waits for.
    fn comes_back_to(&self, entry: &Entry) -> bool {
        let is_inside = |frame: &Frame| frame.module == entry.number && frame.is_call;
        self.chain.as_ref().is_some_and(|chain| chain.iter().any(is_inside))
    }
}

/// What became of something that was to be put in.
enum Put {
    In,
    /// There is no room for it now.
    Full(Item),
    /// The module is gone.
    Closed(Item),
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        Self {
            lines: Mutex::default(),
            news: Notify::new(),
            room: Notify::new(),
            give_up: Notify::new(),
            delivering: AtomicBool::new(false),
        }
    }

    /// A hold is over: what waits may go in.
    pub(crate) fn go_on(&self) {
        self.news.notify_waiters();
    }

    /// How many calls wait.
    pub(crate) fn waiting_calls(&self) -> usize {
        self.lines.lock().calls.len()
    }

    /// Gives up the message that is being delivered, if it waits; tells how many that are.
    pub(crate) fn give_up_message(&self) -> usize {
        self.give_up.notify_waiters();
        usize::from(self.delivering.load(SeqCst))
    }

    /// Puts a message in; waits for room. A command that comes too late for the module is answered.
    ///
    /// # Errors
    /// [`KernelError::Bus`] when there is no room in time; [`KernelError::UnknownModule`] for an event that
    /// comes too late.
    pub(crate) async fn put(&self, shared: &Shared, entry: &Entry, envelope: Envelope) -> Result<()> {
        let (chain, runtime) = (frames::chain(), Handle::try_current().ok());
        let mut item = Item { envelope, chain, runtime };
        let fits = async {
            loop {
                let room = self.room.notified();
                match self.try_put(shared, entry, item) {
                    Put::In => return Ok(()),
                    Put::Closed(item) => return too_late(shared, entry, &item.envelope),
                    Put::Full(back) => item = back,
                }
                room.await;
            }
        };
        kernel::within(shared.limits.mailbox_wait, fits).await.unwrap_or_else(|| {
            Err(KernelError::Bus(format!(
                "the mailbox of module `{}` is full ({} messages) and the module is {}",
                entry.id,
                shared.limits.mailbox,
                entry.state()
            )))
        })
    }

    fn try_put(&self, shared: &Shared, entry: &Entry, item: Item) -> Put {
        let mut lines = self.lines.lock();
        if lines.closed {
            return Put::Closed(item);
        }
        let full = lines.calls.len() + lines.messages.len() >= shared.limits.mailbox;
        // A call that comes back to its own module must not wait for itself.
        if full && !item.is_from(entry) {
            return Put::Full(item);
        }
        match item.envelope.message {
            Message::Command(_) => lines.calls.push_back(item),
            Message::Event(_) => lines.messages.push_back(item),
        }
        drop(lines);
        self.news.notify_waiters();
        Put::In
    }

    /// Puts a message that could not be delivered back to the front.
    fn put_back(&self, entry: &Entry, item: Item) {
        let mut lines = self.lines.lock();
        if lines.closed {
            drop(lines);
            undelivered(entry, 1);
            return;
        }
        lines.messages.push_front(item);
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
            undelivered(entry, messages.len());
        }
    }

    /// Takes the first call that may go in now, or one that must be refused. While another is `beginning`,
    /// only one that comes back to its own module, which that other may be waiting for.
    fn next_call(&self, entry: &Entry, beginning: bool) -> Next {
        let mut lines = self.lines.lock();
        if lines.closed {
            return Next::Closed;
        }
        let at = match entry.state() {
            ModuleState::Running | ModuleState::Stopped | ModuleState::Failed
                if !beginning && !entry.hold.is_on() =>
            {
                (!lines.calls.is_empty()).then_some(0)
            }
            // What a task of its own sends waits in the row like anybody's.
            ModuleState::Running if entry.hold.is_on() => {
                lines.calls.iter().position(|item| item.comes_back_to(entry))
            }
            _ => lines.calls.iter().position(|item| item.is_from(entry)),
        };
        match at.and_then(|at| lines.calls.remove(at)) {
            Some(item) => Next::Item(item),
            None => Next::Nothing,
        }
    }

    fn next_message(&self, entry: &Entry) -> Next {
        let mut lines = self.lines.lock();
        if lines.closed {
            return Next::Closed;
        }
        if entry.state() != ModuleState::Running || entry.hold.is_on() {
            return Next::Nothing;
        }
        lines.messages.pop_front().map_or(Next::Nothing, Next::Item)
    }
}

enum Next {
    Item(Item),
    Nothing,
    Closed,
}

/// Starts the two deliverers of a registered module.
pub(crate) fn run(shared: &Arc<Shared>, entry: &Arc<Entry>) {
    coordinator::spawn(deliver_calls(shared.clone(), entry.clone()));
    coordinator::spawn(deliver_messages(shared.clone(), entry.clone()));
}

async fn deliver_calls(shared: Arc<Shared>, entry: Arc<Entry>) {
    let inside = Arc::new(Semaphore::new(CALLS));
    let mut state = entry.state.subscribe();
    // The call whose first poll is not over: what is behind it must not overtake it.
    let mut beginning: Option<oneshot::Receiver<()>> = None;
    loop {
        let news = entry.mailbox.news.notified();
        state.mark_unchanged();
        match entry.mailbox.next_call(&entry, beginning.is_some()) {
            Next::Closed => return,
            Next::Item(item) => {
                entry.mailbox.room.notify_waiters();
                let Ok(permit) = inside.clone().acquire_owned().await else { return };
                let (begun, has_begun) = oneshot::channel();
                let (shared, entry) = (shared.clone(), entry.clone());
                let call = async move {
                    let answer = call(&entry, &item, begun).await;
                    drop(permit);
                    reply(&shared, &entry, &item.envelope, answer).await;
                };
                pool::spawn(call);
                beginning.get_or_insert(has_begun);
            }
            Next::Nothing => tokio::select! {
                () = news => {}
                _ = state.changed() => {}
                () = begun(&mut beginning) => beginning = None,
            },
        }
    }
}

/// Waits until the call that is beginning has begun; for ever when there is none.
async fn begun(beginning: &mut Option<oneshot::Receiver<()>>) {
    match beginning {
        // Begun, or ended before it could.
        Some(has_begun) => drop(has_begun.await),
        None => std::future::pending().await,
    }
}

async fn call(entry: &Arc<Entry>, item: &Item, begun: oneshot::Sender<()>) -> Result<Payload> {
    let Message::Command(Command::Invoke { method, payload, .. }) = &item.envelope.message else {
        return Err(KernelError::Bus("a module takes no such command".to_owned()));
    };
    let payload = Payload::json(payload)?;
    let mut call = std::pin::pin!(Invoke::new(entry, method, payload));
    let chain = item.chain.as_deref().unwrap_or(&[]);
    let mut begun = Some(begun);
    poll_fn(|context| {
        let _entered = item.runtime.as_ref().map(Handle::enter);
        let polled = frames::within_chain(chain, || call.as_mut().poll(context));
        // One that a swap holds has not begun.
        if !call.is_held()
            && let Some(begun) = begun.take()
        {
            let _ = begun.send(());
        }
        polled
    })
    .await
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
    shared.bus.announce(Envelope::new(super::announce::KERNEL, event).answering(command.id));
}

/// What comes too late for a module that was being unloaded: as if the module had not been found.
fn too_late(shared: &Shared, entry: &Entry, envelope: &Envelope) -> Result<()> {
    match envelope.message {
        Message::Command(_) => {
            refuse(shared, entry, envelope, "it was unloaded before the call reached it");
            Ok(())
        }
        Message::Event(_) => Err(KernelError::UnknownModule(entry.id.as_ref().to_owned())),
    }
}

fn undelivered(entry: &Entry, count: usize) {
    tracing::warn!(module = %entry.id, count, "messages were not delivered: unloaded");
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
            Next::Item(item) => {
                entry.mailbox.room.notify_waiters();
                // Before the gate: whoever gives up does so after shutting it.
                let given_up = entry.mailbox.give_up.notified();
                let Some(ticket) = entry.route.enter() else {
                    // Stopped in between: it goes back to the front.
                    entry.mailbox.put_back(&entry, item);
                    continue;
                };
                let failures = ticket.failures().cloned();
                // A ticket as a call has one: what comes back from inside is let in while the module drains.
                let frame = Frame { module: entry.number, generation: ticket.unique, is_call: true };
                let mut hook = ticket.object.on_message(item.envelope, item.runtime);
                let hook = poll_fn(move |context| frames::within(frame, || hook.as_mut().poll(context)));
                let limit = shared.limits.message;
                entry.mailbox.delivering.store(true, SeqCst);
                tokio::select! {
                    biased;
                    run = hook::run((ticket, permit), limit, Box::pin(hook)) => {
                        if let Err(error) = result_of(&entry.id, "on_message", limit, run) {
                            if let Some(failures) = failures {
                                match error {
                                    KernelError::HookPanicked { .. } => failures.panicked(),
                                    _ => failures.failed(),
                                }
                            }
                            tracing::warn!(module = %entry.id, %error, "a message was not taken well");
                        }
                    }
                    () = given_up => {
                        tracing::warn!(module = %entry.id, "a message was given up: the module is stopped");
                    }
                }
                entry.mailbox.delivering.store(false, SeqCst);
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
