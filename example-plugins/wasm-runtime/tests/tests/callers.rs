//! Many callers at once, and callers that go away.

use std::{sync::Arc, time::Duration};

use oxide_host::{
    bus::{Event, Message},
    report::{Holder, StopOutcome},
};
use wasm_runtime_tests::{Given, House};

/// A deadline for what never ends by itself.
const SHORT: Duration = Duration::from_millis(200);

/// Milliseconds that no call in these tests works.
const FAR_TOO_LONG: u64 = 600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_at_once_are_all_answered_one_after_the_other() {
    let house = Arc::new(House::new());
    house.load("counter", &Given::guest("counter")).await;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let house = house.clone();
            tokio::spawn(async move {
                for _ in 0..250 {
                    house.call("counter", "increment", "").await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(house.call("counter", "get", "").await, "2000");
    house.gone("counter").await;
}

#[tokio::test]
async fn a_call_whose_caller_goes_away_runs_to_its_end_and_the_state_stays() {
    let house = House::new();
    house.load("slow", &Given::guest("slow").with("call_time", FAR_TOO_LONG)).await;
    {
        let call = house.host.invoke("slow", "work", "2");
        tokio::pin!(call);
        // Up to the first tick at which the guest leaves the thread.
        tokio::select! {
            biased;
            done = &mut call => panic!("it was not left in the middle: {done:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    // The next call waits for the deserted one, and sees what it did.
    assert_eq!(house.call("slow", "count", "").await, "1");
    house.gone("slow").await;
}

#[tokio::test]
async fn a_call_that_goes_away_while_it_waits_for_its_turn_has_done_nothing() {
    let house = House::new();
    house.load("slow", &Given::guest("slow").with("call_time", FAR_TOO_LONG)).await;
    let first = house.host.invoke("slow", "work", "2");
    tokio::pin!(first);
    tokio::select! {
        biased;
        done = &mut first => panic!("{done:?}"),
        () = tokio::task::yield_now() => {}
    }
    {
        let second = house.host.invoke("slow", "work", "1");
        tokio::pin!(second);
        tokio::select! {
            biased;
            done = &mut second => panic!("it did not wait: {done:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    first.await.unwrap();
    assert_eq!(house.call("slow", "count", "").await, "1");
    house.gone("slow").await;
}

#[tokio::test]
async fn an_unload_ends_a_deserted_call_that_would_wait_for_long() {
    let house = House::with(|builder| builder.drain_timeout(SHORT));
    house.load("caller", &Given::guest("caller")).await;
    house.load("loops", &Given::guest("loops").with("call_time", FAR_TOO_LONG)).await;
    let mut bus = house.host.bus().subscribe().await;
    {
        let call = house.host.invoke("caller", "call", "loops for-ever null");
        tokio::pin!(call);
        loop {
            tokio::select! {
                done = &mut call => panic!("it was not left in the middle: {done:?}"),
                envelope = bus.receiver.recv() => {
                    if matches!(envelope.unwrap().message, Message::Command(_)) {
                        break;
                    }
                }
            }
        }
    }
    for id in ["caller", "loops"] {
        let receipt = house.gone(id).await;
        assert_eq!(receipt.stop, StopOutcome::Ok, "{receipt:?}");
    }
}

#[tokio::test]
async fn an_unload_ends_a_guest_that_loops() {
    let house = Arc::new(House::with(|builder| builder.drain_timeout(SHORT)));
    house.load("loops", &Given::guest("loops").with("call_time", FAR_TOO_LONG)).await;
    let caller = {
        let house = house.clone();
        tokio::spawn(async move { house.try_call("loops", "for-ever", "").await })
    };
    // It is inside: a call that would be answered at once waits for its turn.
    loop {
        let call = house.host.invoke("loops", "ok", "");
        tokio::pin!(call);
        tokio::select! {
            biased;
            _ = &mut call => tokio::task::yield_now().await,
            () = tokio::task::yield_now() => break,
        }
    }
    let receipt = house.gone("loops").await;
    assert!(receipt.cancelled >= 1, "{receipt:?}");
    caller.await.unwrap().expect_err("it never ends by itself");
}

#[tokio::test]
async fn the_clock_that_has_come_to_rest_is_woken_by_a_call() {
    let house = House::new();
    house.load("loops", &Given::guest("loops").with("call_time", 10)).await;
    for _ in 0..3 {
        let error = house.fails("loops", "for-ever", "").await;
        assert!(error.contains("worked longer than 10 ms"), "{error}");
        // Longer than it waits before it rests.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    house.gone("loops").await;
}

#[tokio::test]
async fn waiting_for_the_bus_is_not_work() {
    let house = House::new();
    house.load("caller", &Given::guest("caller").with("call_time", 20)).await;
    house.load("slow", &Given::guest("slow").with("call_time", FAR_TOO_LONG)).await;
    // Two hundred million rounds take longer than 20 ms on any machine.
    assert_eq!(house.call("caller", "call", "slow work 2").await, "1");
    house.gone("caller").await;
    house.gone("slow").await;
}

/// What wasmtime leaves on a thread is one thread-local, which goes when the thread comes by, or ends.
#[tokio::test]
async fn a_callers_thread_holds_the_engine_no_longer_than_it_lives() {
    let house = Arc::new(House::new());
    house.load("core", &Given::guest("traps")).await;
    let (called, await_calls) = std::sync::mpsc::channel();
    let (leave, stay) = std::sync::mpsc::channel::<()>();
    let caller = {
        let house = house.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (one, other) =
                    tokio::join!(house.call("core", "count", ""), house.call("core", "count", ""));
                assert_eq!((one.as_str(), other.as_str()), ("1", "2"));
                house.fails("core", "go ahead", "").await;
            });
            called.send(()).unwrap();
            let _ = stay.recv();
        })
    };
    await_calls.recv().unwrap();
    let mut events = house.host.bus().subscribe().await;
    let receipt = house.host.unload("core").await.unwrap();
    let held: Vec<_> = receipt.retained_by.iter().map(|one| (one.holder, one.count)).collect();
    assert_eq!(held, [(Holder::ThreadLocal, 1)], "{receipt:?}");
    drop(leave);
    caller.join().unwrap();
    loop {
        let envelope = events.receiver.recv().await.unwrap();
        if let Message::Event(Event::ModuleUnmapped { .. }) = envelope.message {
            break;
        }
    }
    assert_eq!(house.mapped(), 0);
}
