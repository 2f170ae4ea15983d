//! Who receives what, in which order, and how many they missed.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use oxide_host::bus::{Command, Event, Filter, Message, MessageBus, Overflow, SubscribeOptions};

use crate::support::{OrderCheck, block_on_plain_thread, number, numbered, poll_once};

async fn everyone_receives_everything_in_order() {
    let bus = MessageBus::new();
    let mut first = bus.subscribe().await;
    let mut second = bus.subscribe().await;
    let publisher = bus.clone();
    for at in 0..100 {
        publisher.publish(numbered("a", at)).await.unwrap();
    }
    for at in 0..100 {
        assert_eq!(number(&first.receiver.recv().await.unwrap()), at);
        assert_eq!(number(&second.receiver.recv().await.unwrap()), at);
    }
    assert_eq!((first.missed(), second.missed()), (0, 0));
    assert!(first.receiver.try_recv().is_none());
}

#[tokio::test]
async fn everyone_receives_everything_in_order_on_a_current_thread_runtime() {
    everyone_receives_everything_in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_receives_everything_in_order_on_a_multi_thread_runtime() {
    everyone_receives_everything_in_order().await;
}

#[test]
fn everyone_receives_everything_in_order_without_any_runtime() {
    block_on_plain_thread(everyone_receives_everything_in_order());
}

#[tokio::test]
async fn commands_and_events_arrive_as_sent_with_the_id_that_was_returned() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe().await;
    let command = Command::Start { module_id: "echo".into() };
    let event = Event::Pong { from: "me".into() };
    let command_id = bus.send_command("me", command.clone()).await.unwrap();
    let event_id = bus.emit_event(String::from("you"), event.clone()).await.unwrap();

    let got = sub.receiver.recv().await.unwrap();
    assert_eq!((got.id, got.source.as_str()), (command_id, "me"));
    assert_eq!((got.message, got.correlation_id), (Message::Command(command), None));
    let got = sub.receiver.recv().await.unwrap();
    assert_eq!((got.id, got.source.as_str(), got.message), (event_id, "you", Message::Event(event)));
}

#[tokio::test]
async fn publishing_with_nobody_there_is_fine() {
    MessageBus::new().publish(numbered("a", 0)).await.unwrap();
}

#[tokio::test]
async fn a_subscriber_receives_nothing_from_before_it_subscribed() {
    let bus = MessageBus::default();
    bus.publish(numbered("a", 0)).await.unwrap();
    let mut sub = bus.subscribe().await;
    bus.publish(numbered("a", 1)).await.unwrap();
    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 1);
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_and_says_how_many() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe_with(SubscribeOptions::new().capacity(3)).await;
    for at in 0..10 {
        bus.publish(numbered("a", at)).await.unwrap();
    }
    assert_eq!(sub.missed(), 7);
    for at in 7..10 {
        assert_eq!(number(&sub.receiver.recv().await.unwrap()), at);
    }
    assert!(sub.receiver.is_empty());
}

#[tokio::test]
async fn the_default_subscription_holds_1024_messages() {
    let bus = MessageBus::new();
    let sub = bus.subscribe().await;
    for at in 0..1025 {
        bus.publish(numbered("a", at)).await.unwrap();
    }
    assert_eq!((sub.receiver.len(), sub.missed()), (1024, 1));
}

#[tokio::test]
async fn a_capacity_of_zero_counts_as_one() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe_with(SubscribeOptions::new().capacity(0)).await;
    bus.publish(numbered("a", 0)).await.unwrap();
    bus.publish(numbered("a", 1)).await.unwrap();
    assert_eq!((number(&sub.receiver.recv().await.unwrap()), sub.missed()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn received_and_missed_make_up_what_four_publishers_published() {
    const EACH: u64 = 5_000;
    let bus = MessageBus::new();
    let mut sub = bus.subscribe_with(SubscribeOptions::new().capacity(16)).await;
    let publishers: Vec<_> = ["a", "b", "c", "d"]
        .map(|source| {
            let bus = bus.clone();
            tokio::spawn(async move {
                for at in 0..EACH {
                    bus.publish(numbered(source, at)).await.unwrap();
                }
            })
        })
        .into();
    drop(bus);
    let mut seen = OrderCheck::default();
    while let Some(envelope) = sub.receiver.recv().await {
        seen.see(&envelope);
        if seen.total() % 5 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert_eq!(seen.total() + sub.missed(), 4 * EACH);
}

#[tokio::test]
async fn a_filter_lets_through_what_matches_and_the_rest_is_not_missed() {
    let bus = MessageBus::new();
    let filtered = |filter| SubscribeOptions::new().filter(filter).capacity(1);
    let mut commands = bus.subscribe_with(filtered(Filter::commands())).await;
    let mut of_a = bus.subscribe_with(filtered(Filter::all().from_source("a"))).await;
    let mut about_echo = bus.subscribe_with(filtered(Filter::all().about("echo"))).await;

    bus.publish(numbered("a", 1)).await.unwrap();
    bus.publish(numbered("b", 2)).await.unwrap();
    bus.send_command("b", Command::Stop { module_id: "echo".into() }).await.unwrap();

    let stop = Message::Command(Command::Stop { module_id: "echo".into() });
    assert_eq!(commands.receiver.try_recv().unwrap().message, stop);
    assert_eq!(about_echo.receiver.try_recv().unwrap().message, stop);
    assert_eq!(number(&of_a.receiver.try_recv().unwrap()), 1);
    for mut sub in [commands, of_a, about_echo] {
        assert!(sub.receiver.try_recv().is_none());
        assert_eq!(sub.missed(), 0);
    }
}

#[tokio::test]
async fn the_subscriber_count_follows_at_once() {
    let bus = MessageBus::new();
    assert_eq!(bus.subscriber_count().await, 0);
    let first = bus.subscribe().await;
    let second = bus.clone().subscribe().await;
    let third = bus.subscribe().await;
    assert_eq!(bus.subscriber_count().await, 3);
    assert_ne!(first.id, second.id);
    drop(first);
    assert_eq!(bus.subscriber_count().await, 2);
    second.close();
    assert_eq!(bus.subscriber_count().await, 1);
    let receiver = third.receiver;
    assert_eq!(bus.subscriber_count().await, 1, "the receiver keeps the subscription");
    drop(receiver);
    assert_eq!(bus.subscriber_count().await, 0);
}

#[tokio::test]
async fn a_subscription_outlives_the_bus_until_it_is_empty() {
    let bus = MessageBus::new();
    let other = bus.clone();
    let mut sub = bus.subscribe().await;
    bus.publish(numbered("a", 0)).await.unwrap();
    drop(bus);
    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 0);
    {
        let mut recv = pin!(sub.receiver.recv());
        assert!(poll_once(recv.as_mut()).is_pending(), "a clone of the bus is alive");
        other.publish(numbered("a", 1)).await.unwrap();
        drop(other);
        assert_eq!(number(&recv.await.unwrap()), 1);
    }
    assert!(sub.receiver.recv().await.is_none());
    assert!(sub.receiver.recv().await.is_none());
}

#[tokio::test]
async fn a_waiting_receiver_learns_that_the_bus_is_gone() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe().await;
    let reader = tokio::spawn(async move { sub.receiver.recv().await });
    tokio::task::yield_now().await;
    drop(bus);
    assert!(reader.await.unwrap().is_none());
}

#[tokio::test]
async fn a_closed_subscription_gives_what_lay_waiting_and_then_none() {
    let bus = MessageBus::new();
    let mut sub = bus.subscribe().await;
    bus.publish(numbered("a", 0)).await.unwrap();
    sub.close();
    bus.publish(numbered("a", 1)).await.unwrap();
    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 0);
    assert!(sub.receiver.recv().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recv_cancelled_by_select_loses_nothing() {
    const COUNT: u64 = 5_000;
    let bus = MessageBus::new();
    let mut sub = bus.subscribe_with(SubscribeOptions::new().capacity(4).overflow(Overflow::Wait)).await;
    let publisher = tokio::spawn(async move {
        for at in 0..COUNT {
            bus.publish(numbered("a", at)).await.unwrap();
        }
    });
    let mut next = 0;
    loop {
        tokio::select! {
            biased;
            () = tokio::task::yield_now(), if next % 2 == 0 => {
                // Whatever the yield cut off must still be there for this one.
                let Some(envelope) = sub.receiver.recv().await else { break };
                assert_eq!(number(&envelope), next);
                next += 1;
            }
            envelope = sub.receiver.recv() => {
                let Some(envelope) = envelope else { break };
                assert_eq!(number(&envelope), next);
                next += 1;
            }
        }
    }
    publisher.await.unwrap();
    assert_eq!(next, COUNT);
}

#[tokio::test]
async fn a_recv_that_was_dropped_leaves_no_waker_behind() {
    struct Nothing;
    impl Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }
    let bus = MessageBus::new();
    let mut sub = bus.subscribe().await;
    let witness = Arc::new(Nothing);
    {
        let waker = Waker::from(Arc::clone(&witness));
        let mut recv = pin!(sub.receiver.recv());
        assert!(matches!(recv.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending));
        drop(waker);
        assert_eq!(Arc::strong_count(&witness), 2);
    }
    assert_eq!(Arc::strong_count(&witness), 1);
}

#[tokio::test]
async fn a_message_shared_with_others_is_received_without_a_copy() {
    let bus = MessageBus::new();
    let mut first = bus.subscribe().await;
    let mut second = bus.subscribe().await;
    bus.publish(numbered("a", 0)).await.unwrap();
    let one = first.receiver.recv_shared().await.unwrap();
    let other = second.receiver.recv_shared().await.unwrap();
    assert!(Arc::ptr_eq(&one, &other));
}

#[tokio::test]
async fn a_publisher_in_a_loop_does_not_starve_its_runtime() {
    let bus = MessageBus::new();
    let _sub = bus.subscribe().await;
    let done = Arc::new(AtomicBool::new(false));
    let other = Arc::clone(&done);
    tokio::spawn(async move { other.store(true, Ordering::Relaxed) });
    for at in 0..100_000 {
        bus.publish(numbered("a", at)).await.unwrap();
        if done.load(Ordering::Relaxed) {
            return;
        }
    }
    panic!("the other task never ran");
}
