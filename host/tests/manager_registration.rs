//! Modules are registered under their ids, each id once, and everybody sees where they stand.

mod manager_support;

use manager_support::*;
use oxide_host::{
    error::KernelError,
    module::{Module, ModuleKind, ModuleManager, ModuleMetadata, ModuleState, WasmModule},
};

#[tokio::test]
async fn a_registered_module_is_loaded_and_listed_and_announced_once() {
    let (manager, _bus, mut watcher) = manager().await;
    let probe = Probe::new("one");
    let journal = probe.journal();
    manager.register_native(probe).await.unwrap();

    assert_eq!(watcher.told(), ["loaded one"]);
    assert_eq!(manager.state("one").await, Some(ModuleState::Loaded));
    assert_eq!(manager.list().await, [(metadata("one"), ModuleState::Loaded)]);
    assert_eq!(journal.hooks(), (0, 0, 0), "registering runs no hook");
}

#[tokio::test]
async fn a_wasm_module_is_registered_as_one_and_instantiated_by_init() {
    let (manager, _bus, _watcher) = manager().await;
    let probe = Probe::new("guest");
    let journal = probe.journal();
    manager.register_wasm(WasmProbe(probe)).await.unwrap();

    assert_eq!(manager.list().await[0].0.kind, ModuleKind::Wasm, "whatever its metadata says");
    manager.start("guest").await.unwrap();
    assert_eq!(journal.hooks(), (1, 1, 0));
    assert_eq!(manager.invoke("guest", "echo", "hello").await.unwrap().as_bytes(), b"hello");
}

#[tokio::test]
async fn modules_in_boxes_are_modules() {
    let (manager, _bus, _watcher) = manager().await;
    let native: Box<dyn Module> = Box::new(Probe::new("native"));
    let wasm: Box<dyn WasmModule> = Box::new(WasmProbe(Probe::new("wasm")));
    manager.register_native(native).await.unwrap();
    manager.register_wasm(wasm).await.unwrap();
    for id in ["native", "wasm"] {
        manager.start(id).await.unwrap();
        assert_eq!(manager.invoke(id, "echo", id).await.unwrap().as_bytes(), id.as_bytes());
        manager.stop(id).await.unwrap();
        assert!(manager.unload(id).await.unwrap().unmapped);
    }
}

#[tokio::test]
async fn an_id_is_taken_once_and_the_first_keeps_it() {
    let (manager, _bus, mut watcher) = manager().await;
    let (first, second) = (Probe::new("same"), Probe::new("same"));
    let (kept, refused) = (first.journal(), second.journal());
    manager.register_native(first).await.unwrap();
    manager.start("same").await.unwrap();

    let error = manager.register_native(second).await.unwrap_err();
    assert!(matches!(&error, KernelError::DuplicateModule(id) if id == "same"), "{error:?}");
    assert!(error.to_string().contains("`same`"), "{error}");
    assert_eq!(refused.times("drop"), 1);
    assert_eq!(kept.times("drop"), 0);
    assert_eq!(manager.state("same").await, Some(ModuleState::Running));
    assert_eq!(watcher.told(), ["loaded same", "started same"]);
}

#[tokio::test]
async fn of_many_that_want_an_id_at_once_one_gets_it() {
    let (manager, _bus, mut watcher) = manager().await;
    let tries: Vec<_> = (0..16)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.register_native(Probe::new("wanted")).await.is_ok() })
        })
        .collect();
    let mut got = 0;
    for one in tries {
        got += usize::from(one.await.unwrap());
    }
    assert_eq!(got, 1);
    assert_eq!(watcher.told(), ["loaded wanted"]);
}

#[tokio::test]
async fn absurd_ids_are_refused_and_the_error_says_why() {
    let (manager, _bus, mut watcher) = manager().await;
    let long = "x".repeat(129);
    for (id, why) in
        [("", "empty"), (long.as_str(), "128"), ("a/b", "`/`"), ("a\nb", "control"), (" a", "white space")]
    {
        let error = manager.register_native(Probe::new(id)).await.unwrap_err();
        assert!(matches!(error, KernelError::InvalidId { .. }), "{id:?}: {error:?}");
        assert!(error.to_string().contains(why), "{id:?}: {error}");
    }
    manager.register_native(Probe::new(&"x".repeat(128))).await.unwrap();
    assert_eq!(manager.list().await.len(), 1);
    assert_eq!(watcher.told().len(), 1);
}

#[tokio::test]
async fn a_module_whose_metadata_panics_is_not_registered() {
    struct Bad;
    #[async_trait::async_trait]
    impl Module for Bad {
        fn metadata(&self) -> ModuleMetadata {
            panic!("thrown on purpose")
        }
        async fn start(&mut self) -> oxide_host::error::Result<()> {
            Ok(())
        }
        async fn stop(&mut self) -> oxide_host::error::Result<()> {
            Ok(())
        }
    }
    quiet_panics();
    let (manager, _bus, mut watcher) = manager().await;
    let error = manager.register_native(Bad).await.unwrap_err();
    assert!(matches!(error, KernelError::HookPanicked { hook: "metadata", .. }), "{error:?}");
    assert!(error.to_string().contains("thrown on purpose"), "{error}");
    assert!(manager.list().await.is_empty());
    assert!(watcher.told().is_empty());
}

#[tokio::test]
async fn what_nobody_registered_is_unknown_to_every_verb() {
    let (manager, _bus, mut watcher) = manager().await;
    assert_eq!(manager.state("nobody").await, None);
    let errors = [
        manager.init("nobody").await.unwrap_err(),
        manager.start("nobody").await.unwrap_err(),
        manager.stop("nobody").await.unwrap_err(),
        manager.unload("nobody").await.unwrap_err(),
        manager.invoke("nobody", "echo", "").await.unwrap_err(),
        manager.handle("nobody").unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(&error, KernelError::UnknownModule(id) if id == "nobody"), "{error:?}");
    }
    assert!(watcher.told().is_empty());
}

#[tokio::test]
async fn the_list_is_in_the_order_of_the_ids_and_says_each_state() {
    let (manager, _bus, _watcher) = manager().await;
    for id in ["c", "a", "d", "b"] {
        manager.register_native(Probe::new(id)).await.unwrap();
    }
    manager.start("a").await.unwrap();
    manager.start("b").await.unwrap();
    manager.stop("b").await.unwrap();
    manager.init("c").await.unwrap();
    let list: Vec<_> =
        manager.list().await.into_iter().map(|(metadata, state)| (metadata.id, state)).collect();
    let expected = [
        ("a", ModuleState::Running),
        ("b", ModuleState::Stopped),
        ("c", ModuleState::Loaded),
        ("d", ModuleState::Loaded),
    ];
    assert_eq!(list, expected.map(|(id, state)| (id.to_owned(), state)));
}

#[tokio::test]
async fn clones_of_a_manager_manage_the_same_modules() {
    let (manager, _bus, _watcher) = manager().await;
    let clone: ModuleManager = manager.clone();
    manager.register_native(Probe::new("shared")).await.unwrap();
    clone.start("shared").await.unwrap();
    drop(clone);
    assert_eq!(manager.state("shared").await, Some(ModuleState::Running));
}
