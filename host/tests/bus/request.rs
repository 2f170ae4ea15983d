//! A command and its answer.

use std::time::Duration;

use oxide_host::{
    bus::{Command, Envelope, Event, Filter, MessageBus, SubscribeOptions},
    error::KernelError,
};

use crate::support::block_on_plain_thread;

/// So long that a test which depended on it would never end.
const NEVER: Duration = Duration::MAX;

/// Answers every command on the bus with `answers`, in order.
async fn answering(bus: &MessageBus, answers: Vec<Event>) {
    let mut commands = bus.subscribe_with(SubscribeOptions::new().filter(Filter::commands())).await;
    let bus = bus.clone();
    tokio::spawn(async move {
        while let Some(command) = commands.receiver.recv().await {
            bus.emit_event("noise", Event::Pong { from: "somebody else".into() }).await.unwrap();
            for answer in &answers {
                bus.publish(Envelope::new("responder", answer.clone()).answering(command.id)).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn a_request_returns_the_answer_that_carries_its_id() {
    let bus = MessageBus::new();
    answering(&bus, vec![Event::Pong { from: "responder".into() }]).await;
    let answer = bus.request("me", Command::Ping, NEVER).await.unwrap();
    assert_eq!(answer, Event::Pong { from: "responder".into() });
    assert_eq!(bus.subscriber_count().await, 1, "the request left the bus");
}

#[tokio::test]
async fn the_first_answer_counts() {
    let bus = MessageBus::new();
    answering(&bus, vec![Event::Pong { from: "first".into() }, Event::Pong { from: "second".into() }]).await;
    let answer = bus.request("me", Command::Ping, NEVER).await.unwrap();
    assert_eq!(answer, Event::Pong { from: "first".into() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_each_get_their_own_answer() {
    let bus = MessageBus::new();
    let mut commands = bus.subscribe_with(SubscribeOptions::new().filter(Filter::commands())).await;
    let responder = bus.clone();
    tokio::spawn(async move {
        while let Some(command) = commands.receiver.recv().await {
            let answer = Event::Pong { from: command.source };
            responder.publish(Envelope::new("responder", answer).answering(command.id)).await.unwrap();
        }
    });
    let requests: Vec<_> = (0..100)
        .map(|at| {
            let bus = bus.clone();
            tokio::spawn(
                async move { (at, bus.request(at.to_string(), Command::Ping, NEVER).await.unwrap()) },
            )
        })
        .collect();
    for request in requests {
        let (at, answer) = request.await.unwrap();
        assert_eq!(answer, Event::Pong { from: at.to_string() });
    }
}

#[tokio::test]
async fn a_failed_command_is_an_error_of_its_module_or_of_the_bus() {
    let failed = |module_id: Option<&str>| Event::CommandFailed {
        module_id: module_id.map(str::to_owned),
        error: "no".to_owned(),
    };
    let bus = MessageBus::new();
    answering(&bus, vec![failed(Some("echo"))]).await;
    let error = bus.request("me", Command::Start { module_id: "echo".into() }, NEVER).await.unwrap_err();
    assert!(matches!(error, KernelError::Module(message) if message == "no"));

    let bus = MessageBus::new();
    answering(&bus, vec![failed(None)]).await;
    let error = bus.request("me", Command::Ping, NEVER).await.unwrap_err();
    assert!(matches!(error, KernelError::Bus(message) if message == "no"));
}

#[tokio::test]
async fn a_request_that_nobody_takes_fails_at_once() {
    let error = MessageBus::new().request("me", Command::Ping, NEVER).await.unwrap_err();
    assert_eq!(error.to_string(), "nobody on the bus takes this command");
    assert!(matches!(error, KernelError::Bus(_)));
}

async fn an_unanswered_request_ends() {
    let bus = MessageBus::new();
    let _silent = bus.subscribe().await;
    for timeout in [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(1)] {
        let error = bus.request("me", Command::Ping, timeout).await.unwrap_err();
        assert_eq!(error.to_string(), format!("no answer to the command came within {timeout:?}"));
        assert!(matches!(error, KernelError::Bus(_)));
    }
    assert_eq!(bus.subscriber_count().await, 1);
}

#[test]
fn an_unanswered_request_ends_on_a_runtime_without_a_clock() {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(an_unanswered_request_ends());
}

#[test]
fn an_unanswered_request_ends_without_any_runtime() {
    block_on_plain_thread(an_unanswered_request_ends());
}
