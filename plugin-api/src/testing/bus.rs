//! The bus of one test host: everything that was published, who wants it, and who answers.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{Settings, context::Context, lock, logs::LogLine, work::Sleep};
use crate::{Command, Envelope, Error, Event, Filter, Message, MessageClass, Result, shim::panic::guard};

/// Who announces the steps of a module's life and answers commands, as in the real host.
pub(super) const KERNEL: &str = "kernel";

/// Answers a command, or leaves it to the next.
pub(super) type Answer = dyn Fn(&Command) -> Option<Event> + Send + Sync;

/// What the modules of one test host share.
pub(crate) struct Core {
    settings: Settings,
    state: Mutex<State>,
    published: Condvar,
    answers: Mutex<Vec<Arc<Answer>>>,
    logs: Mutex<Vec<LogLine>>,
}

#[derive(Default)]
struct State {
    /// Everything, in order; and whether `next` has given it already.
    published: Vec<(Envelope, bool)>,
    queues: BTreeMap<u64, Queue>,
}

/// What waits for one subscriber.
struct Queue {
    owner: usize,
    filter: Filter,
    /// For a mailbox: whose own messages do not go into it, and nothing but custom events.
    mailbox_of: Option<String>,
    messages: VecDeque<Envelope>,
    capacity: usize,
    missed: u64,
    waker: Option<Waker>,
}

impl Queue {
    fn wants(&self, envelope: &Envelope) -> bool {
        let mailed = self.mailbox_of.as_ref().is_none_or(|module| {
            *module != envelope.source && matches!(envelope.message, Message::Event(Event::Custom { .. }))
        });
        mailed && self.filter.matches(envelope)
    }

    fn push(&mut self, envelope: Envelope) -> Option<Waker> {
        if self.messages.len() >= self.capacity {
            self.messages.pop_front();
            self.missed += 1;
        }
        self.messages.push_back(envelope);
        self.waker.take()
    }
}

impl Core {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: Mutex::default(),
            published: Condvar::new(),
            answers: Mutex::default(),
            logs: Mutex::default(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Hands a message to everybody who wants it, and, if it is a command, to those who answer.
    pub(crate) fn publish(&self, envelope: Envelope) {
        let mut envelope = envelope;
        // Commands are answered by events, so this ends.
        while let Some(answer) = self.publish_one(envelope) {
            envelope = answer;
        }
    }

    fn publish_one(&self, envelope: Envelope) -> Option<Envelope> {
        let command = match &envelope.message {
            Message::Command(command) => Some((command.clone(), envelope.id)),
            Message::Event(_) => None,
        };
        let wakers: Vec<Waker> = {
            let mut state = lock(&self.state);
            let wakers = state
                .queues
                .values_mut()
                .filter(|queue| queue.wants(&envelope))
                .filter_map(|queue| queue.push(envelope.clone()))
                .collect();
            state.published.push((envelope, false));
            wakers
        };
        self.published.notify_all();
        wakers.into_iter().for_each(Waker::wake);
        let (command, id) = command?;
        let answer = self.answer_to(&command)?;
        Some(Envelope::new(KERNEL, answer).answering(id))
    }

    fn answer_to(&self, command: &Command) -> Option<Event> {
        // Not under the lock: an answer is the test's own code and may publish something itself.
        let answers = lock(&self.answers).clone();
        match guard(|| answers.iter().find_map(|answer| answer(command))) {
            Ok(None) if *command == Command::Ping => Some(Event::Pong { from: KERNEL.to_owned() }),
            Ok(answer) => answer,
            Err(message) => Some(Event::CommandFailed {
                module_id: command.module_id().map(str::to_owned),
                error: format!("the test's answer panicked: {message}"),
            }),
        }
    }

    pub(super) fn add_answer(&self, answer: Arc<Answer>) {
        lock(&self.answers).push(answer);
    }

    /// Publishes a command and waits for its answer.
    pub(crate) async fn request(
        &self,
        context: &Context,
        envelope: Envelope,
        limit: Duration,
    ) -> Result<Envelope> {
        let filter = Filter::events().answering(envelope.id);
        let queue = Unsubscribe(self, self.subscribe(context.number(), filter));
        self.publish(envelope);
        let mut answer = pin!(self.receive(queue.1));
        let mut timeout = Sleep::new(limit);
        let answer = poll_fn(|task| match answer.as_mut().poll(task) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => std::pin::Pin::new(&mut timeout).poll(task).map(Err),
        });
        match answer.await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Error::new("the host has closed this")),
            Err(()) => Err(Error::new(format_args!(
                "no answer came within {limit:?} (in a test, `TestHost::answer` gives one)"
            ))),
        }
    }

    pub(crate) fn subscribe(&self, owner: usize, filter: Filter) -> u64 {
        self.add_queue(owner, filter, None, self.settings.capacity)
    }

    /// Where a module's own messages wait: custom events that carry its id and come from somebody else.
    pub(super) fn add_mailbox(&self, owner: usize, module_id: &str) -> u64 {
        let filter = Filter::events().about(module_id);
        self.add_queue(owner, filter, Some(module_id.to_owned()), usize::MAX)
    }

    fn add_queue(&self, owner: usize, filter: Filter, mailbox_of: Option<String>, capacity: usize) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let messages = VecDeque::new();
        let queue = Queue { owner, filter, mailbox_of, messages, capacity, missed: 0, waker: None };
        lock(&self.state).queues.insert(id, queue);
        id
    }

    /// The next message of a subscription; `None` when it has ended.
    pub(crate) async fn receive(&self, id: u64) -> Option<Envelope> {
        poll_fn(|task| {
            let mut replaced = None;
            let mut state = lock(&self.state);
            let polled = match state.queues.get_mut(&id) {
                None => Poll::Ready(None),
                Some(queue) => match queue.messages.pop_front() {
                    Some(envelope) => Poll::Ready(Some(envelope)),
                    None => {
                        replaced = queue.waker.replace(task.waker().clone());
                        Poll::Pending
                    }
                },
            };
            // A waker's drop may run anything, so not under the lock.
            drop(state);
            drop(replaced);
            polled
        })
        .await
    }

    /// The next message of a subscription, if there is one.
    pub(super) fn try_receive(&self, id: u64) -> Option<Envelope> {
        lock(&self.state).queues.get_mut(&id)?.messages.pop_front()
    }

    /// What waits in one mailbox is in the other from now on, and nothing else; both took in the same since there
    /// were two of them.
    pub(super) fn move_messages(&self, from: u64, to: u64) {
        let mut state = lock(&self.state);
        let Some(from) = state.queues.remove(&from) else { return };
        if let Some(to) = state.queues.get_mut(&to) {
            to.messages = from.messages;
        }
    }

    pub(crate) fn missed(&self, id: u64) -> u64 {
        lock(&self.state).queues.get(&id).map_or(0, |queue| queue.missed)
    }

    pub(crate) fn unsubscribe(&self, id: u64) {
        let queue = lock(&self.state).queues.remove(&id);
        if let Some(waker) = queue.and_then(|queue| queue.waker) {
            waker.wake();
        }
    }

    pub(super) fn unsubscribe_all(&self, owner: usize) {
        let mut wakers = Vec::new();
        lock(&self.state).queues.retain(|_, queue| {
            let ends = queue.owner == owner;
            if ends {
                wakers.extend(queue.waker.take());
            }
            !ends
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn all_published(&self) -> Vec<Envelope> {
        lock(&self.state).published.iter().map(|(envelope, _)| envelope.clone()).collect()
    }

    /// The first message of this class that matches and was not given before; waits for it.
    pub(super) fn next(&self, class: MessageClass, filter: &Filter, timeout: Duration) -> Option<Envelope> {
        let class = Filter { class: Some(class), ..Filter::default() };
        let begun = Instant::now();
        let mut state = lock(&self.state);
        loop {
            let found = state
                .published
                .iter_mut()
                .find(|(envelope, given)| !given && class.matches(envelope) && filter.matches(envelope));
            if let Some((envelope, given)) = found {
                *given = true;
                return Some(envelope.clone());
            }
            let left = timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero())?;
            state = self.published.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn log(&self, line: LogLine) {
        if self.settings.record_logs {
            lock(&self.logs).push(line);
        }
    }

    pub(super) fn logs(&self) -> Vec<LogLine> {
        lock(&self.logs).clone()
    }
}

/// Ends a request's subscription, also when the request is dropped.
struct Unsubscribe<'a>(&'a Core, u64);

impl Drop for Unsubscribe<'_> {
    fn drop(&mut self) {
        self.0.unsubscribe(self.1);
    }
}
