//! The program with WASM guests: it finds their engine, says so when there is none, and treats them as all modules.
#![cfg(all(unix, feature = "daemon"))]

mod program;

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use oxide_tests::guest::{component, core};
use program::{Ended, Folder, Running};
use serde_json::{Value, json};

/// Where the engine's library is in a folder, where nobody names it.
fn engine_in(folder: impl AsRef<Path>) -> PathBuf {
    folder.as_ref().join(format!("{DLL_PREFIX}wasm_runtime{DLL_SUFFIX}"))
}

fn guest(folder: &Folder, id: &str, version: &str) -> String {
    folder.write(&format!("{id}.wasm"), core(&json!({ "id": id, "version": version })))
}

/// A copy of the engine.
fn engine_at(path: &Path) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::copy(oxide_tests::plugin("engine"), path).expect("copied");
    path.to_owned()
}

/// Copies the program. Not in this process: what another test starts meanwhile would have the copy open for writing, until it
/// is that test's program, and nothing can be run that anybody may still write ("text file busy").
fn copy_program(to: &Path) {
    let status = Command::new("cp").arg(env!("CARGO_BIN_EXE_oxide-host")).arg(to).status();
    assert!(status.expect("there is a `cp`").success(), "copied");
}

/// The program, installed into `bin` of the folder, with nothing around it that it knows.
fn installed(folder: &Folder) -> PathBuf {
    let program = folder.path("bin/oxide-host");
    fs::create_dir_all(folder.path("bin")).expect("made");
    copy_program(&program);
    program
}

fn run(program: &Path, folder: &Folder, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    for name in ["OXIDE_WASM_ENGINE", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.env("OXIDE_SOCKET", &folder.socket).env("XDG_CACHE_HOME", folder.path("cache")).args(args);
    command
}

/// Loads the guest into a host that this becomes, and gives what `show` says of it.
fn shown(program: &Path, folder: &Folder, args: &[&str], id: &str) -> Value {
    let mut host = Running::start(&mut run(program, folder, args));
    host.wait_for(&format!("loaded {id} "));
    let module = folder.run(["show", id, "--json"]).expect(0).json();
    host.interrupt().expect(0);
    module
}

#[test]
fn without_an_engine_there_is_an_error_that_says_how_to_get_one() {
    let folder = Folder::new();
    let (program, guest) = (installed(&folder), guest(&folder, "hello", "1.0.0"));
    let ended = Ended::of(&mut run(&program, &folder, &["load", &guest, "--json"])).expect(1);
    assert_eq!(ended.error_code(), "no_wasm_engine");
    let error = &ended.json()["error"];
    let message = error["message"].as_str().expect("a message");
    for place in ["bin", "lib/oxide"] {
        let place = engine_in(fs::canonicalize(folder.dir.path()).expect("there").join(place));
        assert!(message.contains(&*place.to_string_lossy()), "{place:?} in {message}");
    }
    assert!(
        error["hint"].as_str().is_some_and(|hint| hint.contains("scripts/wasm-runtime.sh build")),
        "{error}"
    );
    assert_eq!(error["path"], guest);
}

#[test]
fn the_engine_is_found_beside_the_program_then_in_lib_and_the_named_one_comes_first() {
    let folder = Folder::new();
    let (program, guest) = (installed(&folder), guest(&folder, "hello", "1.0.0"));
    let whole = fs::canonicalize(folder.dir.path()).expect("there");
    let found = |args: &[&str]| {
        PathBuf::from(shown(&program, &folder, args, "hello")["engine"].as_str().expect("text"))
    };

    let in_lib = engine_at(&engine_in(whole.join("lib/oxide")));
    assert_eq!(found(&["load", &guest]), in_lib);
    let beside = engine_at(&engine_in(whole.join("bin")));
    assert_eq!(found(&["load", &guest]), beside);
    // Anybody's, for all we know.
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o666)).expect("set");
    assert_eq!(found(&["load", &guest]), in_lib);

    let configured = engine_at(&whole.join("elsewhere/engine.so"));
    let config = folder.write("host.toml", "wasm_engine = 'elsewhere/engine.so'\nwasm_cache = false\n");
    assert_eq!(fs::canonicalize(found(&["run", "--config", &config, &guest])).expect("there"), configured);
    let from_outside = engine_at(&whole.join("outside.so"));
    let mut host = Running::start(
        run(&program, &folder, &["run", "--config", &config, &guest]).env("OXIDE_WASM_ENGINE", &from_outside),
    );
    host.wait_for("loaded hello ");
    let module = folder.run(["show", "hello", "--json"]).expect(0).json();
    assert_eq!(module["engine"].as_str().map(Path::new), Some(&*from_outside));
    host.interrupt().expect(0);
}

#[test]
fn a_program_that_was_built_here_finds_the_engine_that_was_built_here() {
    let folder = Folder::new();
    let whole = fs::canonicalize(folder.dir.path()).expect("there");
    let guest = guest(&folder, "hello", "1.0.0");
    let program = whole.join("target/debug/oxide-host");
    fs::create_dir_all(whole.join("target/debug")).expect("made");
    copy_program(&program);
    fs::write(whole.join("target/CACHEDIR.TAG"), "").expect("written");
    let own = whole.join("example-plugins/wasm-runtime/target");
    for place in
        [own.join("debug"), own.join("release"), whole.join("target/release"), whole.join("target/debug")]
    {
        let engine = engine_at(&engine_in(place));
        let found = shown(&program, &folder, &["load", &guest], "hello")["engine"].clone();
        assert_eq!(found.as_str().map(Path::new), Some(&*engine));
    }
}

#[test]
fn a_guest_is_a_module_for_every_verb() {
    let folder = Folder::new();
    let engine = folder.write("engine.so", fs::read(oxide_tests::plugin("engine")).expect("a plugin"));
    let config = folder.write(
        "host.toml",
        "wasm_engine = 'engine.so'\nwasm_cache = 'own cache'\n\
         [[module]]\npath = 'first.wasm'\nconfig = { a = 1, wasm = { memory = 1000 } }\n",
    );
    guest(&folder, "first", "1.0.0");
    let mut host = folder.host(["run", "--config", &config]);
    host.wait_for("loaded first 1.0.0 (generation 1), running");
    let given = |id: &str| -> Value {
        serde_json::from_str(&folder.run(["invoke", id, "given"]).expect(0).stdout).expect("JSON")
    };
    let cache = fs::canonicalize(folder.path("own cache")).expect("there");
    assert_eq!(fs::metadata(&cache).expect("there").permissions().mode() & 0o777, 0o700);
    assert_eq!(
        given("first"),
        json!({ "name": "first.wasm", "config": { "a": 1 }, "wasm": { "memory": 1000 }, "cache": cache })
    );

    let second = guest(&folder, "second", "2.0.0");
    let loaded =
        folder.run(["load", &second, "--json", "--config", r#"{"wasm":{"stack":1}}"#]).expect(0).json();
    assert_eq!(
        (&loaded["id"], &loaded["kind"], &loaded["state"], &loaded["path"], &loaded["engine"]),
        (&json!("second"), &json!("wasm"), &json!("running"), &json!(second), &json!(engine))
    );
    assert_eq!(given("second")["wasm"], json!({ "stack": 1 }));
    let sheet = folder.run(["show", "second"]).expect(0).stdout;
    assert!(sheet.contains(&format!("engine       {engine}\n")), "{sheet}");
    assert!(folder.run(["list"]).expect(0).stdout.contains("wasm"));
    let metrics = String::from_utf8(folder.http("GET", "/metrics", b"").1).expect("text");
    assert!(metrics.lines().any(|line| line == "oxide_modules{state=\"running\"} 2"), "{metrics}");
    assert_eq!(folder.run(["load", &second, "--json"]).expect(1).error_code(), "duplicate_module");
    folder.run(["stop", "second"]).expect(0);
    folder.run(["start", "second"]).expect(0);
    let receipt = folder.run(["unload", "second", "--json"]).expect(0).json();
    assert_eq!((&receipt["id"], &receipt["stop"]), (&json!("second"), &json!("ok")));

    let cut = folder.write("cut.wasm", b"\0asm\x01\0\0\0\x01");
    assert_eq!(folder.run(["load", &cut, "--json"]).expect(3).error_code(), "damaged");
    let (status, loaded) = folder.json("POST", "/v1/modules", &json!({ "path": second }).to_string());
    assert_eq!((status, &loaded["kind"]), (201, &json!("wasm")));
    host.interrupt().expect(0);
}

#[test]
fn the_cache_lies_with_the_users_others() {
    let folder = Folder::new();
    let guest = guest(&folder, "hello", "1.0.0");
    let program = Path::new(env!("CARGO_BIN_EXE_oxide-host"));
    let cached = |home: bool| {
        let mut command = run(program, &folder, &["load", &guest]);
        command.env("OXIDE_WASM_ENGINE", oxide_tests::plugin("engine"));
        if home {
            command.env_remove("XDG_CACHE_HOME").env("HOME", folder.path("home"));
        }
        let mut host = Running::start(&mut command);
        host.wait_for("loaded hello ");
        let given: Value =
            serde_json::from_str(&folder.run(["invoke", "hello", "given"]).expect(0).stdout).expect("JSON");
        host.interrupt().expect(0);
        given["cache"].as_str().map(PathBuf::from)
    };
    let whole = fs::canonicalize(folder.dir.path()).expect("there");
    assert_eq!(cached(false), Some(whole.join("cache/oxide/wasm")));
    assert_eq!(cached(true), Some(whole.join("home/.cache/oxide/wasm")));
}

#[test]
fn inspect_describes_a_guest_without_an_engine() {
    let folder = Folder::new();
    let says = json!({ "id": "hello", "version": "1.0.0" });
    let path = folder.write("hello.wasm", component(&says));
    let found = folder.run(["inspect", &path, "--json"]).expect(0).json();
    let size = component(&says).len();
    assert_eq!(
        found,
        json!({
            "path": path, "plugin": true, "kind": "wasm",
            "wasm": { "format": "component", "size": size, "imports": [], "exports": [] },
        })
    );
    let sheet = folder.run(["inspect", &path]).expect(0).stdout;
    assert_eq!(
        sheet,
        format!(
            "path    {path}\nkind    wasm\nformat  component\nsize    {size}\nimports none\nexports none\n"
        )
    );
    let cut = folder.write("cut.wasm", b"\0asm\x01\0\0\0\x01");
    let found = folder.run(["inspect", &cut, "--json"]).expect(3).json();
    assert_eq!((&found["plugin"], &found["reason"]), (&json!(false), &json!("damaged")));
    let _host = folder.host(["run"]);
    let (status, found) = folder.json("GET", &format!("/v1/inspect?path={path}"), "");
    assert_eq!((status, &found["wasm"]["format"]), (200, &json!("component")));
}

#[test]
fn a_guest_is_tried_out_swapped_to_and_gone_back_from() {
    let folder = Folder::new();
    let echo = folder.write("libecho.so", fs::read(oxide_tests::plugin("echo")).expect("a plugin"));
    // Its engine is known to this process by its environment only, and to that of a dry run not at all.
    let mut command = folder.oxide(["run", &echo]);
    command.env("OXIDE_WASM_ENGINE", oxide_tests::plugin("engine"));
    let mut host = Running::start(command.env("XDG_CACHE_HOME", folder.path("cache")));
    host.wait_for("loaded echo ");
    let newer = guest(&folder, "echo", "9.0.0");
    let found = folder.run(["swap", "echo", &newer, "--dry-run", "--json"]).expect(0).json();
    assert_eq!((&found["to_version"], &found["kind"]), (&json!("9.0.0"), &json!("wasm")));
    assert_eq!(found["passed"], json!(["inspect", "stage", "open", "constructor", "configure", "metadata"]));
    let said = folder.run(["swap", "echo", &newer, "--dry-run"]).expect(0).stderr;
    assert!(said.contains("not tried: init, restore_state and start; generation 1 runs on"), "{said}");
    assert_eq!(folder.run(["show", "echo", "--json"]).expect(0).json()["generation"], 1);

    let report = folder.run(["swap", "echo", &newer, "--json", "--config", r#"{"a":1}"#]).expect(0).json();
    assert_eq!(
        (&report["from"], &report["to"], &report["to_version"]),
        (&json!(1), &json!(2), &json!("9.0.0"))
    );
    let module = folder.run(["show", "echo", "--json"]).expect(0).json();
    assert_eq!((&module["kind"], &module["path"]), (&json!("wasm"), &json!(newer)));
    assert_eq!(folder.run(["swap", "echo", &newer, "--json"]).expect(1).error_code(), "same_build");

    let says = json!({ "id": "echo", "version": "10.0.0", "refuse": "no" });
    let refused = folder.write("refused.wasm", core(&says));
    for flag in ["--dry-run", "--force"] {
        let error = folder.run(["swap", "echo", &refused, "--json", flag]).expect(1).json();
        assert_eq!(
            (&error["error"]["step"], &error["error"]["cause"]),
            (&json!("configure"), &json!("hook_failed"))
        );
    }
    let cut = folder.write("cut.wasm", b"\0asm\x01\0\0\0\x01");
    folder.run(["swap", "echo", &cut, "--dry-run"]).expect(3);
    // What it would be configured with is what the present one was.
    let picky = json!({ "id": "echo", "version": "11.0.0", "wants": { "a": 1 } });
    let picky = folder.write("picky.wasm", core(&picky));
    folder.run(["swap", "echo", &picky, "--dry-run"]).expect(0);
    folder.run(["swap", "echo", &picky, "--dry-run", "--config", "{}"]).expect(1);

    folder.run(["rollback", "echo"]).expect(0);
    let module = folder.run(["show", "echo", "--json"]).expect(0).json();
    assert_eq!((&module["kind"], &module["generation"]), (&json!("native"), &json!(3)));
    assert_eq!(module.get("engine"), None);
    host.interrupt().expect(0);
}
