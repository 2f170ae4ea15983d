//! Loading a plugin gives a running module, under the id and with the configuration that were asked for.

use oxide_host::{
    Host, InspectedFile, LoadOptions,
    error::KernelError,
    module::{ModuleKind, ModuleState},
};
use oxide_plugin_api::ffi::describe::SOURCE;
use oxide_tests::{
    misbehave::{changed, options},
    misbehaving, ordered, plugin, told,
};
use serde_json::json;

#[tokio::test]
async fn a_loaded_plugin_runs_and_says_what_it_is() {
    let host = Host::new().unwrap();
    let info = host.load(plugin("echo")).await.unwrap();
    assert_eq!(info.id, "echo");
    assert_eq!(info.name, "Echo");
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.kind, ModuleKind::Native);
    assert_eq!(info.state, ModuleState::Running);
    assert_eq!(info.generation, 1);
    assert_eq!(info.path.as_deref(), Some(&*plugin("echo")));
    assert_eq!(info.description.as_deref(), Some("Answers what it was sent"));

    assert_eq!(host.show("echo").await.unwrap(), info);
    assert_eq!(host.list().await, [info]);
    assert_eq!(host.invoke("echo", "echo", "hello").await.unwrap().as_bytes(), b"hello");

    let receipt = host.unload("echo").await.unwrap();
    assert_eq!((&*receipt.id, receipt.generation), ("echo", 1));
    assert!(host.list().await.is_empty());
    assert!(matches!(host.show("echo").await, Err(KernelError::UnknownModule(id)) if id == "echo"));
}

#[tokio::test]
async fn a_plugin_built_from_other_sources_of_the_api_is_loaded_when_its_layout_is_ours() {
    let echo = std::fs::read(plugin("echo")).unwrap();
    let said = |path: &std::path::Path| InspectedFile::read(path).unwrap().description().api_source.clone();
    assert_eq!(said(&plugin("echo")).as_deref(), Some(SOURCE));
    let at = echo.windows(SOURCE.len()).position(|window| window == SOURCE.as_bytes()).unwrap();
    // Another fingerprint; then none, since that key is unknown.
    let key = at - "api_source\0".len();
    for (at, text, expected) in [(at, "0123abcd", true), (key, "api_sauce", false)] {
        let mut bytes = echo.clone();
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        let file = changed("echo", &bytes);
        let said = said(file.as_ref());
        assert_eq!(said.is_some(), expected);
        assert_ne!(said.as_deref(), Some(SOURCE));
        let host = Host::new().unwrap();
        host.load(&file).await.unwrap();
        assert_eq!(host.invoke("echo", "echo", "hello").await.unwrap().as_bytes(), b"hello");
        host.unload("echo").await.unwrap();
    }
}

#[tokio::test]
async fn one_file_can_be_several_modules_under_ids_of_their_own() {
    let host = Host::new().unwrap();
    for (id, start) in [("one", 10), ("two", 20)] {
        let options = LoadOptions::new().id(id).config(json!({ "start": start }));
        assert_eq!(host.load_with(plugin("counter"), options).await.unwrap().id, id);
    }
    for (id, count) in [("one", "11"), ("two", "21")] {
        assert_eq!(host.invoke(id, "increment", "").await.unwrap().as_bytes(), count.as_bytes());
    }
    let ids: Vec<String> = host.list().await.into_iter().map(|info| info.id).collect();
    assert_eq!(ids, ["one", "two"]);
}

#[tokio::test]
async fn the_configuration_reaches_configure_as_it_is() {
    let host = Host::new().unwrap();
    let config = json!({ "id": "m", "nested": { "list": [1, 2.5, null, "ü"] }, "empty": "" });
    host.load_with(misbehaving(), LoadOptions::new().id("m").config(config.clone())).await.unwrap();
    let seen: serde_json::Value = host.invoke("m", "config", "").await.unwrap().to_json().unwrap();
    assert_eq!(seen, config);

    host.load_with(misbehaving(), LoadOptions::new()).await.unwrap();
    assert_eq!(host.invoke("misbehaving", "config", "").await.unwrap().as_bytes(), b"null");
}

#[tokio::test]
async fn a_module_that_is_not_to_be_started_waits_as_loaded() {
    let host = Host::new().unwrap();
    let info = host.load_with(plugin("echo"), LoadOptions::new().start(false)).await.unwrap();
    assert_eq!(info.state, ModuleState::Loaded);
    let error = host.invoke("echo", "echo", "x").await.unwrap_err();
    insta::assert_snapshot!(told(&error), @r#"
    error[not_running]: module `echo` is loaded, not running, so it takes no calls
    hint: `oxide-host start echo` starts it
    "#);

    host.start("echo").await.unwrap();
    host.start("echo").await.unwrap();
    assert_eq!(host.modules().state("echo").await, Some(ModuleState::Running));
    assert_eq!(host.invoke("echo", "echo", "x").await.unwrap().as_bytes(), b"x");

    host.stop("echo").await.unwrap();
    host.stop("echo").await.unwrap();
    let error = host.invoke("echo", "echo", "x").await.unwrap_err();
    insta::assert_snapshot!(told(&error), @r#"
    error[not_running]: module `echo` is stopped, not running, so it takes no calls
    hint: `oxide-host start echo` starts it
    "#);
    host.start("echo").await.unwrap();
    assert_eq!(host.invoke("echo", "echo", "x").await.unwrap().as_bytes(), b"x");
}

#[tokio::test]
async fn an_id_is_taken_once() {
    let host = Host::new().unwrap();
    host.load(plugin("echo")).await.unwrap();
    let error = host.load(plugin("echo")).await.unwrap_err();
    insta::assert_snapshot!(told(&error), @r#"
    error[duplicate_module]: a module with the id `echo` is already registered
    hint: unload `echo` first, or load this file under another id with --id
    "#);
    let error = host.load_with(plugin("counter"), LoadOptions::new().id("echo")).await.unwrap_err();
    assert!(matches!(error, KernelError::DuplicateModule(id) if id == "echo"));
    assert_eq!(host.list().await.len(), 1);
    assert_eq!(host.invoke("echo", "echo", "still").await.unwrap().as_bytes(), b"still");

    host.unload("echo").await.unwrap();
    host.load(plugin("echo")).await.unwrap();
    assert_eq!(host.invoke("echo", "echo", "again").await.unwrap().as_bytes(), b"again");
}

#[tokio::test]
async fn of_many_loads_of_one_id_at_once_one_succeeds() {
    let host = Host::new().unwrap();
    let loads: Vec<_> = (0..4)
        .map(|_| {
            let host = host.clone();
            tokio::spawn(async move { host.load(plugin("echo")).await })
        })
        .collect();
    let mut loaded = 0;
    for load in loads {
        match load.await.unwrap() {
            Ok(_) => loaded += 1,
            Err(error) => assert!(matches!(error, KernelError::DuplicateModule(_)), "{error}"),
        }
    }
    assert_eq!(loaded, 1);
    assert_eq!(host.list().await.len(), 1);
}

#[tokio::test]
async fn absurd_ids_of_the_modules_own_are_refused() {
    let host = Host::new().unwrap();
    let mut tellings = Vec::new();
    for id in ["", &"x".repeat(129), "a\nb", "a\u{1b}[31mb", "a/b", " a"] {
        let error = host.load(ordered(&json!({ "id": id }))).await.unwrap_err();
        assert!(matches!(&error, KernelError::InvalidId { id: told, .. } if told == id), "{error}");
        tellings.push(error.to_string());
    }
    assert!(host.list().await.is_empty());
    insta::assert_snapshot!(tellings.join("\n"), @r#"
    `` cannot be a module's id: it is empty
    `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` cannot be a module's id: it is 129 bytes long, more than 128
    `a\nb` cannot be a module's id: it holds the control character '\n'
    `a\u{1b}[31mb` cannot be a module's id: it holds the control character '\u{1b}'
    `a/b` cannot be a module's id: it holds a `/`
    ` a` cannot be a module's id: it begins or ends with white space
    "#);

    let longest = "x".repeat(128);
    assert_eq!(host.load(ordered(&json!({ "id": longest }))).await.unwrap().id, longest);
}

#[tokio::test]
async fn absurd_ids_of_the_callers_are_refused_before_any_code_of_the_plugin_runs() {
    let host = Host::new().unwrap();
    // Would the constructor run, it would be its panic that we hear of.
    let file = ordered(&json!({ "constructor": "panic" }));
    let file = file.as_ref();
    for id in ["", &"x".repeat(129), "a\tb", "a/b"] {
        let error = host.load_with(file, options(id, json!({}))).await.unwrap_err();
        assert!(matches!(error, KernelError::InvalidId { .. }), "{error}");
    }
    // With a sensible one, the absurd one of its own does not matter.
    let file = ordered(&json!({ "id": "a/b" }));
    assert_eq!(host.load_with(file, LoadOptions::new().id("sensible")).await.unwrap().id, "sensible");
}

#[tokio::test]
async fn what_becomes_of_the_file_after_the_load_is_nothing_to_the_module() {
    let host = Host::new().unwrap();
    let copy = changed("echo", &std::fs::read(plugin("echo")).unwrap());
    host.load(&copy).await.unwrap();
    // In place: a process that had mapped this very file would die of it.
    let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(host.invoke("echo", "upper", "alive").await.unwrap().as_bytes(), b"ALIVE");
    drop(copy);
    assert_eq!(host.invoke("echo", "upper", "still").await.unwrap().as_bytes(), b"STILL");
    host.unload("echo").await.unwrap();
}

#[tokio::test]
async fn a_wasm_engine_lives_as_a_module_does() {
    let host = Host::new().unwrap();
    let info = host.load(plugin("engine")).await.unwrap();
    assert_eq!((info.kind, info.state), (ModuleKind::Wasm, ModuleState::Running));
    let hooks: Vec<String> = host.invoke("engine", "hooks", "").await.unwrap().to_json().unwrap();
    assert_eq!(hooks, ["metadata", "configure", "instantiate", "start"]);
    host.unload("engine").await.unwrap();

    let error =
        host.load_with(plugin("engine"), LoadOptions::new().config(json!("no guest"))).await.unwrap_err();
    assert_eq!(told(&error), "error[hook_failed]: instantiate of module `engine` failed: no guest");
    assert!(host.list().await.is_empty());
}
