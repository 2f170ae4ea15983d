//! What a plugin was lent and forgot, what it keeps in its statics, what it leaks, and what a caller forgets.

use std::{
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Wake, Waker},
    thread,
};

use oxide_host::{
    error::KernelError,
    module::ModuleState,
    report::{DropOutcome, StopOutcome},
};
use oxide_tests::{Flag, House, SHORT, block_on, child, house::resident, until};
use serde_json::json;
use tokio::runtime::Builder;

const MIB: u64 = 1 << 20;

/// On a runtime's threads and on its own: does this, and is gone.
fn is_gone_after(methods: &[&'static str]) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut house = House::new().await;
        house.load("clinging").await;
        for method in methods.iter().copied() {
            house.call("clinging", method, "nobody").await;
            let host = house.host.clone();
            tokio::spawn(async move { host.invoke("clinging", method, "nobody").await.unwrap() })
                .await
                .unwrap();
        }
        let receipt = house.gone_in_a_while("clinging").await;
        assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
        assert_eq!(receipt.forgotten_locals, 0);
    });
    drop(runtime);
}

#[test]
fn forgotten_subscriptions_are_taken_back() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            let subscribers = house.host.bus().subscriber_count().await;
            house.load("clinging").await;
            house.call("clinging", "forget_subscription", "").await;
            assert_eq!(house.host.bus().subscriber_count().await, subscribers + 2);
            let receipt = house.gone("clinging").await;
            assert!(receipt.revoked >= 2, "{receipt:?}");
            assert_eq!(house.host.bus().subscriber_count().await, subscribers);
        });
    });
}

#[test]
fn forgotten_tasks_are_ended() {
    child(&["clinging"]).run(|| is_gone_after(&["forget_task"]));
}

#[test]
fn forgotten_timers_are_taken_back() {
    child(&["clinging"]).run(|| is_gone_after(&["forget_timer"]));
}

#[test]
fn a_forgotten_reply_is_taken_back() {
    child(&["clinging", "misbehaving"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.drain_timeout(SHORT)).await;
            let mut commands = house.host.bus().subscribe().await;
            house.load("clinging").await;
            house.load_as("misbehaving", "other", json!({ "id": "other" })).await;
            // That call waits inside the other module when nobody wants its answer any more.
            house.call("clinging", "forget_reply", "other").await;
            while !matches!(
                commands.receiver.recv().await.unwrap().message,
                oxide_host::bus::Message::Command(_)
            ) {}
            house.gone("clinging").await;
            house.gone("other").await;
        });
    });
}

#[test]
fn forgotten_clones_of_the_bus_are_of_no_use() {
    child(&["clinging"]).run(|| is_gone_after(&["forget_bus"]));
}

#[test]
fn everything_forgotten_at_once_is_taken_back() {
    child(&["clinging"]).run(|| {
        is_gone_after(&[
            "forget_subscription",
            "forget_task",
            "forget_timer",
            "forget_bus",
            "channels",
            "span",
        ])
    });
}

#[test]
fn channels_in_statics_leave_nothing_though_one_keeps_the_waker_of_a_call() {
    child(&["clinging"]).run(|| is_gone_after(&["channels"]));
}

#[test]
fn spans_that_are_held_open_are_closed() {
    child(&["clinging"]).run(|| is_gone_after(&["span"]));
}

#[test]
fn wakers_that_its_own_thread_wakes_during_the_unload_lead_nowhere() {
    child(&["clinging"]).run(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let house = runtime.block_on(async {
            let mut house = House::with(|builder| builder.drain_timeout(SHORT)).await;
            house.load("clinging").await;
            // One that its caller drops, one that the unload cancels.
            let (dropped, cancelled, waking) = (Flag::new(), Flag::new(), Flag::new());
            let call = |flag: &Flag| {
                let (host, argument) = (house.host.clone(), flag.argument().to_owned());
                tokio::spawn(async move { host.invoke("clinging", "keep_waker", argument).await })
            };
            let (one, other) = (call(&dropped), call(&cancelled));
            until("both are inside", || dropped.is_inside() && cancelled.is_inside());
            house.call_aside("clinging", "thread_that_wakes", waking.argument());
            until("it wakes", || waking.is_inside());
            one.abort();
            assert!(one.await.unwrap_err().is_cancelled());
            thread::scope(|scope| {
                let unload = scope.spawn(|| block_on(house.unload("clinging")));
                // From then on it is only that thread that is waited for.
                let ended = block_on(other).unwrap().unwrap_err();
                assert!(matches!(ended, KernelError::Cancelled { .. }), "{ended}");
                waking.go_on();
                let receipt = unload.join().unwrap();
                assert_eq!((receipt.cancelled, receipt.stop), (1, StopOutcome::Ok));
                if !receipt.unmapped {
                    assert!(house.is_mapped("clinging"));
                }
            });
            if house.is_mapped("clinging") {
                house.gone_at_last("clinging").await;
            }
            assert!(waking.has_ended());
            house
        });
        drop(runtime);
        drop(house);
    });
}

#[test]
fn a_call_that_its_caller_forgot_does_not_keep_the_library() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.drain_timeout(SHORT)).await;
            house.load("clinging").await;
            let flag = Flag::new();
            for method in ["hang", "keep_waker"] {
                let (host, argument) = (house.host.clone(), flag.argument().to_owned());
                let mut call = Box::pin(async move { host.invoke("clinging", method, argument).await });
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                mem::forget(call);
            }
            let receipt = house.gone("clinging").await;
            assert_eq!((receipt.cancelled, receipt.stop), (2, StopOutcome::Ok));
        });
    });
}

/// An executor that polls its one task inside the wake.
struct AtOnce {
    task: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    woken: AtomicBool,
}

impl Wake for AtOnce {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        while self.woken.load(SeqCst) {
            // Being polled: whoever is at it looks again.
            let Ok(mut task) = self.task.try_lock() else { return };
            self.woken.store(false, SeqCst);
            let waker = Waker::from(self.clone());
            if task.as_mut().is_some_and(|it| it.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()) {
                *task = None;
            }
        }
    }
}

#[test]
fn a_call_that_is_polled_inside_the_wake_is_cancelled_like_any_other() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.drain_timeout(SHORT)).await;
            house.load("clinging").await;
            let (flag, (tell, told)) = (Flag::new(), mpsc::channel());
            let (host, argument) = (house.host.clone(), flag.argument().to_owned());
            let task = async move { tell.send(host.invoke("clinging", "hang", argument).await).unwrap() };
            let task = Mutex::new(Some(Box::pin(task) as _));
            Arc::new(AtOnce { task, woken: AtomicBool::new(false) }).wake();
            assert!(flag.is_inside());
            assert_eq!(house.gone("clinging").await.cancelled, 1);
            assert_eq!(told.recv().unwrap().unwrap_err().code(), "cancelled");
        });
    });
}

#[test]
fn a_caller_that_outlives_the_library_gets_its_error_and_drops_its_call() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.drain_timeout(SHORT)).await;
            house.load("clinging").await;
            let flag = Flag::new();
            let module = house.host.module("clinging").unwrap();
            let mut kept = pin!(module.invoke("hang", flag.argument().to_owned()));
            let mut asked = pin!(module.invoke("hang", flag.argument().to_owned()));
            let mut context = Context::from_waker(Waker::noop());
            assert!(kept.as_mut().poll(&mut context).is_pending());
            assert!(asked.as_mut().poll(&mut context).is_pending());
            assert_eq!(house.gone("clinging").await.cancelled, 2);
            assert_eq!(asked.await.unwrap_err().code(), "cancelled");
            assert_eq!(house.host.modules().state("clinging").await, None::<ModuleState>);
        });
    });
}

#[test]
fn an_object_whose_destructor_panics_is_gone_all_the_same() {
    child(&["clinging"]).run(|| {
        block_on(async {
            for deed in ["panic", "spite"] {
                let mut house = House::new().await;
                house.load_as("clinging", "clinging", json!({ "drop": [deed] })).await;
                let receipt = house.gone("clinging").await;
                assert_eq!(receipt.drop, DropOutcome::Panicked, "{deed}");
            }
        });
    });
}

#[test]
fn panics_leave_nothing_and_map_no_symbols() {
    child(&["clinging"]).variable("RUST_BACKTRACE", "1").run(|| {
        block_on(async {
            let mut house = House::new().await;
            for _ in 0..5 {
                house.load("clinging").await;
                // After the load, whose buffers are the host's allocator's to keep.
                let before = resident();
                for _ in 0..20 {
                    house.call("clinging", "catch", "caught at once").await;
                    for method in ["panic", "spite"] {
                        let error = house.try_call("clinging", method, "").await.unwrap_err();
                        assert_eq!(error.code(), "hook_panicked", "{error}");
                    }
                }
                // A map of the symbols would be about 35 MB.
                let grown = resident().saturating_sub(before);
                assert!(grown < 8 * MIB, "grown by {} MiB", grown / MIB);
                house.gone("clinging").await;
            }
        });
    });
}

#[test]
fn what_it_leaked_goes_with_its_heap() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            // After the load, whose buffers are the host's allocator's to keep.
            let before = resident();
            house.call("clinging", "leak", &(64 * MIB).to_string()).await;
            assert!(resident() > before + 60 * MIB);
            let receipt = house.gone("clinging").await;
            let leaked = receipt.leaked_bytes.expect("its heap is the host's to count");
            assert!((64 * MIB..80 * MIB).contains(&leaked), "{leaked}");
            let grown = resident().saturating_sub(before);
            assert!(grown < 8 * MIB, "grown by {} MiB", grown / MIB);
        });
    });
}
