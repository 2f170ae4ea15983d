//! The program with plugins: what every verb does to a module, for people and as JSON.
#![cfg(all(unix, feature = "daemon"))]

mod program;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use oxide_tests::Flag;
use program::{Folder, Running, is_clean};
use serde_json::{Value, json};

/// A compiled plugin, copied into the folder under a file name of its own: `echo`, `counter` or `ticker`, and
/// `echo` again under any other name.
fn plugin(folder: &Folder, name: &str) -> String {
    let package = if matches!(name, "counter" | "ticker") { name } else { "echo" };
    folder.write(&format!("lib{name}.so"), fs::read(oxide_tests::plugin(package)).expect("a plugin"))
}

#[track_caller]
fn is_module(module: &Value, id: &str, state: &str) {
    assert_eq!((module["id"].as_str(), module["state"].as_str()), (Some(id), Some(state)), "{module}");
    assert_eq!(
        (module["kind"].as_str(), module["generation"].as_u64()),
        (Some("native"), Some(1)),
        "{module}"
    );
    for field in ["name", "version", "description", "path"] {
        assert!(module.get(field).is_some(), "{field} of {module}");
    }
}

#[test]
fn load_with_no_host_becomes_the_host_and_says_how_to_call_it() {
    let folder = Folder::new();
    let plugin = plugin(&folder, "echo");
    let mut host = Running::start(&mut folder.oxide(["load", &plugin]));
    host.wait_for("no host is running, so this is the host now");
    host.wait_for("listening on");
    host.wait_for("loaded echo ");
    host.wait_for("try: oxide-host invoke echo ");
    assert_eq!(folder.run(["invoke", "echo", "echo", "hello"]).expect(0).stdout, "hello");
    let ended = host.interrupt().expect(0);
    assert!(ended.stdout.is_empty() && ended.stderr.contains("unloaded echo (generation 1)"), "{ended:?}");
    assert!(is_clean(&folder.socket));
}

#[test]
fn load_with_json_prints_the_module_and_stays() {
    let folder = Folder::new();
    let (one, two) = (plugin(&folder, "echo"), plugin(&folder, "counter"));
    for paths in [vec![&one], vec![&one, &two]] {
        let mut host = Running::start(folder.oxide(["load", "--json"]).args(&paths));
        let mut line = String::new();
        let mut stdout = BufReader::new(host.child.stdout.take().expect("stdout"));
        stdout.read_line(&mut line).expect("a line");
        let loaded: Value = serde_json::from_str(&line).expect("JSON");
        match &paths[..] {
            [_] => is_module(&loaded, "echo", "running"),
            _ => {
                is_module(&loaded[0], "echo", "running");
                is_module(&loaded[1], "counter", "running");
            }
        }
        let listed = folder.run(["list", "--json"]).expect(0).json();
        assert_eq!(listed.as_array().map(Vec::len), Some(paths.len()));
        host.interrupt().expect(0);
    }
}

#[test]
fn a_host_that_could_load_something_stays() {
    let folder = Folder::new();
    let good = plugin(&folder, "ticker");
    let mut host = Running::start(&mut folder.oxide(["load", "--json", "/nonexistent.so", &good]));
    let mut line = String::new();
    let mut stdout = BufReader::new(host.child.stdout.take().expect("stdout"));
    stdout.read_line(&mut line).expect("a line");
    let report: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(program::error_code(&report), "not_found");
    is_module(&report["loaded"][0], "ticker", "running");
    assert_eq!(folder.run(["show", "ticker"]).expect(0).stdout.lines().next(), Some("id           ticker"));
    host.interrupt().expect(0);

    let mut host = Running::start(&mut folder.oxide(["run", "/nonexistent.so", &good]));
    host.wait_for("error: ");
    host.wait_for("loaded ticker ");
    host.interrupt().expect(0);
}

#[test]
fn load_goes_into_the_running_host_and_returns() {
    let folder = Folder::new();
    let _host = folder.host(["run"]);
    let echo = plugin(&folder, "echo");
    is_module(&folder.run(["load", &echo, "--json"]).expect(0).json(), "echo", "running");

    let ended = folder.run(["load", &echo]).expect(1);
    assert!(ended.stderr.contains("already registered") && ended.stderr.contains("--id"), "{ended:?}");
    assert_eq!(folder.run(["load", &echo, "--json"]).expect(1).error_code(), "duplicate_module");

    let ended = folder.run(["load", &echo, "--id", "other", "--no-start", "--json"]).expect(0);
    is_module(&ended.json(), "other", "loaded");
    for id in ["", "a/b", &"x".repeat(129)] {
        let ended = folder.run(["load", &echo, "--json", "--id", id]).expect(1);
        assert_eq!(ended.error_code(), "invalid_id", "{id:?}");
    }

    let two = plugin(&folder, "counter");
    let ended = folder.run(["load", "--json", &two, "/nonexistent.so"]).expect(3);
    assert_eq!(ended.error_code(), "not_found");
    is_module(&ended.json()["loaded"][0], "counter", "running");

    // Named from where the caller stands, not the host.
    let relative = folder.oxide(["load", "libecho.so", "--id", "relative", "--json"]);
    let mut relative = relative;
    let ended = program::Ended::of(relative.current_dir(folder.dir.path())).expect(0);
    assert_eq!(ended.json()["path"], echo);
}

#[test]
fn start_stop_and_unload_say_what_they_did() {
    let folder = Folder::new();
    let echo = plugin(&folder, "echo");
    let mut host = folder.host(["run", &echo]);
    host.wait_for("loaded echo");
    is_module(&folder.run(["stop", "echo", "--json"]).expect(0).json(), "echo", "stopped");
    assert_eq!(folder.run(["invoke", "echo", "echo", "--json"]).expect(1).error_code(), "not_running");
    let ended = folder.run(["start", "echo"]).expect(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", "started echo\n"));
    assert_eq!(folder.run(["stop", "echo", "-q"]).expect(0).stderr, "");
    is_module(&folder.run(["start", "echo", "--json"]).expect(0).json(), "echo", "running");
    assert!(folder.run(["send", "stop", "echo"]).expect(0).stdout.contains("module_stopped echo"));

    let receipt = folder.run(["unload", "echo", "--json"]).expect(0).json();
    assert_eq!((receipt["id"].as_str(), receipt["generation"].as_u64()), (Some("echo"), Some(1)));
    for field in ["unmapped", "retained_by", "drained", "cancelled", "stop", "drop", "leaked_bytes"] {
        assert!(receipt.get(field).is_some(), "{field} of {receipt}");
    }
    folder.run(["show", "echo"]).expect(4);
}

#[test]
fn what_is_retained_is_listed_until_it_is_gone() {
    let folder = Folder::new();
    let clinging = oxide_tests::plugin("clinging");
    let config = folder.write("host.toml", "thread_timeout = '10ms'\n");
    let mut host = folder.host(["run", "--config", &config, clinging.to_str().expect("text")]);
    host.wait_for("loaded clinging");
    let flag = folder.path("flag");
    folder.run(["invoke", "clinging", "thread", flag.to_str().expect("text")]).expect(0);
    let ended = folder.run(["unload", "clinging"]).expect(0);
    assert!(ended.stderr.contains("but its library is still mapped"), "{ended:?}");
    assert!(ended.stderr.contains("held by thread: "), "{ended:?}");

    let retained = folder.run(["retained", "--json"]).expect(0).json();
    assert_eq!(
        (&retained[0]["id"], &retained[0]["generation"]),
        (&json!("clinging"), &json!(1)),
        "{retained}"
    );
    assert_eq!(retained[0]["retained_by"][0]["holder"], "thread", "{retained}");
    assert_eq!(folder.json("GET", "/v1/retained", "").1, retained);
    assert!(folder.run(["retained"]).expect(0).stdout.contains("thread: "));
    assert!(folder.run(["list"]).expect(0).stderr.contains("1 unloaded library is still mapped"));
    let metrics = String::from_utf8(folder.http("GET", "/metrics", b"").1).expect("text");
    assert!(metrics.contains("oxide_retained 1"), "{metrics}");

    fs::write(&flag, "").expect("written");
    host.wait_for("its library, which was retained, is gone");
    assert_eq!(folder.run(["retained", "--json"]).expect(0).json(), json!([]));
    assert!(folder.run(["events"]).expect(0).stdout.contains("module_unmapped clinging"));
}

#[test]
fn an_invoke_gives_back_the_replys_bytes_and_nothing_else() {
    let folder = Folder::new();
    let echo = plugin(&folder, "echo");
    let mut host = folder.host(["run", &echo]);
    host.wait_for("loaded echo");
    assert_eq!(folder.run(["invoke", "echo", "echo"]).expect(0).stdout, "");
    assert_eq!(folder.run(["invoke", "echo", "echo", "hello", "--json"]).expect(0).stdout, "hello");
    assert_eq!(folder.run(["invoke", "echo", "echo", "-7"]).expect(0).stdout, "-7");
    assert_eq!(folder.run(["invoke", "echo", "echo", "--", "--x"]).expect(0).stdout, "--x");
    for method in ["nope", "", "a/b", "ü %"] {
        let ended = folder.run(["invoke", "echo", method, "--json"]).expect(1);
        assert_eq!(ended.error_code(), "unknown_method", "{method:?}");
    }

    // 64 MiB of every byte, from a file and from stdin.
    let big: Vec<u8> = (0..64 << 20).map(|i: u32| (i % 251) as u8).collect();
    let file = folder.write("big", &big);
    let from_file = folder.oxide(["invoke", "echo", "echo", &format!("@{file}")]).output().expect("it runs");
    assert!(from_file.status.success() && from_file.stderr.is_empty(), "{:?}", from_file.status);
    assert!(from_file.stdout == big);
    let mut command = folder.oxide(["invoke", "echo", "echo", "-"]);
    let from_stdin = command.stdin(fs::File::open(&file).expect("opened")).output().expect("it runs");
    assert!(from_stdin.stdout == big);
    assert_eq!(folder.http("POST", "/v1/modules/echo/invoke/echo", &[]), (200, vec![]));
}

#[test]
fn an_id_of_any_characters_reaches_its_module() {
    let folder = Folder::new();
    let echo = plugin(&folder, "echo");
    let _host = folder.host(["run"]);
    for id in ["with space", "100%", "a?b#c", "ünï", "..", "x+y&z"] {
        folder.run(["load", &echo, "--id", id]).expect(0);
        assert_eq!(folder.run(["invoke", id, "echo", id]).expect(0).stdout, id);
        assert_eq!(folder.run(["show", id, "--json"]).expect(0).json()["id"], id);
        folder.run(["unload", id]).expect(0);
    }
}

#[test]
fn curl_can_do_what_the_command_line_does() {
    let folder = Folder::new();
    let echo = plugin(&folder, "echo");
    let _host = folder.host(["run"]);
    let (status, module) = folder.json("POST", "/v1/modules", &json!({ "path": echo }).to_string());
    assert_eq!(status, 201);
    is_module(&module, "echo", "running");
    let request = json!({ "paths": [echo], "id": "other", "start": false, "config": { "a": 1 } });
    let (status, modules) = folder.json("POST", "/v1/modules", &request.to_string());
    assert_eq!(status, 201);
    is_module(&modules[0], "other", "loaded");
    let (status, conflict) = folder.json("POST", "/v1/modules", &json!({ "path": echo }).to_string());
    assert_eq!((status, program::error_code(&conflict).as_str()), (409, "duplicate_module"));

    assert_eq!(folder.json("POST", "/v1/modules/other/start", "").0, 200);
    assert_eq!(folder.json("POST", "/v1/modules/other/stop", "").0, 200);
    let (status, error) = folder.json("POST", "/v1/modules/other/invoke/echo", "x");
    assert_eq!((status, program::error_code(&error).as_str()), (409, "not_running"));
    let (status, error) = folder.json("POST", "/v1/modules/echo/invoke/nope", "x");
    assert_eq!((status, program::error_code(&error).as_str()), (404, "unknown_method"));
    assert_eq!(folder.http("POST", "/v1/modules/echo/invoke/echo", &[0, 255]), (200, vec![0, 255]));

    let (_, metrics) = folder.http("GET", "/metrics", b"");
    let metrics = String::from_utf8(metrics).expect("text");
    for line in [
        "oxide_modules{state=\"running\"} 1",
        "oxide_modules{state=\"stopped\"} 1",
        "oxide_invocations_total{outcome=\"answered\"} 1",
        "oxide_invocations_total{outcome=\"failed\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }

    let command =
        json!({ "command": { "type": "invoke", "module_id": "echo", "method": "echo", "payload": [1] } });
    let (status, reply) = folder.json("POST", "/v1/messages", &command.to_string());
    assert_eq!((status, &reply["message"]["event"]["payload"]), (200, &json!([1])));
    let (status, receipt) = folder.json("DELETE", "/v1/modules/echo", "");
    assert_eq!((status, receipt["id"].as_str()), (200, Some("echo")));
    let (_, events) = folder.json("GET", "/v1/events?follow=false&module_id=echo&source=kernel", "");
    let first = &events[0]["message"]["event"];
    assert_eq!((first["type"].as_str(), first["module_id"].as_str()), (Some("module_loaded"), Some("echo")));
}

#[test]
fn a_configuration_says_what_to_load_and_how() {
    let folder = Folder::new();
    plugin(&folder, "echo");
    plugin(&folder, "two");
    let config = folder.write(
        "host.toml",
        "start_timeout = '5s'\n[[module]]\npath = 'libecho.so'\n\
         [[module]]\npath = 'libtwo.so'\nid = 'second'\nstart = false\nconfig = { a = 1 }\n",
    );
    let mut host = folder.host(["run", "--config", &config]);
    host.wait_for("loaded second");
    let listed = folder.run(["list", "--json"]).expect(0).json();
    is_module(&listed[0], "echo", "running");
    is_module(&listed[1], "second", "loaded");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let folder = Folder::new();
    let echo = plugin(&folder, "echo");
    let mut host = folder.host(["run", &echo]);
    host.wait_for("loaded echo");
    let mut command = folder.oxide(["invoke", "echo", "echo", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    child.stdin.take().expect("stdin").write_all(&[b'x'; 100_000]).expect("written");
    let ended = child.wait_with_output().expect("it ends");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

/// Its hook is left where it is: the process ends under it, without finalisers.
#[test]
fn a_host_told_to_end_in_the_middle_of_a_load_ends() {
    let folder = Folder::new();
    let (flag, inside) = (folder.path("flag"), folder.path("flag.inside"));
    for deed in ["hang", "block"] {
        let config = json!({ "id": "m", "configure": format!("{deed}:{}", flag.display()) }).to_string();
        let mut load = folder.oxide(["load", "--id", "m", "--config", &config]);
        let mut host = Running::start(load.arg(oxide_tests::misbehaving()));
        host.wait_for("listening on");
        let begun = std::time::Instant::now();
        while !inside.exists() {
            assert!(begun.elapsed().as_secs() < 60, "configure never ran");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let ended = host.interrupt().expect(0);
        assert!(ended.stderr.contains("there was nothing to unload"), "{ended:?}");
        assert!(is_clean(&folder.socket));
        fs::remove_file(&inside).expect("removed");
    }
}

#[test]
fn a_constructor_that_blocks_is_reported_though_it_is_the_first_that_is_logged() {
    let (folder, flag) = (Folder::new(), Flag::new());
    let config = folder.write("host.toml", "loader_timeout = '200ms'\n");
    let mut host = Running::start(
        folder.oxide(["run", "--config", &config]).env("CLINGING_CONSTRUCTOR", flag.argument()),
    );
    host.wait_for("listening on");
    let clinging = oxide_tests::plugin("clinging");
    let ended = folder.run(["load", &clinging.to_string_lossy(), "--json"]).expect(1);
    assert_eq!(ended.error_code(), "loader_stuck");
    assert!(flag.is_inside() && !flag.has_ended());
    host.wait_for("not loaded");
    folder.run(["list"]).expect(0);
    flag.go_on();
    host.interrupt().expect(0);
}
