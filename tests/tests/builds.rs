//! However a plugin was compiled and linked, it loads, works, is swapped and is gone after its unload: what the shim
//! binds, it binds with every linker, with and without link-time optimisation.
#![cfg(target_os = "linux")]

use std::{fs, path::Path};

use object::{Object, ObjectSection};
use oxide_host::{Host, InspectedFile, LoadPolicy, RefusalReason};
use oxide_tests::{
    House,
    build::{Way, linker},
    child, plugin,
};
use serde_json::Value;

/// As cargo builds for whoever is at work on it.
const PLAIN: Way = Way { folder: "linked", cargo: &["--config=profile.dev.debug=false"], every: "" };

/// As small and as fast as it gets, and for this very processor.
const TIGHT: Way = Way {
    folder: "tight",
    cargo: &[
        "--release",
        "--config=profile.release.lto='fat'",
        "--config=profile.release.codegen-units=1",
        "--config=profile.release.opt-level='z'",
        "--config=profile.release.strip=true",
        "--config=profile.release.debug=false",
    ],
    every: "-Ctarget-cpu=native",
};

/// What is built in a way of its own: a plugin that leaves on threads whatever it can.
const PACKAGE: &str = "clinging";

/// The name of that build in a child.
const BUILT: &str = "built in another way";

/// What linkers write into the file about themselves.
fn linkers_of(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let comment = file.section_by_name(".comment").map(|section| section.data().unwrap().to_owned());
    String::from_utf8(comment.unwrap_or_default()).unwrap()
}

/// It has the shim, and nothing in it keeps it mapped.
fn is_understood(path: &Path) {
    let file = InspectedFile::read(path).unwrap();
    file.check_loadable(&LoadPolicy::default()).unwrap();
    assert_eq!(file.description().package, PACKAGE);
    let inspection = oxide_host::inspect(path);
    assert!(inspection.plugin);
    assert_eq!(inspection.about.unwrap().retained_by, []);
}

/// Leaves something on this thread, on one that ends, and on one of its own; and panics.
async fn works(house: &House) {
    for method in ["local", "current", "print", "catch", "chain", "thread_short", "runtime_dropped", "span"] {
        house.call(PACKAGE, method, "").await;
    }
    house.call_aside(PACKAGE, "local", "");
    let panicked = house.try_call(PACKAGE, "panic", "").await.unwrap_err();
    assert_eq!(panicked.code(), "hook_panicked", "{panicked}");
}

/// First alone, then in the place of an ordinary build and the other way round.
async fn comes_and_goes() {
    let (ordinary, built) = (plugin(PACKAGE), plugin(BUILT));
    is_understood(&built);
    let mut house = House::new().await;
    house.load_file(&built, PACKAGE, Value::Null).await.unwrap();
    works(&house).await;
    house.gone(PACKAGE).await;
    house.load(PACKAGE).await;
    works(&house).await;
    for next in [&built, &ordinary] {
        let report = house.swap(PACKAGE, next).await;
        assert!(report.old.unmapped, "{report:?}");
        works(&house).await;
    }
    house.gone(PACKAGE).await;
}

/// Builds the plugin with this linker, which signs with `sign`; nothing where there is no such linker.
macro_rules! linked_with {
    ($test:ident, $linker:literal, $sign:expr) => {
        #[test]
        fn $test() {
            let Some(flags) = linker($linker) else {
                println!(concat!("skipped: the C compiler finds no linker `", $linker, "`"));
                return;
            };
            let build = || {
                let path = PLAIN.build(PACKAGE, $linker, &flags);
                let signed = linkers_of(&path);
                let sign: Option<&str> = $sign;
                let others = ["LLD", "mold"].into_iter().filter(|one| signed.contains(one));
                assert_eq!(others.collect::<Vec<_>>(), Vec::from_iter(sign), "{signed}");
                path
            };
            child(&[PACKAGE]).with(BUILT, build).run(|| oxide_tests::block_on(comes_and_goes()));
        }
    };
}

linked_with!(by_lld, "lld", Some("LLD"));
linked_with!(by_gnu_ld, "bfd", None);
linked_with!(by_mold, "mold", Some("mold"));

#[test]
fn for_size_with_fat_lto_and_for_this_very_processor() {
    let build = || TIGHT.build(PACKAGE, "unwind", &[]);
    child(&[PACKAGE]).with(BUILT, build).run(|| oxide_tests::block_on(comes_and_goes()));
}

/// Link-time optimisation does not hide that it would end the host.
#[tokio::test]
async fn what_would_abort_on_a_panic_is_refused_however_it_was_optimised() {
    let path = TIGHT.build("panic-abort", "abort", &["-Cpanic=abort".to_owned()]);
    let error = Host::new().unwrap().load(&path).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalReason::PanicAbort), "{error}");
    assert!(!oxide_host::inspect(&path).plugin);
}
