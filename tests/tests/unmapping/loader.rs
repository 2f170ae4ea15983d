//! Code that runs while a library is opened and closed, and does not end: the host goes on without the loader.

use std::time::Duration;

use oxide_host::{
    Host,
    report::{DropOutcome, Holder},
};
use oxide_tests::{Flag, House, SHORT, block_on, child, house::holders, plugin, until};
use serde_json::{Value, json};

/// A deadline of the loader's within which what does not block is opened on any machine.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_constructor_that_blocks_is_refused_in_time_and_loading_goes_on_when_it_returns() {
    child(&["clinging", "echo"]).flag("CLINGING_CONSTRUCTOR").run(|| {
        block_on(async {
            let flag = Flag::named("CLINGING_CONSTRUCTOR");
            // Of another host in the same process; there is one loader.
            let mut patient = House::new().await;
            let mut house = House::with(|builder| builder.loader_timeout(SHORT)).await;
            patient.load("echo").await;
            // A thread's first call waits for the loader, when that is at it: glibc's lock of thread-locals is the
            // loader's.
            patient.call("echo", "echo", "first").await;
            let error = house.load_file(&plugin("clinging"), "stuck", Value::Null).await.unwrap_err();
            assert_eq!(error.code(), "loader_stuck", "{error}");
            assert!(flag.is_inside() && !flag.has_ended());
            assert!(house.host.list().await.is_empty() && house.host.retained().is_empty());
            // Nothing else is opened meanwhile, and everything else goes on.
            let error = patient.load_file(&plugin("echo"), "second", Value::Null).await.unwrap_err();
            assert_eq!(error.code(), "loader_stuck", "{error}");
            assert_eq!(patient.call("echo", "echo", "still there").await, "still there");
            assert_eq!(patient.host.list().await.len(), 1);
            patient.host.stop("echo").await.unwrap();
            patient.host.start("echo").await.unwrap();
            flag.go_on();
            until("loading goes on", || {
                block_on(patient.load_file(&plugin("echo"), "second", Value::Null)).is_ok()
            });
            // What was opened too late was closed again.
            until("it is closed", || !house.is_mapped("stuck"));
            assert_eq!(patient.call("second", "echo", "back").await, "back");
            // Not by the impatient one: what does not block may be slow, too.
            patient.load("clinging").await;
            patient.gone("clinging").await;
            patient.gone("echo").await;
        });
    });
}

#[test]
fn a_destructor_that_blocks_holds_its_library_and_nothing_but_the_loader() {
    child(&["clinging", "echo"]).flag("CLINGING_DESTRUCTOR").run(|| {
        block_on(async {
            let flag = Flag::named("CLINGING_DESTRUCTOR");
            let mut patient = House::new().await;
            let mut house = House::with(|builder| builder.loader_timeout(SOON)).await;
            patient.load("echo").await;
            patient.load_as("echo", "second", json!({})).await;
            patient.call("echo", "echo", "first").await;
            house.load("clinging").await;
            house.call("clinging", "current", "").await;
            let receipt = house.unload("clinging").await;
            let [one] = &receipt.retained_by[..] else { panic!("{receipt:?}") };
            assert_eq!((one.holder, one.count, receipt.drop), (Holder::Loader, 1, DropOutcome::Ok));
            assert!(flag.is_inside() && !flag.has_ended());
            // Others are called, stopped and started as ever; they can be unloaded, but not yet closed.
            assert_eq!(patient.call("echo", "echo", "still there").await, "still there");
            patient.host.stop("echo").await.unwrap();
            patient.host.start("echo").await.unwrap();
            let receipt = patient.host.unload("second").await.unwrap();
            assert_eq!(holders(&receipt), [(Holder::Loader, 1)]);
            assert_eq!(patient.host.list().await.len(), 1);
            let error = patient.load_file(&plugin("echo"), "third", Value::Null).await.unwrap_err();
            assert_eq!(error.code(), "loader_stuck", "{error}");
            flag.go_on();
            house.gone_at_last("clinging").await;
            assert!(flag.has_ended());
            patient.gone_at_last("second").await;
            patient.load_as("echo", "third", json!({})).await;
            patient.gone("third").await;
            patient.gone("echo").await;
        });
    });
}

#[test]
fn what_a_destructor_allocates_and_registers_is_forgotten_with_its_library() {
    child(&["clinging"]).variable("CLINGING_DESTRUCTOR_ALLOCATES", "1").run(|| {
        block_on(async {
            let mut house = House::new().await;
            // Each library may be lent what the one before had.
            for _ in 0..3 {
                house.load("clinging").await;
                house.call("clinging", "current", "").await;
                house.gone("clinging").await;
            }
        });
    });
}

/// The loader counts how often it was opened.
#[test]
fn a_library_that_opened_itself_stays_and_the_receipt_says_so() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            house.call("clinging", "open_itself", "").await;
            assert_eq!(house.retained("clinging").await, [(Holder::Loader, 1)]);
        });
    });
}

/// The process's map has the path that the kernel knows, whatever links led there.
#[test]
fn so_it_does_where_the_folder_for_temporary_files_is_a_link() {
    let folders = tempfile::tempdir().unwrap();
    let (real, link) = (folders.path().join("real"), folders.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let child =
        child(&["clinging"]).variable("XDG_RUNTIME_DIR", "").variable("TMPDIR", link.to_string_lossy());
    child.run(|| {
        block_on(async {
            let host = Host::new().unwrap();
            host.load(plugin("clinging")).await.unwrap();
            host.invoke("clinging", "open_itself", "").await.unwrap();
            let receipt = host.unload("clinging").await.unwrap();
            assert_eq!(holders(&receipt), [(Holder::Loader, 1)]);
        });
    });
}
