//! What happens where a subscription makes its publishers wait.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    task::Poll,
};

use oxide_host::bus::{Filter, MessageBus, Overflow, SubscribeOptions, Subscription};

use crate::support::{OrderCheck, number, numbered, poll_once};

async fn waiting_subscription(bus: &MessageBus, capacity: usize) -> Subscription {
    bus.subscribe_with(SubscribeOptions::new().capacity(capacity).overflow(Overflow::Wait)).await
}

async fn four_publishers_and_three_subscribers_of_one_place_lose_nothing() {
    const EACH: u64 = 1_000;
    let bus = MessageBus::new();
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut sub = waiting_subscription(&bus, 1).await;
        readers.push(tokio::spawn(async move {
            let mut seen = OrderCheck::default();
            while let Some(envelope) = sub.receiver.recv().await {
                seen.see(&envelope);
            }
            (seen.total(), sub.missed())
        }));
    }
    let publishers = ["a", "b", "c", "d"].map(|source| {
        let bus = bus.clone();
        tokio::spawn(async move {
            for at in 0..EACH {
                bus.publish(numbered(source, at)).await.unwrap();
            }
        })
    });
    drop(bus);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), (4 * EACH, 0));
    }
}

#[tokio::test]
async fn nothing_is_lost_on_a_current_thread_runtime() {
    four_publishers_and_three_subscribers_of_one_place_lose_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nothing_is_lost_on_a_multi_thread_runtime() {
    four_publishers_and_three_subscribers_of_one_place_lose_nothing().await;
}

#[tokio::test]
async fn waiting_publishers_go_in_the_order_in_which_they_came() {
    let bus = MessageBus::new();
    let mut sub = waiting_subscription(&bus, 1).await;
    bus.publish(numbered("a", 0)).await.unwrap();
    let mut first = pin!(bus.publish(numbered("b", 1)));
    let mut second = pin!(bus.publish(numbered("c", 2)));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());

    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 0);
    let mut late = pin!(bus.publish(numbered("d", 3)));
    assert!(poll_once(late.as_mut()).is_pending(), "nobody overtakes");
    assert!(poll_once(second.as_mut()).is_pending());
    assert!(poll_once(first.as_mut()).is_ready());

    for at in 1..4 {
        assert_eq!(number(&sub.receiver.recv().await.unwrap()), at);
    }
    assert!(poll_once(second).is_ready());
    assert!(poll_once(late).is_ready());
}

#[tokio::test]
async fn a_publisher_waits_for_all_who_have_no_room_and_serves_the_others_at_once() {
    let bus = MessageBus::new();
    let mut slow = waiting_subscription(&bus, 1).await;
    let mut slower = waiting_subscription(&bus, 1).await;
    let mut roomy = bus.subscribe().await;
    bus.publish(numbered("a", 0)).await.unwrap();
    let mut publish = pin!(bus.publish(numbered("a", 1)));
    assert!(poll_once(publish.as_mut()).is_pending());
    roomy.receiver.try_recv().unwrap();
    assert_eq!(number(&roomy.receiver.try_recv().unwrap()), 1);

    slow.receiver.try_recv().unwrap();
    assert_eq!(number(&slow.receiver.try_recv().unwrap()), 1);
    assert!(poll_once(publish.as_mut()).is_pending(), "one of the two still has no room");
    slower.receiver.try_recv().unwrap();
    assert!(poll_once(publish.as_mut()).is_ready());
    assert_eq!(number(&slower.receiver.try_recv().unwrap()), 1);
}

#[tokio::test]
async fn a_cancelled_publisher_leaves_no_phantom() {
    let bus = MessageBus::new();
    let mut sub = waiting_subscription(&bus, 1).await;
    bus.publish(numbered("a", 0)).await.unwrap();
    {
        let mut cancelled = pin!(bus.publish(numbered("b", 1)));
        assert!(poll_once(cancelled.as_mut()).is_pending());
    }
    let mut next = pin!(bus.publish(numbered("c", 2)));
    assert!(poll_once(next.as_mut()).is_pending());
    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 0);
    assert!(poll_once(next).is_ready());
    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 2);
    assert!(sub.receiver.try_recv().is_none());
}

#[tokio::test]
async fn a_publisher_cancelled_after_its_message_came_in_does_not_take_it_back() {
    let bus = MessageBus::new();
    let mut sub = waiting_subscription(&bus, 1).await;
    bus.publish(numbered("a", 0)).await.unwrap();
    {
        let mut cancelled = pin!(bus.publish(numbered("b", 1)));
        assert!(poll_once(cancelled.as_mut()).is_pending());
        sub.receiver.try_recv().unwrap();
    }
    assert_eq!(number(&sub.receiver.try_recv().unwrap()), 1);
    assert!(sub.receiver.try_recv().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn publishers_cancelled_at_any_moment_deliver_nothing_twice_and_lose_nothing_finished() {
    const EACH: u64 = 3_000;
    let bus = MessageBus::new();
    let mut subs = [waiting_subscription(&bus, 1).await, waiting_subscription(&bus, 2).await];
    let publishers = ["a", "b", "c"].map(|source| {
        let bus = bus.clone();
        tokio::spawn(async move {
            let mut finished = Vec::new();
            for at in 0..EACH {
                let envelope = numbered(source, at);
                let id = envelope.id;
                let mut publish = pin!(bus.publish(envelope));
                let mut outcome = poll_once(publish.as_mut());
                for _ in 0..at % 4 {
                    if outcome.is_pending() {
                        tokio::task::yield_now().await;
                        outcome = poll_once(publish.as_mut());
                    }
                }
                if matches!(outcome, Poll::Ready(Ok(()))) {
                    finished.push(id);
                }
            }
            finished
        })
    });
    drop(bus);
    let [first, second] = &mut subs;
    let (first, second) = tokio::join!(drain(first), drain(second));
    for publisher in publishers {
        for id in publisher.await.unwrap() {
            assert!(first.contains(&id) && second.contains(&id), "a finished message was lost");
        }
    }
}

/// Receives to the end; asserts that nothing comes twice, and that each source's messages are in order.
async fn drain(sub: &mut Subscription) -> HashSet<uuid::Uuid> {
    let mut seen = HashSet::new();
    let mut order = OrderCheck::default();
    while let Some(envelope) = sub.receiver.recv().await {
        order.see(&envelope);
        assert!(seen.insert(envelope.id), "a message came twice");
    }
    seen
}

#[tokio::test]
async fn dropping_a_subscription_frees_the_publishers_that_wait_for_it() {
    let bus = MessageBus::new();
    let sub = waiting_subscription(&bus, 1).await;
    bus.publish(numbered("a", 0)).await.unwrap();
    let publishers: Vec<_> = (1..4)
        .map(|at| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.publish(numbered("a", at)).await })
        })
        .collect();
    while sub.receiver.len() < 4 {
        tokio::task::yield_now().await;
    }
    drop(sub);
    for publisher in publishers {
        publisher.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn closing_a_subscription_frees_its_publishers_and_keeps_their_messages() {
    let bus = MessageBus::new();
    let mut sub = waiting_subscription(&bus, 1).await;
    bus.publish(numbered("a", 0)).await.unwrap();
    let mut publish = pin!(bus.publish(numbered("a", 1)));
    assert!(poll_once(publish.as_mut()).is_pending());
    sub.close();
    assert!(poll_once(publish).is_ready());
    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 0);
    assert_eq!(number(&sub.receiver.recv().await.unwrap()), 1);
    assert!(sub.receiver.recv().await.is_none());
}

#[tokio::test]
async fn a_stuck_subscriber_holds_up_only_those_who_publish_for_it() {
    let bus = MessageBus::new();
    let only_a = SubscribeOptions::new().filter(Filter::all().from_source("a")).capacity(1);
    let _stuck = bus.subscribe_with(only_a.overflow(Overflow::Wait)).await;
    let mut other = waiting_subscription(&bus, 16).await;
    bus.publish(numbered("a", 0)).await.unwrap();
    let mut held_up = pin!(bus.publish(numbered("a", 1)));
    assert!(poll_once(held_up.as_mut()).is_pending());

    let mut free = pin!(bus.publish(numbered("b", 2)));
    assert!(poll_once(free.as_mut()).is_ready());
    let got: Vec<_> = std::iter::from_fn(|| other.receiver.try_recv()).map(|got| number(&got)).collect();
    assert_eq!(got, [0, 1, 2]);
    let mut newcomer = pin!(bus.subscribe());
    assert!(poll_once(newcomer.as_mut()).is_ready());
    assert!(poll_once(held_up.as_mut()).is_pending());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn subscribers_may_come_and_go_while_publishers_publish() {
    let bus = MessageBus::new();
    let mut steady = waiting_subscription(&bus, 4).await;
    let publishers = ["a", "b"].map(|source| {
        let bus = bus.clone();
        tokio::spawn(async move {
            for at in 0..2_000 {
                bus.publish(numbered(source, at)).await.unwrap();
            }
        })
    });
    let visitors = [1, 2].map(|capacity| {
        let bus = bus.clone();
        tokio::spawn(async move {
            for visit in 0..200 {
                let mut sub = waiting_subscription(&bus, capacity).await;
                for _ in 0..visit % 3 {
                    sub.receiver.try_recv();
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    let watched = bus.clone();
    drop(bus);
    let mut counts: HashMap<String, u64> = HashMap::new();
    while counts.values().sum::<u64>() < 4_000 {
        let envelope = steady.receiver.recv().await.unwrap();
        let next = counts.entry(envelope.source.clone()).or_default();
        assert_eq!(number(&envelope), *next);
        *next += 1;
    }
    for task in publishers.into_iter().chain(visitors) {
        task.await.unwrap();
    }
    assert_eq!(watched.subscriber_count().await, 1);
}
