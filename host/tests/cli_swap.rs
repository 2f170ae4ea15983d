//! `swap` and `rollback` of the program, and their calls of the API: for people, as JSON, and with wrong input.
#![cfg(all(unix, feature = "daemon"))]

mod program;

use std::{fs, process::Command, thread};

use oxide_tests::Flag;
use program::{Folder, Running, error_code};
use serde_json::{Value, json};

/// A compiled plugin in the folder, and another build of it: one byte more, which nobody reads.
fn builds(folder: &Folder, package: &str) -> (String, String) {
    let mut bytes = fs::read(oxide_tests::plugin(package)).expect("a plugin");
    let one = folder.write(&format!("lib{package}.so"), &bytes);
    bytes.push(0);
    (one, folder.write(&format!("lib{package}2.so"), &bytes))
}

fn host_with(folder: &Folder, plugin: &str) -> Running {
    let mut host = folder.host(["run", plugin]);
    host.wait_for("loaded ");
    host
}

#[track_caller]
fn generation_is(folder: &Folder, id: &str, generation: u64, path: &str) {
    let shown = folder.run(["show", id, "--json"]).expect(0).json();
    assert_eq!((&shown["generation"], &shown["path"]), (&json!(generation), &json!(path)), "{shown}");
    assert_eq!(shown["state"], "running", "{shown}");
}

#[test]
fn a_swap_says_what_it_did_and_a_rollback_undoes_it() {
    let folder = Folder::new();
    let (one, two) = builds(&folder, "counter");
    let _host = host_with(&folder, &one);
    folder.run(["invoke", "counter", "increment", "5"]).expect(0);

    let ended = folder.run(["swap", "counter", &two]).expect(0);
    assert!(ended.stdout.is_empty(), "{ended:?}");
    assert!(ended.stderr.starts_with("swapped counter from generation 1 ("), "{ended:?}");
    assert!(ended.stderr.contains("and the old library is gone"), "{ended:?}");
    assert!(ended.stderr.contains("its state was handed over"), "{ended:?}");
    generation_is(&folder, "counter", 2, &two);
    assert_eq!(folder.run(["invoke", "counter", "get"]).expect(0).stdout, "5");

    let report = folder.run(["rollback", "counter", "--json"]).expect(0).json();
    assert_eq!((&report["id"], &report["from"], &report["to"]), (&json!("counter"), &json!(2), &json!(3)));
    assert_eq!((&report["state_moved"], &report["downgrade"]), (&json!(true), &json!(false)), "{report}");
    assert_eq!(
        (&report["old"]["unmapped"], &report["old"]["generation"]),
        (&json!(true), &json!(2)),
        "{report}"
    );
    generation_is(&folder, "counter", 3, &one);
    assert_eq!(folder.run(["invoke", "counter", "get"]).expect(0).stdout, "5");

    let events = folder.run(["events"]).expect(0).stdout;
    assert!(events.contains("module_swapped counter {\"from\":1,\"to\":2}"), "{events}");
    assert!(events.contains("module_swapped counter {\"from\":2,\"to\":3}"), "{events}");
}

#[test]
fn a_swap_that_cannot_be_leaves_the_old_build_and_says_why() {
    let folder = Folder::new();
    let (one, two) = builds(&folder, "echo");
    let other = folder.write("libcounter.so", fs::read(oxide_tests::plugin("counter")).expect("a plugin"));
    let junk = folder.write("junk.so", b"this is no library");
    let _host = host_with(&folder, &one);

    folder.run(["swap", "nobody", &two]).expect(4);
    folder.run(["rollback", "nobody"]).expect(4);
    assert_eq!(folder.run(["rollback", "echo", "--json"]).expect(1).error_code(), "no_previous_build");
    folder.run(["swap", "echo"]).expect(2);
    folder.run(["swap", "echo", &two, "--config", "{no json"]).expect(2);
    folder.run(["swap", "echo", &two, "--probation", "soon"]).expect(2);
    folder.run(["swap", "echo", &two, "--probation-errors", "3"]).expect(2);
    folder.run(["swap", "echo", &two, "--probation", "3s", "--dry-run"]).expect(2);

    let ended = folder.run(["swap", "echo", &one]).expect(1);
    assert!(ended.stderr.contains("already runs this very build"), "{ended:?}");
    assert!(ended.stderr.contains("hint: `--force`"), "{ended:?}");

    for file in [&junk, "/nonexistent.so"] {
        let ended = folder.run(["swap", "echo", file, "--json"]).expect(3);
        let error = &ended.json()["error"];
        assert_eq!((&error["code"], &error["step"]), (&json!("swap_failed"), &json!("inspect")), "{error}");
        assert!(error["hint"].is_string(), "{error}");
    }
    let ended = folder.run(["swap", "echo", &other]).expect(1);
    assert!(ended.stderr.contains("failed at metadata; generation 1 goes on"), "{ended:?}");
    assert!(ended.stderr.contains("caused by: this is a build of module `counter`"), "{ended:?}");
    // The reason is told once.
    assert_eq!(ended.stderr.matches("a build of module").count(), 1, "{ended:?}");
    generation_is(&folder, "echo", 1, &one);

    let ended = folder.run(["swap", "echo", &one, "--force", "-q"]).expect(0);
    assert_eq!(ended.stderr, "");
    generation_is(&folder, "echo", 2, &one);
}

#[test]
fn a_dry_run_tries_the_build_in_a_process_of_its_own() {
    let folder = Folder::new();
    let (one, two) = builds(&folder, "echo");
    let other = folder.write("libcounter.so", fs::read(oxide_tests::plugin("counter")).expect("a plugin"));
    let junk = folder.write("junk.so", b"this is no library");
    let _host = host_with(&folder, &one);
    let dry = |path: &str| folder.run(["swap", "echo", path, "--dry-run", "--json"]);

    let found = dry(&two).expect(0).json();
    assert_eq!(
        (&found["id"], &found["dry_run"], &found["generation"]),
        (&json!("echo"), &json!(true), &json!(1))
    );
    assert_eq!(found["passed"], json!(["inspect", "stage", "open", "constructor", "metadata"]));
    let said = folder.run(["swap", "echo", &two, "--dry-run"]).expect(0);
    assert!(said.stderr.contains("echo could be swapped from "), "{said:?}");
    assert!(said.stdout.is_empty(), "{said:?}");

    assert_eq!(dry(&one).expect(1).error_code(), "same_build");
    let error: Value = dry(&junk).expect(3).json();
    assert_eq!((error_code(&error).as_str(), &error["error"]["step"]), ("swap_failed", &json!("inspect")));
    let error = dry(&other).expect(1).json();
    assert_eq!(
        (&error["error"]["step"], &error["error"]["cause"]),
        (&json!("metadata"), &json!("other_module"))
    );
    // What only the dynamic loader refuses (padding that is not zero) is a refusal as well, in both.
    let mut bytes = fs::read(&two).expect("a plugin");
    bytes[9] = 1;
    let unloadable = folder.write("unloadable.so", bytes);
    for error in [dry(&unloadable), folder.run(["swap", "echo", &unloadable, "--json"])] {
        let error = error.expect(3).json();
        assert_eq!(
            (&error["error"]["step"], &error["error"]["cause"]),
            (&json!("open"), &json!("not_loadable"))
        );
    }
    folder.run(["swap", "nobody", &two, "--dry-run"]).expect(4);
    generation_is(&folder, "echo", 1, &one);
}

#[test]
fn a_build_that_crashes_in_a_dry_run_ends_nothing_but_that() {
    let folder = Folder::new();
    let one = oxide_tests::misbehaving();
    let one = one.to_str().expect("text");
    let _host = host_with(&folder, one);
    for (order, code, cause) in
        [("panic", "swap_failed", Some("hook_panicked")), ("abort", "dry_run_crashed", None)]
    {
        let build = oxide_tests::misbehave::ordered(&json!({ "constructor": order }));
        let build = build.as_ref().to_str().expect("text").to_owned();
        let ended = folder.run(["swap", "misbehaving", &build, "--dry-run", "--json"]).expect(1);
        let error = &ended.json()["error"];
        assert_eq!((error["code"].as_str(), error["cause"].as_str()), (Some(code), cause), "{error}");
    }
    generation_is(&folder, "misbehaving", 1, one);
}

#[test]
fn a_build_on_probation_says_so_and_goes_back() {
    let folder = Folder::new();
    let one = oxide_tests::misbehaving();
    let one = one.to_str().expect("text");
    let mut bytes = fs::read(one).expect("a plugin");
    bytes.push(0);
    let two = folder.write("two.so", &bytes);
    let mut host = host_with(&folder, one);
    let ended =
        folder.run(["swap", "misbehaving", &two, "--probation", "1h", "--probation-errors", "2"]).expect(0);
    assert!(ended.stderr.contains("on probation for 3600s"), "{ended:?}");
    let shown = folder.run(["show", "misbehaving"]).expect(0).stdout;
    assert!(shown.contains("\nprobation    for another "), "{shown}");
    folder.run(["invoke", "misbehaving", "panic"]).expect(1);
    host.wait_for("went back to the build before");
    generation_is(&folder, "misbehaving", 3, one);
}

#[test]
fn curl_can_swap_too() {
    let folder = Folder::new();
    let (one, two) = builds(&folder, "echo");
    let _host = host_with(&folder, &one);
    let post =
        |what: &str, body: Value| folder.json("POST", &format!("/v1/modules/echo/{what}"), &body.to_string());
    let (status, report) = post("swap", json!({ "path": two }));
    assert_eq!((status, &report["to"], &report["old"]["unmapped"]), (200, &json!(2), &json!(true)));
    let (status, error) = post("swap", json!({ "path": two }));
    assert_eq!((status, error_code(&error).as_str()), (409, "same_build"));
    let (status, error) = post("swap", json!({ "path": "/nonexistent.so" }));
    assert_eq!((status, &error["error"]["cause"]), (422, &json!("not_found")));
    for wrong in [
        json!({ "path": "relative.so" }),
        json!({}),
        json!({ "path": two, "probation_errors": 1 }),
        json!({ "path": two, "unknown": 1 }),
    ] {
        assert_eq!(post("swap", wrong.clone()).0, 400, "{wrong}");
    }
    let (status, report) = folder.json("POST", "/v1/modules/echo/rollback", "");
    assert_eq!((status, &report["from"], &report["to"]), (200, &json!(2), &json!(3)));
    assert_eq!(folder.http("POST", "/v1/modules/echo/invoke/echo", b"x"), (200, b"x".to_vec()));
}

#[test]
fn a_build_that_blocks_while_it_is_opened_costs_no_call_and_does_not_keep_the_host_from_ending() {
    let (folder, flag) = (Folder::new(), Flag::new());
    let config = folder.write("host.toml", "loader_timeout = '2s'\n");
    let (one, blocking) = (oxide_tests::misbehaving(), oxide_tests::plugin("clinging"));
    let (one, blocking) = (one.to_str().expect("text"), blocking.to_str().expect("text"));
    let mut command = folder.oxide(["run", "--config", &config, one]);
    command.env("CLINGING_CONSTRUCTOR", flag.argument()).env("CLINGING_ID", "misbehaving");
    let mut host = Running::start(&mut command);
    host.wait_for("loaded ");

    let error = folder.run(["swap", "misbehaving", blocking, "--json"]).expect(1);
    assert_eq!(
        (error.error_code().as_str(), &error.json()["error"]["step"]),
        ("swap_failed", &json!("open"))
    );
    // Nobody has called before. Some at once, and with a line of the plugin's in the host's log.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(folder.http("POST", "/v1/modules/misbehaving/invoke/add", b"1").0, 200);
                    assert_eq!(folder.http("POST", "/v1/modules/misbehaving/invoke/log", b"hello").0, 200);
                }
            });
        }
    });
    assert_eq!(folder.http("POST", "/v1/modules/misbehaving/invoke/add", b"1"), (200, b"21".to_vec()));
    host.wait_for("hello");
    for verb in [["stop", "misbehaving"], ["start", "misbehaving"]] {
        folder.run(verb).expect(0);
    }
    generation_is(&folder, "misbehaving", 1, one);
    assert!(flag.is_inside() && !flag.has_ended());
    host.interrupt().expect(0);
    assert!(!flag.has_ended());
}

/// The program's command, as `unshare` runs it: with a runtime directory of its own that has no room.
#[cfg(target_os = "linux")]
fn without_room(folder: &Folder, args: &[&str]) -> Command {
    let runtime = folder.path("runtime");
    fs::create_dir_all(&runtime).expect("made");
    let script = "mount -t tmpfs -o mode=700,size=16k none \"$XDG_RUNTIME_DIR\" && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_oxide-host")]);
    command.args(args).env("XDG_RUNTIME_DIR", runtime).env("OXIDE_SOCKET", &folder.socket);
    command
}

#[test]
#[cfg(target_os = "linux")]
fn a_dry_run_finds_room_where_its_host_does() {
    let folder = Folder::new();
    let (one, two) = builds(&folder, "echo");
    if !without_room(&folder, &["--version"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("no mount namespaces for this user: not tried");
        return;
    }
    let mut host = Running::start(&mut without_room(&folder, &["run", &one]));
    host.wait_for("loaded ");
    folder.run(["swap", "echo", &two, "--dry-run"]).expect(0);
    folder.run(["swap", "echo", &two]).expect(0);
    host.interrupt().expect(0);
}
