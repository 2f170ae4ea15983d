//! A whole load–start–call–stop–unload cycle of a stripped release plugin, against what one would write by hand
//! for the same file: copy it, `dlopen`, `dlsym`, `dlclose`, remove the copy. The two are timed in turn, so that
//! the ratio means something on a noisy machine; every receipt says that the library is gone.
//!
//! `cargo bench -p oxide-host --bench cycle` prints the ratio.
#![allow(unsafe_code, reason = "the other side of the comparison opens libraries by hand")]

mod measure;

use std::{fs, path::Path};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use measure::{compare, time};
use oxide_host::Host;

const PAIRS: usize = 500;

fn main() {
    let echo = oxide_tests::build::stripped_release("echo");
    let folder = tempfile::tempdir().expect("room for a copy");
    let size = fs::metadata(&echo).expect("it has just been built").len();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let host = Host::new().expect("a host");

    let mut pairs = Vec::new();
    for round in 0..PAIRS + 20 {
        let ours = time(|| runtime.block_on(cycle(&host, &echo)));
        let naive = time(|| by_hand(&echo, &folder.path().join(format!("copy-{round}.so"))));
        // The first ones warm everything up.
        if round >= 20 {
            pairs.push((ours, naive));
        }
    }
    println!("a cycle of {} KiB, {PAIRS} pairs:", size / 1024);
    compare("copy, dlopen, dlsym, dlclose", &pairs);
}

async fn cycle(host: &Host, path: &Path) {
    host.load(path).await.expect("it loads");
    let reply = host.invoke("echo", "echo", vec![7_u8; 64]).await.expect("it answers");
    assert_eq!(reply.len(), 64);
    let receipt = host.unload("echo").await.expect("it was there");
    assert!(receipt.unmapped, "{receipt:?}");
}

fn by_hand(path: &Path, copy: &Path) {
    fs::copy(path, copy).expect("room for a copy");
    // SAFETY: our own plugin; nothing of it is used after the close.
    unsafe {
        let library = Library::open(Some(copy), RTLD_NOW | RTLD_LOCAL).expect("it opens");
        let symbol = library.get::<*const ()>(oxide_plugin_api::ffi::ENTRY.as_bytes()).expect("it is there");
        assert!(!(*symbol).is_null());
        library.close().expect("it closes");
    }
    fs::remove_file(copy).expect("it was there");
}
