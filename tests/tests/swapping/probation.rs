//! A new build on probation goes back to the one before when it fails its callers.

use std::{fs, time::Duration};

use oxide_host::{
    Host, Probation, SwapOptions,
    bus::{Event, Subscription},
    error::KernelError,
};
use oxide_tests::{
    eventually, in_time, load_misbehaving,
    misbehave::{Changed, changed},
    misbehaving, next_event,
};
use serde_json::json;

/// Nothing in these tests waits for it.
const LONG: Duration = Duration::from_secs(3600);

/// Another build of the same plugin: one byte, which nobody reads, is another.
fn another_build() -> Changed {
    let mut bytes = fs::read(misbehaving()).unwrap();
    bytes.push(0);
    changed("misbehaving", &bytes)
}

/// `m`, swapped to generation 2.
async fn on_probation(probation: Probation) -> (Host, Subscription) {
    let host = Host::new().unwrap();
    let events = host.bus().subscribe().await;
    load_misbehaving(&host, "m", json!({})).await.unwrap();
    let options = SwapOptions::new().probation(probation);
    let report = in_time(host.swap_with("m", another_build(), options)).await.unwrap();
    assert_eq!((report.from, report.to), (1, 2));
    (host, events)
}

/// What the module went back for.
async fn went_back(events: &mut Subscription) -> (u64, u64, String) {
    let (_, event) = next_event(events, |event| {
        matches!(event, Event::ModuleRolledBack { .. } | Event::RollbackFailed { .. })
    })
    .await;
    match event {
        Event::ModuleRolledBack { from, to, reason, .. } => (from, to, reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_panic_sends_it_back() {
    let (host, mut events) = on_probation(Probation::new(LONG)).await;
    assert!(host.show("m").await.unwrap().probation_millis.is_some());
    let error = host.invoke("m", "panic", "").await.unwrap_err();
    assert!(matches!(error, KernelError::HookPanicked { .. }), "{error:?}");
    let (from, to, reason) = went_back(&mut events).await;
    assert_eq!((from, to), (2, 3));
    assert_eq!(reason, "1 panic and 0 errors while on probation");
    let info = host.show("m").await.unwrap();
    assert_eq!((info.generation, info.probation_millis), (3, None));
    assert_eq!(info.path.as_deref(), Some(&*misbehaving()));
    // Nobody watches it any more.
    host.invoke("m", "panic", "").await.unwrap_err();
    assert_eq!(in_time(host.rollback("m")).await.unwrap().from, 3);
}

#[tokio::test]
async fn more_errors_than_are_allowed_send_it_back() {
    let (host, mut events) = on_probation(Probation::new(LONG).errors(2)).await;
    for _ in 0..20 {
        let error = host.invoke("m", "there is no such method", "").await.unwrap_err();
        assert!(matches!(error, KernelError::UnknownMethod { .. }), "{error:?}");
    }
    for _ in 0..3 {
        assert_eq!(host.show("m").await.unwrap().generation, 2);
        let error = host.invoke("m", "fail", "on purpose").await.unwrap_err();
        assert!(matches!(error, KernelError::HookFailed { .. }), "{error:?}");
    }
    let (from, to, reason) = went_back(&mut events).await;
    assert_eq!((from, to), (2, 3));
    assert_eq!(reason, "0 panics and 3 errors while on probation");
}

#[tokio::test]
async fn after_its_probation_it_stays() {
    let (host, _) = on_probation(Probation::new(Duration::from_millis(1))).await;
    eventually("the probation is over", || {
        oxide_tests::block_on(host.show("m")).unwrap().probation_millis.is_none()
    })
    .await;
    host.invoke("m", "panic", "").await.unwrap_err();
    // The next swap comes after whatever a rollback would have done.
    assert_eq!(in_time(host.rollback("m")).await.unwrap().from, 2);
}

#[tokio::test]
async fn a_build_that_has_been_replaced_is_not_sent_back() {
    let (host, mut events) = on_probation(Probation::new(LONG)).await;
    let report = in_time(host.swap("m", another_build())).await;
    // The same bytes as generation 2.
    assert!(matches!(report, Err(KernelError::SameBuild { generation: 2, .. })), "{report:?}");
    let options = SwapOptions::new().force(true);
    in_time(host.swap_with("m", another_build(), options)).await.unwrap();
    host.invoke("m", "panic", "").await.unwrap_err();
    in_time(host.unload("m")).await.unwrap();
    next_event(&mut events, |event| match event {
        Event::ModuleRolledBack { .. } | Event::RollbackFailed { .. } => panic!("{event:?}"),
        event => matches!(event, Event::ModuleUnloaded { .. }),
    })
    .await;
}
