//! `POST /v1/messages`: puts a message on the bus, and waits for the answer if it is a command.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use hyper::StatusCode;
use oxide_plugin_api::{Envelope, Event, Filter};

use super::{
    MessageRequest,
    answer::{Answer, Fault, json},
    api::App,
    extract::JsonBody,
};
use crate::bus::SubscribeOptions;

/// What the operator is called on the bus.
const SOURCE: &str = "operator";

/// A command is answered by whoever acts on it; this is for the case that nobody does.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub(super) async fn send(
    State(app): State<Arc<App>>,
    JsonBody(request): JsonBody<MessageRequest>,
) -> Answer<Response> {
    let bus = app.host.bus();
    match request {
        MessageRequest::Event(event) => {
            // All others are the manager's to say, once and when they are true.
            if !matches!(event, Event::Custom { .. }) {
                return Err(Fault::bad_request("only custom events can be sent"));
            }
            let envelope = Envelope::new(SOURCE, event);
            bus.publish(envelope.clone()).await?;
            Ok(json(StatusCode::ACCEPTED, &envelope))
        }
        MessageRequest::Command(command) => {
            let envelope = Envelope::new(SOURCE, command);
            // Subscribed before it is sent, so that no answer is too quick to be seen.
            let options = SubscribeOptions::new().filter(Filter::events().answering(envelope.id));
            let mut answers = bus.subscribe_with(options).await;
            bus.publish(envelope).await?;
            match tokio::time::timeout(LONGEST_WAIT, answers.receiver.recv()).await {
                Ok(Some(answer)) => Ok(json(StatusCode::OK, &answer)),
                Ok(None) => Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "bus", "the bus is gone")),
                Err(_) => Err(Fault::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "no_answer",
                    format!("nobody answered the command within {LONGEST_WAIT:?}"),
                )),
            }
        }
    }
}
