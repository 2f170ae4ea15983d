//! Calls: by handles that anybody may hold, refused with the state when the module does not run, and with
//! panics that stay in the module.

mod manager_support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use manager_support::*;
use oxide_host::{
    ModuleHandle, Payload,
    error::KernelError,
    module::{Module, ModuleState},
};

#[test]
fn a_handle_is_clone_send_and_sync_and_its_calls_are_send() {
    fn is<T: Clone + Send + Sync + 'static>() {}
    fn send<T: Send>(value: T) -> T {
        value
    }
    is::<ModuleHandle>();
    block_on(async {
        let (manager, _bus, _watcher) = manager().await;
        manager.register_native(Probe::new("one")).await.unwrap();
        let handle = manager.handle("one").unwrap();
        assert_eq!(handle.id(), "one");
        assert!(send(handle.invoke("echo", "")).await.is_err());
    });
}

#[tokio::test]
async fn a_module_that_is_not_running_takes_no_calls_and_the_error_names_its_state() {
    let (manager, _bus, _watcher) = manager().await;
    let (starting, stopping) = (Door::new(), Door::new());
    let (in_start, in_stop) = (starting.clone(), stopping.clone());
    let fails = Arc::new(AtomicBool::new(false));
    let failing = fails.clone();
    let probe = Probe::new("one")
        .on_start(move || {
            let (door, fails) = (in_start.clone(), failing.load(SeqCst));
            async move {
                door.pass().await;
                if fails { Err(refusal("no")) } else { Ok(()) }
            }
        })
        .on_stop(move || {
            let door = in_stop.clone();
            async move {
                door.pass().await;
                Ok(())
            }
        });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    let handle = manager.handle("one").unwrap();
    let refused = async |expected: ModuleState| {
        let error = handle.invoke("echo", "").await.unwrap_err();
        assert!(matches!(&error, KernelError::NotRunning { state, .. } if *state == expected), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("module `one` is {expected}, not running, so it takes no calls")
        );
    };
    refused(ModuleState::Loaded).await;
    let start = tokio::spawn({
        let manager = manager.clone();
        async move { manager.start("one").await }
    });
    starting.reached().await;
    refused(ModuleState::Starting).await;
    starting.open();
    start.await.unwrap().unwrap();
    assert_eq!(handle.invoke("echo", "now").await.unwrap().as_bytes(), b"now");
    let stop = tokio::spawn({
        let manager = manager.clone();
        async move { manager.stop("one").await }
    });
    stopping.reached().await;
    refused(ModuleState::Stopping).await;
    stopping.open();
    stop.await.unwrap().unwrap();
    refused(ModuleState::Stopped).await;
    fails.store(true, SeqCst);
    manager.start("one").await.unwrap_err();
    refused(ModuleState::Failed).await;
    assert_eq!(journal.times("invoke"), 1);
}

#[tokio::test]
async fn after_an_unload_a_handle_says_that_the_module_is_unknown_also_when_another_has_its_id() {
    let (manager, _bus, _watcher) = manager().await;
    manager.register_native(Probe::new("one")).await.unwrap();
    manager.start("one").await.unwrap();
    let handle = manager.handle("one").unwrap();
    manager.unload("one").await.unwrap();
    let gone = async || {
        let error = handle.clone().invoke("echo", "").await.unwrap_err();
        assert!(matches!(&error, KernelError::UnknownModule(id) if id == "one"), "{error:?}");
    };
    gone().await;
    // The seat may be the same one; the handle must not lead to the newcomer.
    manager.register_native(Probe::new("one")).await.unwrap();
    manager.start("one").await.unwrap();
    gone().await;
}

#[tokio::test]
async fn a_panic_in_a_call_is_an_error_that_names_module_and_message_and_the_module_keeps_running() {
    quiet_panics();
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one").on_invoke(|method, payload| async move {
        match method.as_str() {
            "at-once" => panic!("thrown on purpose, at once"),
            "later" => {
                tokio::task::yield_now().await;
                panic!("thrown on purpose, later")
            }
            _ => Ok(payload),
        }
    });
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    for method in ["at-once", "later"] {
        let error = manager.invoke("one", method, "").await.unwrap_err();
        assert!(
            matches!(&error, KernelError::HookPanicked { module, hook: "invoke", message }
                if module == "one" && message.contains("thrown on purpose")),
            "{error:?}"
        );
        assert_eq!(manager.state("one").await, Some(ModuleState::Running));
    }
    assert_eq!(manager.invoke("one", "echo", "hello").await.unwrap().as_bytes(), b"hello");
    // The panics gave their tickets back.
    manager.stop("one").await.unwrap();
    assert_eq!(watcher.told(), ["loaded one", "started one", "stopped one"]);
}

#[tokio::test]
async fn a_panic_payload_that_panics_when_it_is_dropped_goes_no_further() {
    struct Evil;
    impl Drop for Evil {
        fn drop(&mut self) {
            panic!("the payload's drop, on purpose");
        }
    }
    std::panic::set_hook(Box::new(|_| {}));
    let (manager, _bus, _watcher) = manager().await;
    manager
        .register_native(Probe::new("one").on_invoke(|_, _| async { std::panic::panic_any(Evil) }))
        .await
        .unwrap();
    manager.start("one").await.unwrap();
    let error = manager.invoke("one", "any", "").await.unwrap_err();
    assert!(matches!(error, KernelError::HookPanicked { .. }), "{error:?}");
    manager.stop("one").await.unwrap();
}

#[tokio::test]
async fn an_unknown_method_is_an_error_that_names_module_and_method() {
    struct Quiet;
    #[async_trait::async_trait]
    impl Module for Quiet {
        fn metadata(&self) -> oxide_host::module::ModuleMetadata {
            metadata("one")
        }
        async fn start(&mut self) -> oxide_host::error::Result<()> {
            Ok(())
        }
        async fn stop(&mut self) -> oxide_host::error::Result<()> {
            Ok(())
        }
    }
    let (manager, _bus, _watcher) = manager().await;
    manager.register_native(Quiet).await.unwrap();
    manager.start("one").await.unwrap();
    let error = manager.invoke("one", "dance", "").await.unwrap_err();
    assert!(
        matches!(&error, KernelError::UnknownMethod { module, method } if module == "one" && method == "dance"),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "module `one` has no method `dance`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_calls_are_inside_at_once() {
    let (manager, _bus, _watcher) = manager().await;
    let door = Door::new();
    let waiting = door.clone();
    let probe = Probe::new("one").on_invoke(move |_, payload| {
        let door = waiting.clone();
        async move {
            door.pass().await;
            Ok(payload)
        }
    });
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();
    manager.start("one").await.unwrap();
    let handle = manager.handle("one").unwrap();
    let calls: Vec<_> = (0..64)
        .map(|number: u32| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let reply = handle.invoke("wait", Payload::from(number.to_le_bytes().to_vec())).await;
                assert_eq!(reply.unwrap().as_bytes(), number.to_le_bytes());
            })
        })
        .collect();
    door.reached_by(64).await;
    door.open();
    for call in calls {
        call.await.unwrap();
    }
    manager.stop("one").await.unwrap();
    journal.assert_never_overlapped();
}

#[tokio::test]
async fn a_call_that_was_never_polled_holds_up_nothing() {
    let (manager, _bus, _watcher) = manager().await;
    manager.register_native(Probe::new("one")).await.unwrap();
    manager.start("one").await.unwrap();
    let handle = manager.handle("one").unwrap();
    let call = handle.invoke("echo", "late");
    patiently(manager.stop("one")).await.unwrap();
    assert!(matches!(call.await, Err(KernelError::NotRunning { .. })));
}

/// What a dropped call owns is gone before its ticket is: until then no `&mut` hook runs.
#[test]
fn a_call_that_is_dropped_comes_out_after_what_it_owns() {
    struct Owned(Option<Box<dyn FnOnce() + Send>>);
    impl Drop for Owned {
        fn drop(&mut self) {
            self.0.take().unwrap()();
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (manager, _bus, _watcher) = manager().await;
        let (dropping, may_go) = (Door::new(), Door::new());
        let (at, go) = (dropping.clone(), may_go.clone());
        let probe = Probe::new("one").on_invoke(move |_, payload| {
            let (at, go) = (at.clone(), go.clone());
            async move {
                let _owned = Owned(Some(Box::new(move || {
                    at.open();
                    go.pass_blocking();
                })));
                std::future::pending::<()>().await;
                Ok(payload)
            }
        });
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        manager.start("one").await.unwrap();
        let handle = manager.handle("one").unwrap();
        let thread = std::thread::spawn(move || {
            let mut call = Box::pin(handle.invoke("wait", ""));
            assert!(poll_once(call.as_mut()).is_pending());
            drop(call);
        });
        dropping.pass().await;
        let stop = tokio::spawn({
            let manager = manager.clone();
            async move { manager.stop("one").await }
        });
        until_state(&manager, "one", ModuleState::Stopping).await;
        // A stop that got past the drain would have failed by the time another module's has ended.
        manager.register_native(Probe::new("two")).await.unwrap();
        manager.start("two").await.unwrap();
        manager.stop("two").await.unwrap();
        assert_eq!(manager.state("one").await, Some(ModuleState::Stopping));
        assert_eq!(journal.times("stop"), 0);
        may_go.open();
        stop.await.unwrap().unwrap();
        thread.join().unwrap();
        journal.assert_never_overlapped();
    });
}
