//! Code of a library that runs when the host has closed it: while the loader is at that, when somebody else closes it
//! later, and at the process's end.

use std::{
    sync::{Barrier, mpsc},
    thread,
};

use oxide_host::report::Holder;
use oxide_tests::{Flag, House, SHORT, block_on, child, child::Child, plugin, until};
use serde_json::Value;

/// Threads that have called the module and wait for their end.
struct Asleep(Vec<(mpsc::Sender<()>, thread::JoinHandle<()>)>);

impl Asleep {
    /// More than one: the first to come later may get the place of the one that ended first.
    const COUNT: usize = 4;

    fn after(house: &House, id: &'static str, method: &'static str) -> Self {
        let begin = |_| {
            let (host, (end, ended), (tell, told)) = (house.host.clone(), mpsc::channel(), mpsc::channel());
            let thread = thread::spawn(move || {
                block_on(host.invoke(id, method, "")).unwrap();
                tell.send(()).unwrap();
                let _ = ended.recv();
            });
            told.recv().unwrap();
            (end, thread)
        };
        Self((0..Self::COUNT).map(begin).collect())
    }

    fn end(self) {
        for (end, thread) in self.0 {
            drop(end);
            thread.join().unwrap();
        }
        // The C library keeps what an ended thread had until another one gets its stack.
        let all_there = Barrier::new(Self::COUNT);
        thread::scope(|scope| {
            (0..Self::COUNT).for_each(|_| {
                scope.spawn(|| all_there.wait());
            });
        });
    }
}

/// In which a large block that was freed is unmapped, and a small one is overwritten.
fn strict(packages: &[&str]) -> Child {
    child(packages).variable("MALLOC_MMAP_THRESHOLD_", "131072").variable("MALLOC_PERTURB_", "165")
}

/// So that the threads in a test come to the module's heap after them.
async fn threads_of_the_host_know(house: &House, id: &str) {
    for _ in 0..8 {
        house.host.stop(id).await.unwrap();
        house.host.start(id).await.unwrap();
    }
}

#[test]
fn a_library_that_stays_mapped_may_allocate_at_the_end_of_the_process_though_its_threads_have_ended() {
    strict(&["afterlife"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("afterlife").await;
            house.call("afterlife", "open_itself", "").await;
            threads_of_the_host_know(&house, "afterlife").await;
            let asleep = Asleep::after(&house, "afterlife", "use");
            assert_eq!(house.retained("afterlife").await, [(Holder::Loader, 1)]);
            asleep.end();
        });
    });
}

#[test]
fn who_closes_the_library_last_may_end_at_once_and_the_host_sees_that_it_is_gone() {
    strict(&["afterlife", "clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("afterlife").await;
            house.load("clinging").await;
            let asleep = Asleep::after(&house, "afterlife", "use");
            let path = house.call("afterlife", "own_path", "").await;
            house.call("clinging", "open", &path).await;
            assert_eq!(house.retained("afterlife").await, [(Holder::Loader, 1)]);
            asleep.end();
            // Its destructor leaves thread-locals, a key and a part of the heap on a thread that ends then.
            house.call_aside("clinging", "close", &path);
            assert!(!house.is_mapped("afterlife"));
            house.gone_at_last("afterlife").await;
            // What it was lent may be lent again.
            house.load_as("afterlife", "other", Value::Null).await;
            house.call("other", "use", "").await;
            house.gone("other").await;
            house.gone_in_a_while("clinging").await;
        });
    });
}

#[test]
fn a_library_that_was_opened_too_late_and_stays_mapped_may_use_what_it_was_given_at_the_end_of_the_process() {
    strict(&["afterlife", "echo"]).flag("AFTERLIFE_BEGINNING").run(|| {
        block_on(async {
            let flag = Flag::named("AFTERLIFE_BEGINNING");
            let mut house = House::with(|builder| builder.loader_timeout(SHORT)).await;
            let error = house.load_file(&plugin("afterlife"), "late", Value::Null).await.unwrap_err();
            assert_eq!(error.code(), "loader_stuck", "{error}");
            flag.go_on();
            until("it has been opened, and closed again", || {
                block_on(house.load_file(&plugin("echo"), "next", Value::Null)).is_ok()
            });
            until("it is listed", || !house.host.retained().is_empty());
            let retained = house.host.retained();
            assert_eq!((&*retained[0].id, retained[0].retained_by[0].holder), ("late", Holder::Loader));
            assert!(house.is_mapped("late"));
            // It was given what the one before had, if that was let go of.
            house.gone("next").await;
        });
    });
}
