//! With the feature `tokio`, tokio simply works in a plugin, and its threads are gone after the unload.

use std::fs;

use oxide_host::{
    Host,
    report::{DropOutcome, Holder, StopOutcome},
};
use oxide_tests::{block_on, in_time, plugin};

/// How many threads of this process are workers of a plugin's runtime.
fn workers() -> usize {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return 0 };
    let names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "oxide-plugin").count()
}

// One test, since the workers of the whole process are counted.
#[test]
fn tokio_works_in_every_hook_and_is_joined_at_the_unload() {
    let host = Host::new().unwrap();
    // Without a runtime of the caller's: the plugin's own is what works.
    block_on(host.load(plugin("tokio-user"))).unwrap();
    if cfg!(target_os = "linux") {
        assert!(workers() > 0);
    }
    for method in ["sleep", "spawn", "loopback"] {
        let reply = block_on(host.invoke("tokio-user", method, method)).unwrap();
        assert_eq!(reply.as_bytes(), method.as_bytes());
    }
    // And on a caller's runtime, whose tokio is another one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let calls: Vec<_> = (0..8)
            .map(|number| {
                let host = host.clone();
                tokio::spawn(async move { host.invoke("tokio-user", "loopback", number.to_string()).await })
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(in_time(call).await.unwrap().unwrap().as_bytes(), number.to_string().as_bytes());
        }
        host.stop("tokio-user").await.unwrap();
        host.start("tokio-user").await.unwrap();
        assert_eq!(host.invoke("tokio-user", "loopback", "again").await.unwrap().as_bytes(), b"again");
        let receipt = in_time(host.unload("tokio-user")).await.unwrap();
        assert_eq!((receipt.stop, receipt.drop), (StopOutcome::Ok, DropOutcome::Ok));
        assert!(receipt.retained_by.iter().all(|one| one.holder != Holder::Thread), "{receipt:?}");
    });
    assert_eq!(workers(), 0);
}
