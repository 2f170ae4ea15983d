//! Commands on the bus are acted on, and messages for a module go to its mailbox.

use std::sync::Arc;

use oxide_plugin_api::{Command, Envelope, Event, Message};

use super::{
    announce::KERNEL,
    lifecycle::{Asked, Moved, Op},
    registry::{Entry, Shared},
};
use crate::{
    boundary::frames,
    bus::{Delivery, Handler},
    error::{KernelError, Result},
    life::coordinator,
};

/// A manager as the bus sees it.
pub(crate) struct Commands(pub(crate) Arc<Shared>);

impl Handler for Commands {
    fn wants(&self, envelope: &Envelope) -> bool {
        match &envelope.message {
            Message::Command(_) => true,
            Message::Event(Event::Custom { module_id, .. }) => {
                *module_id != envelope.source && self.0.find(module_id).is_ok()
            }
            Message::Event(_) => false,
        }
    }

    fn deliver(&self, envelope: Envelope) -> Delivery {
        let shared = self.0.clone();
        match &envelope.message {
            Message::Command(Command::Ping) => {
                let pong = Envelope::new(KERNEL, Event::Pong { from: KERNEL.to_owned() });
                shared.bus.announce(pong.answering(envelope.id));
                Box::pin(std::future::ready(Ok(())))
            }
            Message::Command(Command::Start { module_id }) => {
                let found = shared.find(module_id);
                lifecycle_command(shared, &envelope, found, Op::Start)
            }
            Message::Command(Command::Stop { module_id }) => {
                let found = shared.find(module_id);
                lifecycle_command(shared, &envelope, found, Op::Stop)
            }
            message => match message.module_id().map(|id| shared.find(id)) {
                Some(Ok(entry)) => {
                    // Not lazily: the frames of whoever publishes are on this thread now, and when the
                    // mailbox is asked.
                    Box::pin(async move { entry.mailbox.put(&shared, &entry, envelope).await })
                }
                Some(Err(error)) => {
                    fail(&shared, &envelope, &error);
                    Box::pin(std::future::ready(Ok(())))
                }
                None => Box::pin(std::future::ready(Ok(()))),
            },
        }
    }
}

type Reply = tokio::sync::oneshot::Sender<Result<Moved>>;

fn lifecycle_command(
    shared: Arc<Shared>,
    envelope: &Envelope,
    found: Result<Arc<Entry>>,
    op: fn(Asked, Reply) -> Op,
) -> Delivery {
    let done: Delivery = Box::pin(std::future::ready(Ok(())));
    let entry = match found {
        Ok(entry) => entry,
        Err(error) => {
            fail(&shared, envelope, &error);
            return done;
        }
    };
    let module_id = entry.id.as_ref().to_owned();
    // A module that asks for its own start or stop is answered at once; it happens after its present call.
    let own = frames::find(|frame| frame.module == entry.number).is_some();
    let runtime = tokio::runtime::Handle::try_current().ok();
    let asked = Asked { runtime, command: (!own).then_some(envelope.id) };
    let (send, receive) = tokio::sync::oneshot::channel();
    if own && !entry.ops.is_closed() {
        // Before it is asked: from a task of the module's nothing keeps it from being done at once.
        let scheduled = Envelope::new(KERNEL, Event::CommandScheduled { module_id: module_id.clone() });
        shared.bus.announce(scheduled.answering(envelope.id));
    }
    if entry.ops.send(op(asked, send)).is_err() {
        fail(&shared, envelope, &KernelError::UnknownModule(module_id));
        return done;
    }
    if own {
        return done;
    }
    let command = envelope.clone();
    coordinator::spawn(async move {
        match receive.await {
            Ok(Ok(Moved::Yes)) => {}
            Ok(Ok(Moved::AlreadyThere)) => {
                let completed = Envelope::new(KERNEL, Event::CommandCompleted { module_id });
                shared.bus.announce(completed.answering(command.id));
            }
            Ok(Err(error)) => fail(&shared, &command, &error),
            Err(_) => fail(&shared, &command, &KernelError::UnknownModule(module_id)),
        }
    });
    done
}

fn fail(shared: &Shared, command: &Envelope, error: &KernelError) {
    let module_id = command.message.module_id().map(str::to_owned);
    let event = Event::CommandFailed { module_id, error: error.to_string() };
    shared.bus.announce(Envelope::new(KERNEL, event).answering(command.id));
}
