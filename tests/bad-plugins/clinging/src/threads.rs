//! Threads of its own, and runtimes, of which nobody but the host knows.

use std::{mem, thread};

use tokio::runtime::{Builder, Runtime};

use crate::{LOOK, lends, wait_for};

fn used(runtime: std::io::Result<Runtime>) -> Runtime {
    let runtime = runtime.expect("threads to be had");
    runtime.block_on(async {
        let task = tokio::spawn(tokio::time::sleep(LOOK));
        task.await.expect("it sleeps in peace");
    });
    runtime
}

fn two_workers() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    used(builder.worker_threads(2).thread_name("of its own").enable_time().build())
}

pub(crate) fn perform(verb: &str, argument: &str) -> Option<String> {
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        drop(thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread to be had"));
    };
    let path = argument.to_owned();
    match verb {
        "thread" => spawn("detached", Box::new(move || wait_for(&path))),
        // Ends by itself, nobody knows when.
        "thread_short" => spawn("brief", Box::new(|| thread::sleep(LOOK * 10))),
        "thread_nameless" => drop(thread::spawn(|| {
            loop {
                thread::park();
            }
        })),
        "thread_never" => spawn(
            "endless",
            Box::new(|| {
                loop {
                    thread::park();
                }
            }),
        ),
        // Wakes what was kept, again and again, until it may go on.
        "thread_that_wakes" => spawn("waking", Box::new(move || lends::wake_until(&path))),
        "runtime_dropped" => drop(two_workers()),
        "runtime_forgotten" => mem::forget(two_workers()),
        "runtime_of_one" => drop(used(Builder::new_current_thread().enable_time().build())),
        "runtime_of_one_forgotten" => {
            mem::forget(used(Builder::new_current_thread().enable_time().build()));
        }
        _ => return None,
    }
    Some(String::new())
}
