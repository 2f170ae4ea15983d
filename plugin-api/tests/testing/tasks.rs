//! `task::spawn` and `task::sleep`, and when tasks end.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use oxide_plugin_api::{ErrorKind, task::JoinHandle, testing::TestModule};

use super::*;

/// Counts the tasks that are alive.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

struct One(Alive);

impl Alive {
    fn one(&self) -> One {
        self.0.fetch_add(1, Ordering::SeqCst);
        One(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Spawns endless tasks in `init` and `start`; each of them spawns one more.
#[derive(Default)]
struct Spawner {
    by_init: Alive,
    by_start: Alive,
}

fn endless(alive: &Alive) {
    let (one, other) = (alive.one(), alive.one());
    drop(task::spawn(async move {
        let _one = one;
        task::sleep(Duration::from_millis(1)).await;
        drop(task::spawn(async move {
            let _other = other;
            std::future::pending::<()>().await;
        }));
        loop {
            task::sleep(Duration::from_millis(1)).await;
        }
    }));
}

impl Module for Spawner {
    fn metadata(&self) -> ModuleMetadata {
        Probe::named("spawner").metadata()
    }

    async fn init(&mut self, _: MessageBus) -> Result<()> {
        endless(&self.by_init);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        endless(&self.by_start);
        Ok(())
    }

    async fn invoke(&self, method: &str, _: Payload) -> Result<Payload> {
        let output = match method {
            "output" => task::spawn(async { 42 }).await,
            "abort" => {
                let alive = Alive::default();
                let one = alive.one();
                let handle: JoinHandle<i32> = task::spawn(async move {
                    let _one = one;
                    std::future::pending().await
                });
                assert!(!handle.is_finished());
                handle.abort();
                let output = handle.await;
                assert_eq!(alive.count(), 0);
                output
            }
            "panic" => task::spawn(async { panic!("a task fell") }).await,
            "sleep" => {
                let begun = Instant::now();
                task::sleep(Duration::from_millis(30)).await;
                assert!(begun.elapsed() >= Duration::from_millis(30));
                task::sleep(Duration::ZERO).await;
                // A long one that is dropped holds up nothing.
                drop(task::spawn(task::sleep(Duration::MAX)));
                Some(0)
            }
            "block" => {
                let (begun, wait) = std::sync::mpsc::channel();
                drop(task::spawn(async move {
                    begun.send(1).unwrap();
                    thread::sleep(Duration::from_millis(200));
                }));
                Some(wait.recv()?)
            }
            other => return Err(Error::unknown_method(other)),
        };
        Payload::json(&output)
    }

    async fn stop(&mut self) -> Result<()> {
        // Still there: the host ends them after this.
        assert_eq!(self.by_start.count(), 2);
        Ok(())
    }
}

fn call(spawner: &TestModule<Spawner>, method: &str) -> Option<i32> {
    spawner.invoke(method, b"").unwrap().to_json().unwrap()
}

#[test]
fn a_handle_gives_the_output_and_none_after_an_abort_or_a_panic() -> Result<()> {
    let host = TestHost::new();
    let spawner = host.load_and_start(Spawner::default())?;
    assert_eq!(call(&spawner, "output"), Some(42));
    assert_eq!(call(&spawner, "abort"), None);
    assert_eq!(call(&spawner, "panic"), None);
    assert!(host.logs().iter().any(|line| line.message.starts_with("panic in a task: a task fell")));
    assert_eq!(call(&spawner, "sleep"), Some(0));
    assert_eq!(spawner.invoke("other", b"").unwrap_err().kind(), ErrorKind::UnknownMethod);
    Ok(())
}

#[test]
fn tasks_end_with_the_phase_that_spawned_them() -> Result<()> {
    let mut spawner = TestHost::new().load(Spawner::default());
    let (by_init, by_start) = (spawner.module().by_init.clone(), spawner.module().by_start.clone());
    spawner.start()?;
    thread::sleep(Duration::from_millis(30));
    assert_eq!((by_init.count(), by_start.count()), (2, 2));
    spawner.stop()?;
    assert_eq!((by_init.count(), by_start.count()), (2, 0));
    spawner.start()?;
    assert_eq!(by_start.count(), 2);
    drop(spawner.unload()?);
    assert_eq!((by_init.count(), by_start.count()), (0, 0));
    Ok(())
}

#[test]
fn dropping_a_module_ends_its_tasks_and_nobody_elses() -> Result<()> {
    let (one, other) = (
        TestHost::new().load_and_start(Spawner::default())?,
        TestHost::new().load_and_start(Spawner::default())?,
    );
    let alive = one.module().by_init.clone();
    drop(one);
    assert_eq!((alive.count(), other.module().by_init.count()), (0, 2));
    Ok(())
}

#[test]
fn a_task_that_does_not_end_is_told() -> Result<()> {
    let host = TestHost::builder().task_deadline(Duration::from_millis(20)).build();
    let mut spawner = host.load_and_start(Spawner::default())?;
    assert_eq!(call(&spawner, "block"), Some(1));
    let error = spawner.stop().unwrap_err();
    assert!(
        error.to_string().starts_with("1 task(s) of module `spawner` did not end within 20ms"),
        "{error}"
    );
    assert_eq!(spawner.state(), ModuleState::Failed);
    Ok(())
}

#[test]
fn a_task_spawned_too_late_is_dropped() -> Result<()> {
    /// Spawns when it is dropped.
    struct Late(Arc<Mutex<Option<JoinHandle<()>>>>);
    impl Module for Late {
        fn metadata(&self) -> ModuleMetadata {
            Probe::named("late").metadata()
        }
        async fn start(&mut self) -> Result<()> {
            Ok(())
        }
        async fn stop(&mut self) -> Result<()> {
            Ok(())
        }
    }
    impl Drop for Late {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(task::spawn(std::future::pending()));
        }
    }
    let handle = Arc::default();
    drop(TestHost::new().load_and_start(Late(Arc::clone(&handle)))?);
    assert!(handle.lock().unwrap().as_ref().unwrap().is_finished());
    Ok(())
}
