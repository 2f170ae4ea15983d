//! The compiler's version does not matter: a plugin that the nightly compiler built loads into this host.

use oxide_host::{Host, InspectedFile};
use oxide_tests::build::{self, file, nightly_cargo};

#[tokio::test]
async fn a_plugin_built_by_nightly_loads() {
    let Some(mut cargo) = nightly_cargo() else {
        println!("skipped: no nightly toolchain");
        return;
    };
    cargo.args(["build", "--package", "echo", "--package", "ticker", "--target-dir"]);
    cargo.arg(build::target().join("nightly"));
    let built = build::run(&mut cargo, &[]);
    let path = file(&built, "echo");
    let rustc = InspectedFile::read(&path).unwrap().description().rustc.clone();
    assert!(rustc.contains("nightly"), "{rustc}");

    let host = Host::new().unwrap();
    host.load(&path).await.unwrap();
    assert_eq!(host.invoke("echo", "upper", "from the future").await.unwrap().as_bytes(), b"FROM THE FUTURE");
    assert_eq!(host.invoke("echo", "no such", "").await.unwrap_err().code(), "unknown_method");
    let mut events = host.bus().subscribe().await;
    host.load(file(&built, "ticker")).await.unwrap();
    oxide_tests::next_event(&mut events, |event| event.module_id() == Some("ticker")).await;
    assert_eq!(host.shutdown().await.len(), 2);
}
