//! A hook that fails or panics makes its module Failed, with an error that names module, hook and message,
//! announced once; and the module can be tried again.

mod manager_support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use manager_support::*;
use oxide_host::{
    error::KernelError,
    module::{Module, ModuleState},
    report::StopOutcome,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Error,
    Panic,
    PanicWithoutText,
    PanicThatPanicsWhenDropped,
}

struct Evil;

impl Drop for Evil {
    fn drop(&mut self) {
        panic!("the payload's drop, on purpose");
    }
}

fn go_wrong(way: Way) -> oxide_host::error::Result<()> {
    match way {
        Way::Error => Err(refusal("the disk is full")),
        Way::Panic => panic!("the disk is full, on purpose"),
        Way::PanicWithoutText => std::panic::panic_any(17),
        Way::PanicThatPanicsWhenDropped => std::panic::panic_any(Evil),
    }
}

const WAYS: [Way; 4] = [Way::Error, Way::Panic, Way::PanicWithoutText, Way::PanicThatPanicsWhenDropped];

#[track_caller]
fn assert_says(error: &KernelError, way: Way, hook: &str) {
    let text = error.to_string();
    assert!(text.contains("`one`") && text.contains(hook), "{text}");
    match way {
        Way::Error => assert!(matches!(error, KernelError::HookFailed { .. }), "{error:?}"),
        _ => assert!(matches!(error, KernelError::HookPanicked { .. }), "{error:?}"),
    }
    if matches!(way, Way::Error | Way::Panic) {
        assert!(text.contains("the disk is full"), "{text}");
    }
}

fn quiet() {
    // The payloads without a text are silenced, too.
    std::panic::set_hook(Box::new(|_| {}));
}

#[tokio::test]
async fn an_init_that_goes_wrong_makes_the_module_failed_and_is_tried_again() {
    quiet();
    for way in WAYS {
        let (manager, _bus, mut watcher) = manager().await;
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let probe = Probe::new("one").on_init(move |_| {
            let first = counted.fetch_add(1, SeqCst) == 0;
            async move { if first { go_wrong(way) } else { Ok(()) } }
        });
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        let error = manager.init("one").await.unwrap_err();
        assert_says(&error, way, "init");
        assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
        assert_eq!(watcher.told(), ["loaded one".to_owned(), format!("failed one: {error}")]);

        manager.init("one").await.unwrap();
        assert_eq!(manager.state("one").await, Some(ModuleState::Loaded));
        assert_eq!(journal.hooks(), (2, 0, 0));
        manager.start("one").await.unwrap();
        assert_eq!(journal.hooks(), (2, 1, 0));
    }
}

#[tokio::test]
async fn a_start_whose_init_goes_wrong_does_not_run_start_and_says_init() {
    quiet();
    for way in WAYS {
        let (manager, _bus, mut watcher) = manager().await;
        let probe = Probe::new("one").on_init(move |_| async move { go_wrong(way) });
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        let error = manager.start("one").await.unwrap_err();
        assert_says(&error, way, "init");
        assert_eq!(journal.hooks(), (1, 0, 0));
        assert_eq!(watcher.told(), ["loaded one".to_owned(), format!("failed one: {error}")]);
    }
}

#[tokio::test]
async fn a_start_that_goes_wrong_makes_the_module_failed_and_the_next_start_tries_again() {
    quiet();
    for way in WAYS {
        let (manager, _bus, mut watcher) = manager().await;
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let probe = Probe::new("one").on_start(move || {
            let bad = counted.fetch_add(1, SeqCst) < 2;
            async move {
                tokio::task::yield_now().await;
                if bad { go_wrong(way) } else { Ok(()) }
            }
        });
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        let mut told = vec!["loaded one".to_owned()];
        for _ in 0..2 {
            let error = manager.start("one").await.unwrap_err();
            assert_says(&error, way, "start");
            assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
            told.push(format!("failed one: {error}"));
        }
        assert!(matches!(
            manager.invoke("one", "echo", "").await,
            Err(KernelError::NotRunning { state: ModuleState::Failed, .. })
        ));
        manager.start("one").await.unwrap();
        told.push("started one".to_owned());
        assert_eq!(manager.state("one").await, Some(ModuleState::Running));
        assert_eq!(journal.hooks(), (1, 3, 0), "init had succeeded and is not run again");
        assert_eq!(watcher.told(), told);
        assert_eq!(manager.invoke("one", "echo", "hello").await.unwrap().as_bytes(), b"hello");
    }
}

#[tokio::test]
async fn a_stop_that_goes_wrong_makes_the_module_failed_and_it_can_be_started_again() {
    quiet();
    for way in WAYS {
        let (manager, _bus, mut watcher) = manager().await;
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let probe = Probe::new("one").on_stop(move || {
            let first = counted.fetch_add(1, SeqCst) == 0;
            async move { if first { go_wrong(way) } else { Ok(()) } }
        });
        manager.register_native(probe).await.unwrap();
        manager.start("one").await.unwrap();
        let error = manager.stop("one").await.unwrap_err();
        assert_says(&error, way, "stop");
        assert_eq!(manager.state("one").await, Some(ModuleState::Failed));
        manager.start("one").await.unwrap();
        manager.stop("one").await.unwrap();
        assert_eq!(
            watcher.told(),
            ["loaded one", "started one", &format!("failed one: {error}"), "started one", "stopped one"]
        );
    }
}

/// Invariant 3: a `stop` that failed is on the receipt, also when it failed before the unload.
#[tokio::test]
async fn the_receipt_tells_of_a_stop_that_went_wrong_before_the_unload() {
    quiet();
    for (way, outcome) in [(Way::Error, StopOutcome::Failed), (Way::Panic, StopOutcome::Panicked)] {
        let (manager, _bus, _watcher) = manager().await;
        let probe = Probe::new("one").on_stop(move || async move { go_wrong(way) });
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        manager.start("one").await.unwrap();
        manager.stop("one").await.unwrap_err();
        let receipt = manager.unload("one").await.unwrap();
        assert_eq!(receipt.stop, outcome);
        assert_eq!(journal.times("stop"), 1, "a stop that went wrong is not run again");
    }
}

#[tokio::test]
async fn a_stop_that_goes_wrong_in_an_unload_is_on_the_receipt_and_the_module_is_gone() {
    quiet();
    for (way, outcome) in [(Way::Error, StopOutcome::Failed), (Way::Panic, StopOutcome::Panicked)] {
        let (manager, _bus, mut watcher) = manager().await;
        let probe = Probe::new("one").on_stop(move || async move { go_wrong(way) });
        let journal = probe.journal();
        manager.register_native(probe).await.unwrap();
        manager.start("one").await.unwrap();
        let receipt = manager.unload("one").await.unwrap();
        assert_eq!(receipt.stop, outcome);
        assert!(receipt.unmapped);
        assert_eq!(journal.times("drop"), 1);
        assert_eq!(manager.state("one").await, None);
        assert_eq!(watcher.told(), ["loaded one", "started one", "unloaded one"]);
    }
}

#[tokio::test]
async fn a_failed_module_changes_nothing_for_another() {
    quiet();
    let (manager, _bus, _watcher) = manager().await;
    manager
        .register_native(Probe::new("one").on_start(|| async { go_wrong(Way::PanicThatPanicsWhenDropped) }))
        .await
        .unwrap();
    manager.register_native(Probe::new("two")).await.unwrap();
    manager.start("two").await.unwrap();
    manager.start("one").await.unwrap_err();
    assert_eq!(manager.invoke("two", "echo", "hello").await.unwrap().as_bytes(), b"hello");
    manager.stop("two").await.unwrap();
}

/// The error of a hook keeps its causes.
#[tokio::test]
async fn the_causes_of_a_hooks_error_are_kept() {
    let (manager, _bus, _watcher) = manager().await;
    let probe = Probe::new("one").on_start(|| async {
        Err(KernelError::Io {
            action: "open",
            path: "/etc/one".into(),
            source: std::io::Error::other("the disk is on fire"),
        })
    });
    manager.register_native(probe).await.unwrap();
    match manager.start("one").await.unwrap_err() {
        KernelError::HookFailed { message, chain, .. } => {
            assert!(message.contains("/etc/one"), "{message}");
            assert_eq!(chain, ["the disk is on fire"]);
        }
        other => panic!("{other:?}"),
    }
}

/// A future written by hand may own something that panics when it is dropped after its end.
#[tokio::test]
async fn a_hook_whose_future_panics_evilly_when_it_is_dropped_has_still_ended() {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll},
    };
    struct Loaded;
    impl Future for Loaded {
        type Output = oxide_host::error::Result<()>;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(()))
        }
    }
    impl Drop for Loaded {
        fn drop(&mut self) {
            std::panic::panic_any(Evil);
        }
    }
    struct ByHand;
    impl Module for ByHand {
        fn metadata(&self) -> oxide_host::module::ModuleMetadata {
            metadata("one")
        }
        fn start<'a, 'b>(&'a mut self) -> Boxed2<'b>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(Loaded)
        }
        fn stop<'a, 'b>(&'a mut self) -> Boxed2<'b>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Ok(()) })
        }
    }
    type Boxed2<'b> = Pin<Box<dyn Future<Output = oxide_host::error::Result<()>> + Send + 'b>>;
    quiet();
    let (manager, _bus, _watcher) = manager().await;
    manager.register_native(ByHand).await.unwrap();
    // Ended or panicked, but named and told, and the module can be stopped or tried again.
    if let Err(error) = manager.start("one").await {
        assert!(matches!(&error, KernelError::HookPanicked { .. }), "{error:?}");
        assert!(!error.to_string().contains("gave no answer"), "{error}");
    }
    assert!(manager.unload("one").await.is_ok());
}
