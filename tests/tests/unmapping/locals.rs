//! Thread-locals with destructors, on every kind of thread: each is destroyed on its own thread, once, before the
//! library is unmapped.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
};

use oxide_host::{
    Host,
    report::{DropOutcome, Holder},
};
use oxide_tests::{House, block_on, child, child::folder, house::lines, until};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

fn notes() -> PathBuf {
    folder().join("notes")
}

/// The argument for what writes a line into `notes`.
fn path() -> String {
    notes().to_string_lossy().into_owned()
}

fn workers(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

/// A thread that does what it is told to, and sleeps in between.
struct Sleeper {
    work: Sender<Box<dyn FnOnce() -> String + Send>>,
    done: Receiver<String>,
    thread: JoinHandle<()>,
}

impl Sleeper {
    fn new() -> Self {
        let (work, orders) = mpsc::channel::<Box<dyn FnOnce() -> String + Send>>();
        let (tell, done) = mpsc::channel();
        let thread = thread::spawn(move || orders.into_iter().for_each(|order| tell.send(order()).unwrap()));
        Self { work, done, thread }
    }

    /// Calls a module on this thread, and gives its answer.
    fn call(&self, host: &Host, id: &'static str, method: &'static str) -> String {
        let host = host.clone();
        let call = move || {
            let reply = block_on(host.invoke(id, method, path())).unwrap();
            String::from_utf8(reply.into_vec()).unwrap()
        };
        self.work.send(Box::new(call)).unwrap();
        self.done.recv().unwrap()
    }

    fn end(self) {
        drop(self.work);
        self.thread.join().unwrap();
    }
}

#[test]
fn on_the_thread_that_unloads() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let number = house.call("clinging", "local", &path()).await;
            assert_eq!(house.call("clinging", "local", &path()).await, number);
            let receipt = house.gone("clinging").await;
            assert_eq!((lines(&notes()), receipt.forgotten_locals), (vec![number], 0));
        });
    });
}

#[test]
fn on_threads_that_have_ended_before() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let sleeper = Sleeper::new();
            let number = sleeper.call(&house.host, "clinging", "local");
            sleeper.end();
            assert_eq!(lines(&notes()), [number]);
            house.gone("clinging").await;
            assert_eq!(lines(&notes()).len(), 1);
        });
    });
}

#[test]
fn on_the_workers_of_a_runtime() {
    child(&["clinging"]).run(|| {
        let runtime = workers(4);
        runtime.block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let host = &house.host;
            let calls: Vec<_> = (0..64)
                .map(|_| {
                    let (host, path) = (host.clone(), path());
                    tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        host.invoke("clinging", "local", path).await.unwrap()
                    })
                })
                .collect();
            let mut numbers = BTreeSet::new();
            for call in calls {
                numbers.insert(String::from_utf8(call.await.unwrap().into_vec()).unwrap());
            }
            let receipt = house.gone_in_a_while("clinging").await;
            assert_eq!(receipt.forgotten_locals, 0);
            assert_eq!(lines(&notes()), numbers.into_iter().collect::<Vec<_>>());
        });
        drop(runtime);
    });
}

#[test]
fn on_an_idle_thread_of_a_blocking_pool() {
    child(&["clinging"]).run(|| {
        let runtime = workers(2);
        runtime.block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let host = house.host.clone();
            let call = tokio::task::spawn_blocking(move || {
                let reply =
                    tokio::runtime::Handle::current().block_on(host.invoke("clinging", "local", path()));
                String::from_utf8(reply.unwrap().into_vec()).unwrap()
            });
            let number = call.await.unwrap();
            house.gone_in_a_while("clinging").await;
            assert_eq!(lines(&notes()), [number]);
        });
        drop(runtime);
    });
}

#[test]
fn on_a_thread_that_sleeps_they_hold_the_library_until_it_ends() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let sleeper = Sleeper::new();
            let number = sleeper.call(&house.host, "clinging", "local");
            assert_eq!(house.retained("clinging").await, [(Holder::ThreadLocal, 1)]);
            assert!(lines(&notes()).is_empty());
            sleeper.end();
            assert_eq!(lines(&notes()), [number]);
            house.gone_at_last("clinging").await;
            assert_eq!(lines(&notes()).len(), 1);
        });
    });
}

#[test]
fn on_a_thread_that_sleeps_they_hold_the_library_until_it_calls_another_module() {
    child(&["clinging", "echo"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            house.load("echo").await;
            let sleeper = Sleeper::new();
            let number = sleeper.call(&house.host, "clinging", "local");
            assert_eq!(house.retained("clinging").await, [(Holder::ThreadLocal, 1)]);
            sleeper.call(&house.host, "echo", "echo");
            assert_eq!(lines(&notes()), [number]);
            let receipt = house.gone_at_last("clinging").await;
            assert_eq!(receipt.forgotten_locals, 0);
            sleeper.end();
            house.gone("echo").await;
            assert_eq!(lines(&notes()).len(), 1);
        });
    });
}

#[test]
fn of_a_thread_that_never_comes_by_they_are_left_undestroyed_in_the_end() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.local_timeout(std::time::Duration::ZERO)).await;
            house.load("clinging").await;
            let sleeper = Sleeper::new();
            sleeper.call(&house.host, "clinging", "local");
            let receipt = house.gone("clinging").await;
            assert_eq!(receipt.forgotten_locals, 1);
            // Its end would run them, were they still listed.
            sleeper.end();
            assert!(lines(&notes()).is_empty());
        });
    });
}

#[test]
fn of_a_second_generation_they_are_apart_from_those_of_the_first() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            let (one, other) = (Sleeper::new(), Sleeper::new());
            house.load_as("clinging", "first", json!({})).await;
            house.load_as("clinging", "second", json!({})).await;
            let kept = one.call(&house.host, "first", "local");
            let others = [&one, &other].map(|sleeper| sleeper.call(&house.host, "second", "local"));
            assert_eq!(house.retained("second").await, [(Holder::ThreadLocal, 2)]);
            other.end();
            assert_eq!(lines(&notes()), others[1..]);
            // Comes by with a call of the first one, whose own stay.
            one.call(&house.host, "first", "nothing");
            house.gone_at_last("second").await;
            assert_eq!(lines(&notes()).len(), 2);
            one.end();
            assert_eq!(lines(&notes()).iter().filter(|line| **line == kept).count(), 2);
            house.gone("first").await;
        });
    });
}

#[test]
fn the_handle_of_the_thread_and_standard_output_leave_nothing() {
    child(&["clinging"]).run(|| {
        let runtime = workers(2);
        runtime.block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            for method in ["current", "print", "current"] {
                house.call("clinging", method, "a line").await;
                let host = house.host.clone();
                tokio::spawn(async move { host.invoke("clinging", method, "a line").await.unwrap() })
                    .await
                    .unwrap();
                let host = house.host.clone();
                thread::spawn(move || block_on(host.invoke("clinging", method, "a line")).unwrap())
                    .join()
                    .unwrap();
            }
            house.gone_in_a_while("clinging").await;
        });
        drop(runtime);
    });
}

#[test]
fn destructors_that_begin_further_ones_are_run_to_the_last_when_their_thread_ends() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let sleeper = Sleeper::new();
            let number = sleeper.call(&house.host, "clinging", "chain");
            sleeper.end();
            assert_eq!(lines(&notes()), [number.clone(), number.clone(), number]);
            house.gone("clinging").await;
        });
    });
}

#[test]
fn destructors_that_begin_further_ones_are_run_to_the_last_at_an_unload() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let number = house.call("clinging", "chain", &path()).await;
            house.gone("clinging").await;
            assert_eq!(lines(&notes()), [number.clone(), number.clone(), number]);
        });
    });
}

#[test]
fn an_object_whose_destructor_begins_some_is_gone_with_them() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            let deeds = [format!("local:{}", path()), format!("chain:{}", path())];
            house.load_as("clinging", "clinging", json!({ "drop": deeds })).await;
            let receipt = house.gone_in_a_while("clinging").await;
            assert_eq!(receipt.drop, DropOutcome::Ok);
            assert_eq!(lines(&notes()).len(), 4);
        });
    });
}

#[test]
fn the_life_threads_may_all_end_when_what_they_ran_is_gone() {
    child(&["clinging", "everything"]).run(|| {
        let threads = || {
            let all = std::fs::read_dir("/proc/self/task").unwrap();
            all.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).ok())
                .filter(|name| name.starts_with("oxide-life-"))
                .count()
        };
        block_on(async {
            let mut house = House::new().await;
            let deeds = json!([format!("local:{}", path()), "current", "span"]);
            let config = json!({ "start": deeds, "stop": deeds, "drop": [format!("chain:{}", path())] });
            house.load_as("clinging", "clinging", config).await;
            house.load("everything").await;
            assert_eq!(house.call("everything", "work", "").await, "ok");
            house.gone_in_a_while("clinging").await;
            house.gone_in_a_while("everything").await;
        });
        assert!(threads() > 0);
        until("idle life threads end", || threads() == 0);
    });
}
