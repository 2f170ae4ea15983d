//! A state goes over to the next build and back, format by format; one that cannot be handed over stays where it is.

use oxide_host::{Host, LoadOptions, SwapReport, error::KernelError, report::SwapStep};
use oxide_tests::{in_time, plugin, told};
use serde_json::json;

/// A counter that has been 9 and is 5.
async fn counting(host: &Host) {
    let options = LoadOptions::new().config(json!({ "start": 2 }));
    host.load_with(plugin("counter"), options).await.unwrap();
    assert_eq!(call(host, "increment 7").await, 9);
    assert_eq!(call(host, "increment -4").await, 5);
}

/// `method argument`.
async fn call(host: &Host, call: &str) -> i64 {
    let (method, argument) = call.split_once(' ').unwrap_or((call, ""));
    host.invoke("counter", method, argument).await.unwrap().to_json().unwrap()
}

fn went_over(report: &SwapReport) {
    assert!(report.state_moved, "{report:?}");
    assert!(report.old.unmapped, "{report:?}");
}

/// At which step, and why; whatever it was, the old build goes on.
fn refused(swapped: Result<SwapReport, KernelError>) -> (SwapStep, KernelError) {
    match swapped {
        Err(KernelError::SwapFailed { step, source, .. }) => (step, *source),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_state_goes_up_to_the_next_version_and_back() {
    let host = Host::new().unwrap();
    counting(&host).await;

    let report = in_time(host.swap("counter", plugin("counter2"))).await.unwrap();
    went_over(&report);
    assert_eq!((report.from_version.as_str(), report.to_version.as_str()), ("0.1.0", "0.2.0"));
    assert!(!report.downgrade);
    // The first build did not know how high it was.
    assert_eq!((call(&host, "get").await, call(&host, "highest").await), (5, 5));
    assert_eq!(call(&host, "increment 10").await, 15);
    assert_eq!(call(&host, "increment -3").await, 12);

    let report = in_time(host.rollback("counter")).await.unwrap();
    went_over(&report);
    assert!(report.downgrade);
    assert_eq!(call(&host, "get").await, 12);
    let error = host.invoke("counter", "highest", "").await.unwrap_err();
    assert!(matches!(error, KernelError::UnknownMethod { .. }), "{error:?}");

    went_over(&in_time(host.rollback("counter")).await.unwrap());
    assert_eq!((call(&host, "get").await, call(&host, "highest").await), (12, 12));
}

#[tokio::test]
async fn between_builds_of_one_version_nothing_is_forgotten() {
    let host = Host::new().unwrap();
    host.load(plugin("counter2")).await.unwrap();
    assert_eq!(call(&host, "increment 9").await, 9);
    assert_eq!(call(&host, "increment -4").await, 5);
    let options = oxide_host::SwapOptions::new().force(true).config(json!({ "start": 100 }));
    went_over(&in_time(host.swap_with("counter", plugin("counter2"), options)).await.unwrap());
    assert_eq!((call(&host, "get").await, call(&host, "highest").await), (5, 9));
}

#[tokio::test]
async fn a_stopped_module_hands_its_state_over_too() {
    let host = Host::new().unwrap();
    counting(&host).await;
    host.stop("counter").await.unwrap();
    let report = in_time(host.swap("counter", plugin("counter2"))).await.unwrap();
    assert!(report.state_moved, "{report:?}");
    host.start("counter").await.unwrap();
    assert_eq!(call(&host, "get").await, 5);
}

#[tokio::test]
async fn a_version_that_nobody_knows_is_refused_and_the_state_stays_where_it_is() {
    let host = Host::new().unwrap();
    host.load(plugin("future-counter")).await.unwrap();
    assert_eq!(call(&host, "increment").await, 1);
    for next in ["counter", "counter2"] {
        let swapped = in_time(host.swap("counter", plugin(next))).await;
        let (step, error) = refused(swapped);
        assert_eq!(step, SwapStep::RestoreState);
        let expected = if next == "counter" { 1 } else { 2 };
        let error = told(&error);
        assert!(
            error.contains(&format!("the state has version 9, this build reads version {expected}: ")),
            "{error}"
        );
        assert_eq!(host.show("counter").await.unwrap().generation, 1);
    }
    assert_eq!(call(&host, "get").await, 1);
    assert_eq!(call(&host, "increment").await, 2);
    // And it can still be handed over, to whoever knows it.
    let options = oxide_host::SwapOptions::new().force(true);
    went_over(&in_time(host.swap_with("counter", plugin("future-counter"), options)).await.unwrap());
    assert_eq!(call(&host, "get").await, 2);
}

#[tokio::test]
async fn without_a_format_that_the_build_before_reads_there_is_no_way_back() {
    let host = Host::new().unwrap();
    counting(&host).await;
    went_over(&in_time(host.swap("counter", plugin("future-counter"))).await.unwrap());
    assert_eq!(call(&host, "increment").await, 6);
    let (step, error) = refused(in_time(host.rollback("counter")).await);
    assert_eq!(step, SwapStep::RestoreState);
    assert!(matches!(error, KernelError::HookFailed { hook: "restore_state", .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "restore_state of module `counter` failed: the state has version 9, this build reads version 1: swap to a \
         build that does, or have the newer one save `also(1, …)`"
    );
    assert_eq!(call(&host, "increment").await, 7);
    assert_eq!(host.show("counter").await.unwrap().version, "9.0.0");
}

#[tokio::test]
async fn a_state_over_the_limit_is_not_handed_over() {
    let host = Host::builder().state_limit(3).build().unwrap();
    host.load(plugin("counter")).await.unwrap();
    assert_eq!(call(&host, "increment 1000").await, 1000);
    let (step, error) = refused(in_time(host.swap("counter", plugin("counter2"))).await);
    assert_eq!(step, SwapStep::SaveState);
    assert!(matches!(error, KernelError::StateTooLarge { found: 4, limit: 3, .. }), "{error:?}");
    assert_eq!(
        told(&error),
        "error[state_too_large]: the state of module `counter` has 4 bytes, more than the 3 that are allowed\n\
         hint: the limit is `state_bytes` in the host's configuration"
    );
    assert_eq!(call(&host, "increment -1").await, 999);
    // At the limit it is.
    went_over(&in_time(host.swap("counter", plugin("counter2"))).await.unwrap());
    assert_eq!(call(&host, "get").await, 999);
    // It is the whole that counts, with what is given along: this one has `{"count":999,"highest":999}` and `999`.
    let (_, error) = refused(in_time(host.rollback("counter")).await);
    assert!(matches!(error, KernelError::StateTooLarge { found: 31, limit: 3, .. }), "{error:?}");
    assert_eq!(call(&host, "highest").await, 999);
}
