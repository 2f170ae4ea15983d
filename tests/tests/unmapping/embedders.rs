//! Hosts in other people's programs: whatever runtime they have, on whatever threads they poll, and whenever they
//! let go of it, a plugin that uses everything is gone after its unload.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread,
};

use oxide_host::Host;
use oxide_tests::{House, block_on, child};
use tokio::runtime::{Builder, Runtime};

fn workers(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

async fn works(host: Host) {
    assert_eq!(host.invoke("everything", "work", "").await.unwrap().as_bytes(), b"ok");
}

#[test]
fn on_a_runtime_of_many_threads() {
    child(&["everything"]).run(|| {
        let runtime = workers(4);
        runtime.block_on(async {
            let mut house = House::new().await;
            for _ in 0..3 {
                house.load("everything").await;
                works(house.host.clone()).await;
                let calls: Vec<_> = (0..16).map(|_| tokio::spawn(works(house.host.clone()))).collect();
                for call in calls {
                    call.await.unwrap();
                }
                house.gone_in_a_while("everything").await;
            }
        });
        drop(runtime);
    });
}

#[test]
fn on_a_runtime_of_one_thread() {
    child(&["everything"]).run(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut house = House::new().await;
            for _ in 0..3 {
                house.load("everything").await;
                works(house.host.clone()).await;
                let calls: Vec<_> = (0..16).map(|_| tokio::spawn(works(house.host.clone()))).collect();
                for call in calls {
                    call.await.unwrap();
                }
                house.gone("everything").await;
            }
        });
        drop(runtime);
    });
}

#[test]
fn without_any_runtime() {
    child(&["everything"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            for _ in 0..3 {
                house.load("everything").await;
                works(house.host.clone()).await;
                house.gone("everything").await;
            }
        });
    });
}

/// An executor that somebody wrote in an afternoon: tasks go round among its threads, wherever they are woken.
#[derive(Clone)]
struct Executor(mpsc::Sender<Arc<Task>>);

struct Task {
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    queue: mpsc::Sender<Arc<Task>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let queue = self.queue.clone();
        let _ = queue.send(self);
    }
}

impl Executor {
    fn new(threads: usize) -> (Self, Vec<thread::JoinHandle<()>>) {
        let (send, receive) = mpsc::channel::<Arc<Task>>();
        let receive = Arc::new(Mutex::new(receive));
        let serve = || {
            let receive = receive.clone();
            thread::spawn(move || {
                loop {
                    let Ok(task) = receive.lock().unwrap().recv() else { return };
                    let waker = Waker::from(task.clone());
                    let mut future = task.future.lock().unwrap();
                    let Some(running) = &mut *future else { continue };
                    if running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                        *future = None;
                    }
                }
            })
        };
        let threads = (0..threads).map(|_| serve()).collect();
        (Self(send), threads)
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let future = Mutex::new(Some(Box::pin(future) as _));
        let _ = self.0.send(Arc::new(Task { future, queue: self.0.clone() }));
    }
}

#[test]
fn polled_on_threads_of_an_executor_of_ones_own() {
    child(&["everything"]).run(|| {
        let (executor, threads) = Executor::new(3);
        block_on(async {
            let mut house = House::new().await;
            house.load("everything").await;
            let (done, wait) = mpsc::channel();
            for _ in 0..16 {
                let (call, done) = (works(house.host.clone()), done.clone());
                executor.spawn(async move {
                    call.await;
                    done.send(()).unwrap();
                });
            }
            drop(done);
            assert_eq!(wait.iter().count(), 16);
            // Its threads wait for work, and nobody can make them come by: what they have left goes with them.
            let receipt = house.unload("everything").await;
            drop(executor);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            if !receipt.unmapped {
                house.gone_at_last("everything").await;
            }
        });
    });
}

#[test]
fn polled_in_turns_on_threads_that_come_and_go() {
    child(&["everything"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("everything").await;
            for _ in 0..8 {
                // The first poll is here, the rest is on a thread that ends.
                let mut call = Box::pin(works(house.host.clone()));
                let first = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if matches!(first, Poll::Pending) {
                    thread::spawn(move || block_on(call)).join().unwrap();
                }
            }
            house.gone("everything").await;
        });
    });
}

#[test]
fn the_runtime_is_dropped_before_the_shutdown() {
    child(&["everything", "clinging"]).run(|| {
        let runtime = workers(3);
        let house = runtime.block_on(async {
            let mut house = House::new().await;
            house.load("everything").await;
            house.load("clinging").await;
            let calls: Vec<_> = (0..8).map(|_| tokio::spawn(works(house.host.clone()))).collect();
            for call in calls {
                call.await.unwrap();
            }
            for method in ["channels", "span", "forget_timer", "forget_subscription", "current"] {
                house.call("clinging", method, "").await;
            }
            house
        });
        drop(runtime);
        let receipts = block_on(house.host.shutdown());
        assert_eq!(receipts.len(), 2);
        for receipt in receipts {
            house.judge(&receipt);
            assert!(receipt.unmapped, "{receipt:?}");
        }
    });
}

#[test]
fn the_runtime_is_dropped_after_the_shutdown() {
    child(&["everything", "clinging"]).run(|| {
        let runtime = workers(3);
        runtime.block_on(async {
            let mut house = House::new().await;
            house.load("everything").await;
            house.load("clinging").await;
            let calls: Vec<_> = (0..8).map(|_| tokio::spawn(works(house.host.clone()))).collect();
            for call in calls {
                call.await.unwrap();
            }
            for method in ["channels", "span", "forget_timer", "forget_subscription", "current"] {
                house.call("clinging", method, "").await;
            }
            let receipts = house.host.shutdown().await;
            assert_eq!(receipts.len(), 2);
            for receipt in receipts {
                house.judge(&receipt);
                if !receipt.unmapped {
                    house.gone_at_last(&receipt.id).await;
                }
            }
        });
        drop(runtime);
    });
}

#[test]
fn a_runtime_that_ends_in_the_middle_of_a_call_leaves_nothing() {
    child(&["everything"]).run(|| {
        let runtime = workers(2);
        let house = runtime.block_on(async {
            let mut house = House::new().await;
            house.load("everything").await;
            for _ in 0..16 {
                tokio::spawn(works(house.host.clone()));
            }
            // Begun and never waited for.
            let mut call = pin!(works(house.host.clone()));
            let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            house
        });
        runtime.shutdown_background();
        block_on(house.gone("everything"));
    });
}
