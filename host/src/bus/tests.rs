//! What the kernel itself relies on: announcements, handlers, and names that cannot be forged.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use oxide_plugin_api::{Command, Envelope, Event, Message};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Delivery, Handler, MessageBus, Overflow, SubscribeOptions, Subscription};
use crate::error::KernelError;

fn event(source: &str) -> Envelope {
    Envelope::new(source, Event::Pong { from: source.to_owned() })
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn sources(sub: &mut Subscription) -> Vec<String> {
    std::iter::from_fn(|| sub.receiver.try_recv()).map(|envelope| envelope.source).collect()
}

/// Takes messages into a mailbox with so many places, answers pings, and refuses what comes from "bad".
struct Manager {
    mailbox: Mutex<Vec<Envelope>>,
    places: Arc<Semaphore>,
    bus: Option<MessageBus>,
    only_commands: bool,
}

impl Manager {
    fn new(places: usize) -> Self {
        Self {
            mailbox: Mutex::default(),
            places: Arc::new(Semaphore::new(places)),
            bus: None,
            only_commands: false,
        }
    }

    fn took(&self) -> Vec<String> {
        self.mailbox.lock().iter().map(|envelope| envelope.source.clone()).collect()
    }
}

impl Handler for Manager {
    fn wants(&self, envelope: &Envelope) -> bool {
        !self.only_commands || matches!(envelope.message, Message::Command(_))
    }

    fn deliver(&self, envelope: Envelope) -> Delivery {
        let refused = envelope.source == "bad";
        if let (Some(bus), Message::Command(Command::Ping)) = (&self.bus, &envelope.message) {
            let pong = Event::Pong { from: "kernel".to_owned() };
            bus.announce(Envelope::new("kernel", pong).answering(envelope.id));
        }
        self.mailbox.lock().push(envelope);
        let places = Arc::clone(&self.places);
        Box::pin(async move {
            places.acquire().await.map_err(KernelError::new)?.forget();
            if refused { Err(KernelError::Bus("refused".to_owned())) } else { Ok(()) }
        })
    }
}

fn attach(bus: &MessageBus, manager: &Arc<Manager>) -> super::HandlerGuard {
    let manager: Weak<Manager> = Arc::downgrade(manager);
    bus.attach_handler(manager)
}

#[tokio::test]
async fn an_announcement_never_waits_and_stands_behind_those_who_came_before() {
    let bus = MessageBus::new();
    let mut stuck = bus.subscribe_with(SubscribeOptions::new().capacity(1).overflow(Overflow::Wait)).await;
    bus.publish(event("first")).await.unwrap();
    let mut waiting = pin!(bus.publish(event("waiting")));
    assert!(poll_once(waiting.as_mut()).is_pending());
    let mut cancelled = Box::pin(bus.publish(event("cancelled")));
    assert!(poll_once(cancelled.as_mut()).is_pending());
    bus.announce(event("kernel"));
    bus.announce(event("kernel"));
    drop(cancelled);
    let mut late = pin!(bus.publish(event("late")));
    assert!(poll_once(late.as_mut()).is_pending());

    assert_eq!(sources(&mut stuck), ["first", "waiting", "kernel", "kernel", "late"]);
    assert!(poll_once(waiting).is_ready());
    assert!(poll_once(late).is_ready());
    assert_eq!(stuck.missed(), 0);
}

#[tokio::test]
async fn an_announcement_takes_a_place_where_the_oldest_is_dropped() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe_with(SubscribeOptions::new().capacity(2)).await;
    for source in ["a", "b", "c"] {
        bus.announce(event(source));
    }
    assert_eq!((sources(&mut sub), sub.missed()), (vec!["b".to_owned(), "c".to_owned()], 1));
}

#[tokio::test]
async fn an_announcement_wakes_who_waits_to_receive() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe().await;
    let reader = tokio::spawn(async move { sub.receiver.recv().await });
    tokio::task::yield_now().await;
    bus.announce(event("kernel"));
    assert_eq!(reader.await.unwrap().unwrap().source, "kernel");
}

#[tokio::test]
async fn a_handler_is_given_commands_and_events_but_no_announcements() {
    let bus = MessageBus::new();
    let manager = Arc::new(Manager::new(10));
    let _guard = attach(&bus, &manager);
    bus.send_command("commander", Command::Ping).await.unwrap();
    bus.publish(event("module")).await.unwrap();
    bus.announce(event("kernel"));
    assert_eq!(manager.took(), ["commander", "module"]);
    assert_eq!(bus.subscriber_count().await, 0);
}

#[tokio::test]
async fn a_handler_is_given_only_what_it_wants() {
    let bus = MessageBus::new();
    let manager = Arc::new(Manager { only_commands: true, ..Manager::new(10) });
    let _guard = attach(&bus, &manager);
    bus.publish(event("module")).await.unwrap();
    bus.send_command("commander", Command::Ping).await.unwrap();
    assert_eq!(manager.took(), ["commander"]);
}

#[tokio::test]
async fn a_handler_sees_a_message_only_when_all_subscribers_have_it() {
    let bus = MessageBus::new();
    let manager = Arc::new(Manager::new(10));
    let _guard = attach(&bus, &manager);
    let mut slow = bus.subscribe_with(SubscribeOptions::new().capacity(1).overflow(Overflow::Wait)).await;
    bus.publish(event("first")).await.unwrap();
    let mut publish = pin!(bus.publish(event("second")));
    assert!(poll_once(publish.as_mut()).is_pending());
    assert_eq!(manager.took(), ["first"]);
    assert_eq!(sources(&mut slow), ["first", "second"]);
    assert!(poll_once(publish).is_ready());
    assert_eq!(manager.took(), ["first", "second"]);
}

#[tokio::test]
async fn a_full_mailbox_makes_the_publisher_wait_but_not_the_subscribers() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe().await;
    let manager = Arc::new(Manager::new(0));
    let _guard = attach(&bus, &manager);
    let mut publish = pin!(bus.publish(event("a")));
    assert!(poll_once(publish.as_mut()).is_pending());
    assert_eq!(sources(&mut sub), ["a"]);
    manager.places.add_permits(1);
    assert!(poll_once(publish).is_ready());
}

#[tokio::test]
async fn a_publisher_that_waits_keeps_no_handler_alive() {
    let bus = MessageBus::new();
    let manager = Arc::new(Manager::new(0));
    let watch = Arc::downgrade(&manager);
    let guard = attach(&bus, &manager);
    let mut publish = pin!(bus.publish(event("a")));
    assert!(poll_once(publish.as_mut()).is_pending());
    drop(manager);
    assert!(watch.upgrade().is_none());
    bus.publish(event("b")).await.unwrap();
    drop(guard);
}

#[tokio::test]
async fn every_handler_is_given_the_message_also_after_one_refused_it() {
    let bus = MessageBus::new();
    let managers = [Arc::new(Manager::new(10)), Arc::new(Manager::new(10))];
    let _guards = managers.each_ref().map(|manager| attach(&bus, manager));
    let error = bus.publish(event("bad")).await.unwrap_err();
    assert_eq!(error.to_string(), "refused");
    for manager in managers {
        assert_eq!((manager.took(), manager.places.available_permits()), (vec!["bad".to_owned()], 9));
    }
}

#[tokio::test]
async fn a_handler_is_detached_by_dropping_its_guard_and_no_other_is() {
    let bus = MessageBus::new();
    let (first, second) = (Arc::new(Manager::new(10)), Arc::new(Manager::new(10)));
    let guard = attach(&bus, &first);
    let _other = attach(&bus, &second);
    drop(guard);
    bus.publish(event("a")).await.unwrap();
    assert_eq!((first.took().len(), second.took().len()), (0, 1));
}

#[tokio::test]
async fn a_request_is_answered_by_a_handler_that_answers_while_it_is_given_the_command() {
    let bus = MessageBus::new();
    let manager = Arc::new(Manager { bus: Some(bus.clone()), ..Manager::new(10) });
    let _guard = attach(&bus, &manager);
    let answer = bus.request("me", Command::Ping, Duration::MAX).await.unwrap();
    assert_eq!(answer, Event::Pong { from: "kernel".to_owned() });
}
