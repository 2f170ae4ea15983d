//! A command and its answer.

use std::time::Duration;

use oxide_plugin_api::{Command, Envelope, Event, Filter, Message};

use super::{MessageBus, SubscribeOptions};
use crate::{
    error::{KernelError, Result},
    kernel,
};

impl MessageBus {
    /// Sends a command and waits for its answer: the first event that carries the command's id as
    /// `correlation_id`. The wait for the answer begins before the command is sent, so no answer comes too
    /// early to be seen.
    ///
    /// Runs on any executor; the timeout, which covers the sending too, needs no timer of its runtime.
    ///
    /// # Errors
    ///
    /// [`Event::CommandFailed`] becomes [`KernelError::Module`] if it names a module, otherwise
    /// [`KernelError::Bus`]. It is [`KernelError::Bus`] when no answer came within `timeout`, and at once when
    /// nobody on the bus took the command. A timeout does not take back a command that was taken.
    pub async fn request(
        &self,
        source: impl Into<String>,
        command: Command,
        timeout: Duration,
    ) -> Result<Event> {
        self.answer_within(Envelope::new(source, command), timeout).await
    }

    /// The same for a command that is an envelope already.
    pub(crate) async fn answer_within(&self, envelope: Envelope, timeout: Duration) -> Result<Event> {
        kernel::ready().map_err(KernelError::Setup)?;
        kernel::within(timeout, self.answer_to(envelope)).await.unwrap_or_else(|| {
            Err(KernelError::Bus(format!("no answer to the command came within {timeout:?}")))
        })
    }

    async fn answer_to(&self, envelope: Envelope) -> Result<Event> {
        let options = SubscribeOptions::new().filter(Filter::events().answering(envelope.id));
        let mut answers = self.subscribe_with(options).await;
        if self.carry(envelope).await? == 0 {
            return Err(KernelError::Bus("nobody on the bus takes this command".to_owned()));
        }
        while let Some(answer) = answers.receiver.recv().await {
            match answer.message {
                Message::Event(Event::CommandFailed { module_id: Some(_), error }) => {
                    return Err(KernelError::Module(error));
                }
                Message::Event(Event::CommandFailed { module_id: None, error }) => {
                    return Err(KernelError::Bus(error));
                }
                Message::Event(event) => return Ok(event),
                Message::Command(_) => {}
            }
        }
        Err(KernelError::Bus("the bus is gone".to_owned()))
    }
}
