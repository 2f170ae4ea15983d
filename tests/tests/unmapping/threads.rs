//! Threads that a plugin starts, by itself or by what it uses: waited for, counted, and never unmapped under.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use oxide_host::report::{Holder, StopOutcome};
use oxide_tests::{Flag, House, SHORT, block_on, child, until};
use tokio::runtime::Builder;

/// A house that does not wait for threads.
async fn impatient() -> House {
    House::with(|builder| builder.thread_timeout(SHORT)).await
}

#[test]
fn a_thread_that_ends_within_the_deadline_is_waited_for() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let flag = Flag::new();
            house.call_aside("clinging", "thread", flag.argument());
            for _ in 0..5 {
                house.call_aside("clinging", "thread_short", "");
            }
            until("it runs", || flag.is_inside());
            thread::scope(|scope| {
                let unload = scope.spawn(|| block_on(house.gone("clinging")));
                // The unload waits for it, however late that is.
                thread::sleep(SHORT / 4);
                assert!(!unload.is_finished() && house.is_mapped("clinging"));
                flag.go_on();
                assert_eq!(unload.join().unwrap().stop, StopOutcome::Ok);
            });
            assert!(flag.has_ended());
        });
    });
}

#[test]
fn a_thread_that_ends_after_the_deadline_holds_the_library_until_then() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = impatient().await;
            house.load("clinging").await;
            let flag = Flag::new();
            house.call_aside("clinging", "thread", flag.argument());
            house.call_aside("clinging", "thread", flag.argument());
            until("it runs", || flag.is_inside());
            let receipt = house.unload("clinging").await;
            let [one] = &receipt.retained_by[..] else { panic!("{receipt:?}") };
            assert_eq!((one.holder, one.count), (Holder::Thread, 2));
            assert!(one.detail.contains("`detached`"), "{}", one.detail);
            flag.go_on();
            house.gone_at_last("clinging").await;
            assert!(flag.has_ended());
        });
    });
}

/// It would have the name of whoever started it: a worker of the host program's, say.
#[test]
fn a_thread_without_a_name_is_told_by_that_of_its_module() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = impatient().await;
            house.load("clinging").await;
            house.call("clinging", "thread_nameless", "").await;
            let receipt = house.host.unload("clinging").await.unwrap();
            assert_eq!(receipt.retained_by[0].holder, Holder::Thread);
            assert!(receipt.retained_by[0].detail.ends_with(": `clinging`"), "{receipt:?}");
        });
    });
}

#[test]
fn a_thread_that_never_ends_holds_the_library_for_good() {
    child(&["clinging", "echo"]).run(|| {
        block_on(async {
            let mut house = impatient().await;
            house.load("clinging").await;
            house.call("clinging", "thread_never", "").await;
            house.call("clinging", "current", "").await;
            assert_eq!(house.retained("clinging").await, [(Holder::Thread, 1)]);
            // Others come and go as ever.
            house.load("echo").await;
            house.gone("echo").await;
            // The id and the file may be used again.
            house.load("clinging").await;
            let receipt = house.host.unload("clinging").await.unwrap();
            assert!(receipt.unmapped && !house.is_mapped("clinging"), "{receipt:?}");
        });
    });
}

#[test]
fn the_global_pool_of_rayon_holds_the_library_for_good() {
    child(&["rayon-user"]).run(|| {
        block_on(async {
            let mut house = impatient().await;
            house.load("rayon-user").await;
            assert_eq!(house.call("rayon-user", "sum", "1001").await, "500500");
            let threads = house.call("rayon-user", "threads", "").await.parse().unwrap();
            assert_eq!(house.retained("rayon-user").await, [(Holder::Thread, threads)]);
        });
    });
}

#[test]
fn a_runtime_of_its_own_that_it_shut_down_leaves_nothing() {
    child(&["clinging"]).run(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            for method in ["runtime_dropped", "runtime_of_one", "runtime_of_one_forgotten"] {
                house.call("clinging", method, "").await;
                let host = house.host.clone();
                tokio::spawn(async move { host.invoke("clinging", method, "").await.unwrap() })
                    .await
                    .unwrap();
            }
            house.gone_in_a_while("clinging").await;
        });
        drop(runtime);
    });
}

#[test]
fn a_runtime_of_its_own_that_it_forgot_holds_the_library_for_good() {
    child(&["clinging"]).run(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut house = impatient().await;
            house.load("clinging").await;
            house.call("clinging", "runtime_forgotten", "").await;
            let host = house.host.clone();
            tokio::spawn(async move { host.invoke("clinging", "current", "").await.unwrap() }).await.unwrap();
            assert_eq!(house.retained("clinging").await, [(Holder::Thread, 2)]);
        });
        drop(runtime);
    });
}

#[test]
fn the_runtime_of_the_feature_tokio_is_joined() {
    child(&["tokio-user"]).run(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut house = House::new().await;
            house.load("tokio-user").await;
            for method in ["sleep", "spawn", "loopback"] {
                assert_eq!(house.call("tokio-user", method, "to and fro").await, "to and fro");
                let host = house.host.clone();
                tokio::spawn(async move { host.invoke("tokio-user", method, "to and fro").await.unwrap() })
                    .await
                    .unwrap();
            }
            house.gone_in_a_while("tokio-user").await;
        });
        drop(runtime);
    });
}

#[test]
fn a_thread_that_the_destructor_of_a_thread_local_starts_is_told_as_a_thread() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = impatient().await;
            house.load("clinging").await;
            let flag = Flag::new();
            house.call("clinging", "thread_at_the_end", flag.argument()).await;
            assert_eq!(house.retained("clinging").await, [(Holder::Thread, 1)]);
            flag.go_on();
            house.gone_at_last("clinging").await;
            assert!(flag.has_ended());
        });
    });
}

/// Threads that begin, call and end all the time, whatever becomes of the module meanwhile.
#[test]
fn callers_threads_that_end_at_any_moment_of_an_unload_are_safe() {
    child(&["clinging", "everything"]).run(|| {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let mut house = block_on(House::new());
            for number in 0..4 {
                let (host, over) = (house.host.clone(), &over);
                scope.spawn(move || {
                    while !over.load(SeqCst) {
                        let host = &host;
                        thread::scope(|inner| {
                            inner.spawn(move || {
                                for method in ["current", "print", "local_quiet", "panic"] {
                                    let _ = block_on(host.invoke("clinging", method, ""));
                                }
                                if number % 2 == 0 {
                                    let _ = block_on(host.invoke("everything", "work", ""));
                                }
                            });
                        });
                    }
                });
            }
            runtime.block_on(async {
                for _ in 0..20 {
                    house.load("clinging").await;
                    house.load("everything").await;
                    tokio::task::yield_now().await;
                    house.gone_in_a_while("clinging").await;
                    house.gone_in_a_while("everything").await;
                }
            });
            over.store(true, SeqCst);
        });
        drop(runtime);
    });
}
