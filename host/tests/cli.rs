//! The program without any plugin: exit codes, error shapes, the bus, colours.
#![cfg(all(unix, feature = "daemon"))]

mod program;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use program::{Ended, Folder, Running, error_code, is_clean, oxide};

#[test]
fn without_a_host_every_verb_that_needs_one_exits_5() {
    let folder = Folder::new();
    let verbs: [&[&str]; 10] = [
        &["list"],
        &["show", "x"],
        &["start", "x"],
        &["stop", "x"],
        &["unload", "x"],
        &["invoke", "x", "y"],
        &["events"],
        &["events", "--follow"],
        &["send", "ping"],
        &["retained"],
    ];
    for verb in verbs {
        let ended = folder.run(verb).expect(5);
        assert_eq!(ended.stdout, "", "{verb:?}");
        assert!(ended.stderr.contains("no host is running"), "{verb:?}: {ended:?}");
        let ended = folder.run(verb.iter().chain(&["--json"])).expect(5);
        assert_eq!((ended.error_code().as_str(), ended.stderr.as_str()), ("no_host", ""), "{verb:?}");
    }
}

#[test]
fn a_wrong_command_line_exits_2() {
    let folder = Folder::new();
    let config = folder.write("bad.json", "{");
    let at_config = format!("@{config}");
    let lines: [&[&str]; 12] = [
        &[],
        &["lits"],
        &["list", "more"],
        &["list", "-q", "-v"],
        &["load"],
        &["load", "a.so", "b.so", "--id", "x"],
        &["load", "a.so", "--config", "{a: 1}"],
        &["load", "a.so", "--config", &at_config],
        &["load", "a.so", "--config", "@/nonexistent"],
        &["run", "--config", "/nonexistent"],
        &["send"],
        &["send", "invoke", "x", "y", "{"],
    ];
    for line in lines {
        let ended = folder.run(line).expect(2);
        assert_eq!(ended.stdout, "", "{line:?}");
        assert!(!ended.stderr.is_empty(), "{line:?}");
        let ended = folder.run(line.iter().chain(&["--json"])).expect(2);
        assert_eq!((ended.error_code().as_str(), ended.stderr.as_str()), ("usage", ""), "{line:?}");
    }
    assert!(is_clean(&folder.socket));
}

#[test]
fn help_and_version_are_data() {
    for arg in ["--help", "--version", "help"] {
        let ended = Ended::of(&mut oxide([arg])).expect(0);
        assert!(ended.stdout.contains("oxide-host"), "{ended:?}");
        assert_eq!(ended.stderr, "");
    }
}

#[test]
fn what_is_no_plugin_is_refused_with_exit_3() {
    let folder = Folder::new();
    let text = folder.write("notes.so", "no library\n");
    let empty = folder.write("empty.so", "");
    let none = folder.path("none.so");
    let files: [(&std::path::Path, _); 4] = [
        (text.as_ref(), Some("not_a_library")),
        (empty.as_ref(), None),
        (folder.dir.path(), Some("not_a_file")),
        (none.as_path(), Some("not_found")),
    ];
    for (file, reason) in files {
        let file = file.to_str().expect("text");
        let ended = folder.run(["inspect", file]).expect(3);
        assert_eq!(ended.stdout, "", "{file}");
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains("hint: "), "{ended:?}");

        let inspected = folder.run(["inspect", file, "--json"]).expect(3).json();
        assert_eq!(inspected["plugin"], false, "{inspected}");
        if let Some(reason) = reason {
            assert_eq!(inspected["reason"], reason, "{inspected}");
        }
        // With no host, `load` begins to be one; refused, it leaves nothing behind.
        let ended = folder.run(["load", file, "--json"]).expect(3);
        assert_eq!(ended.error_code(), inspected["reason"].as_str().expect("a reason"), "{ended:?}");
        assert!(is_clean(&folder.socket), "{file}");
        let ended = folder.run(["run", file]).expect(3);
        assert!(ended.stderr.contains("error: ") && ended.stdout.is_empty(), "{ended:?}");
        assert!(is_clean(&folder.socket), "{file}");
    }
    let several = folder.run(["inspect", "--json", "/nonexistent", "/dev/null"]).expect(3).json();
    assert_eq!(several.as_array().map(Vec::len), Some(2), "{several}");
}

#[test]
fn a_running_host_refuses_too_and_goes_on() {
    let folder = Folder::new();
    let host = folder.host(["run"]);
    let text = folder.write("notes.so", "no library\n");
    let ended = folder.run(["load", &text]).expect(3);
    assert!(ended.stderr.contains("hint: "), "{ended:?}");
    let ended = folder.run(["load", &text, "--json"]).expect(3);
    assert_eq!(ended.error_code(), "not_a_library");

    let several = ["load", "/nonexistent/a.so", "/nonexistent/b.so"];
    let ended = folder.run(several).expect(3);
    assert_eq!(ended.stderr.matches("error: ").count(), 2, "{ended:?}");
    let ended = folder.run(several.iter().chain(&["--json"])).expect(3);
    assert_eq!(ended.error_code(), "not_found");
    assert_eq!(ended.json()["errors"].as_array().map(Vec::len), Some(2));
    assert_eq!(ended.json()["loaded"], serde_json::json!([]));

    assert_eq!(folder.run(["list"]).expect(0).stdout, "");
    drop(host);
}

#[test]
fn no_such_module_exits_4() {
    let folder = Folder::new();
    let _host = folder.host(["run"]);
    for id in ["nope", "", "a/b", "../..", "no pe", "%", "ü", "?x=1#y"] {
        for verb in ["show", "start", "stop", "unload", "invoke"] {
            let mut line = vec![verb, id];
            line.extend((verb == "invoke").then_some("method"));
            let ended = folder.run(&line).expect(4);
            assert_eq!(ended.stdout, "", "{line:?}");
            line.push("--json");
            assert_eq!(folder.run(&line).expect(4).error_code(), "unknown_module", "{line:?}");
        }
    }
}

#[test]
fn an_empty_host_says_so_on_stderr_only() {
    let folder = Folder::new();
    let _host = folder.host(["run"]);
    for (verb, words) in [("list", "no modules\n"), ("retained", "nothing is retained\n")] {
        let ended = folder.run([verb]).expect(0);
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", words));
        assert_eq!(folder.run([verb, "-q"]).expect(0).stderr, "");
        assert_eq!(folder.run([verb, "--json"]).expect(0).json(), serde_json::json!([]));
    }
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_its_place() {
    let folder = Folder::new();
    let config = folder.write("host.toml", "init_timeout = '5s'\nautoload = true\n");
    let ended = folder.run(["run", "--config", &config]).expect(2);
    assert!(ended.stderr.contains("host.toml:2:1: unknown field `autoload`"), "{ended:?}");
    assert!(is_clean(&folder.socket));
}

#[test]
fn every_error_of_the_api_has_the_same_shape() {
    let folder = Folder::new();
    let _host = folder.host(["run"]);
    let cases = [
        ("GET", "/", "", 404, "unknown_route"),
        ("GET", "/v1/nothing", "", 404, "unknown_route"),
        ("PUT", "/v1/modules", "", 405, "unknown_route"),
        ("GET", "/v1/modules/nope", "", 404, "unknown_module"),
        ("DELETE", "/v1/modules/n%20pe", "", 404, "unknown_module"),
        ("POST", "/v1/modules/nope/start", "", 404, "unknown_module"),
        ("POST", "/v1/modules/nope/stop", "", 404, "unknown_module"),
        ("POST", "/v1/modules/nope/invoke/x", "bytes", 404, "unknown_module"),
        ("GET", "/v1/modules/%ff", "", 400, "bad_request"),
        ("POST", "/v1/modules", "", 400, "bad_request"),
        ("POST", "/v1/modules", "{", 400, "bad_request"),
        ("POST", "/v1/modules", "{}", 400, "bad_request"),
        ("POST", "/v1/modules", r#"{"paths":[]}"#, 400, "bad_request"),
        ("POST", "/v1/modules", r#"{"path":"a.so"}"#, 400, "bad_request"),
        ("POST", "/v1/modules", r#"{"path":"/a.so","paths":["/b.so"]}"#, 400, "bad_request"),
        ("POST", "/v1/modules", r#"{"paths":["/a.so","/b.so"],"id":"x"}"#, 400, "bad_request"),
        ("POST", "/v1/modules", r#"{"path":"/a.so","autostart":true}"#, 400, "bad_request"),
        ("POST", "/v1/modules", r#"{"path":"/nonexistent.so"}"#, 422, "not_found"),
        ("POST", "/v1/modules", r#"{"paths":["/nonexistent.so"]}"#, 422, "not_found"),
        ("GET", "/v1/inspect", "", 400, "bad_request"),
        ("GET", "/v1/inspect?path=a.so", "", 400, "bad_request"),
        ("GET", "/v1/events?class=gossip", "", 400, "bad_request"),
        ("GET", "/v1/events?colour=red", "", 400, "bad_request"),
        ("POST", "/v1/messages", "{}", 400, "bad_request"),
        ("POST", "/v1/messages", r#"{"command":{"type":"explode"}}"#, 400, "bad_request"),
        ("POST", "/v1/messages", r#"{"event":{"type":"pong","from":"kernel"}}"#, 400, "bad_request"),
    ];
    for (method, path, body, status, code) in cases {
        let (found, answer) = folder.json(method, path, body);
        assert_eq!((found, error_code(&answer).as_str()), (status, code), "{method} {path} {body}: {answer}");
    }
}

#[test]
fn the_api_describes_and_measures_itself() {
    let folder = Folder::new();
    let host = folder.host(["run"]);
    let (status, health) = folder.json("GET", "/v1/health", "");
    assert_eq!((status, health["pid"].as_u64()), (200, Some(host.child.id().into())));
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));

    let (status, openapi) = folder.json("GET", "/v1/openapi.json", "");
    assert_eq!((status, openapi["openapi"].as_str()), (200, Some("3.1.0")));
    assert_eq!(openapi["info"]["version"], env!("CARGO_PKG_VERSION"));

    let (status, metrics) = folder.http("GET", "/metrics", b"");
    let metrics = String::from_utf8(metrics).expect("text");
    assert_eq!(status, 200);
    for line in ["oxide_modules{state=\"running\"} 0", "oxide_retained 0"] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    let (status, inspected) = folder.json("GET", "/v1/inspect?path=%2Fnonexistent", "");
    assert_eq!((status, inspected["plugin"].as_bool()), (200, Some(false)));
}

#[test]
fn the_bus_is_followed_until_the_host_ends() {
    let folder = Folder::new();
    let host = folder.host(["run"]);
    let mut follower = Running::start(&mut folder.oxide(["events", "--follow", "--json"]));
    follower.wait_for("following the bus");
    let mut lines = BufReader::new(follower.child.stdout.take().expect("stdout"));

    let sent = folder.run(["send", "event", "somebody", "greeting", r#"{"to":"you"}"#, "--json"]).expect(0);
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), sent.json());
    assert_eq!(sent.json()["source"], "operator");

    let recent = folder.run(["events", "--json"]).expect(0).json();
    assert!(recent.as_array().is_some_and(|recent| recent.contains(&sent.json())), "{recent}");
    let recent = folder.run(["events"]).expect(0).stdout;
    assert!(recent.contains(r#"operator custom somebody greeting {"payload":{"to":"you"}}"#), "{recent}");

    host.interrupt().expect(0);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("the rest");
    follower.end().expect(0);
}

#[test]
fn a_command_on_the_bus_is_answered() {
    let folder = Folder::new();
    let _host = folder.host(["run"]);
    assert!(folder.run(["send", "ping"]).expect(0).stdout.starts_with("pong "));
    let reply = folder.run(["send", "ping", "--json"]).expect(0).json();
    assert_eq!(reply["message"]["event"]["type"], "pong");
    assert!(reply["correlation_id"].is_string());

    let ended = folder.run(["send", "start", "nope"]).expect(1);
    assert!(ended.stderr.contains("nope") && ended.stdout.is_empty(), "{ended:?}");
    let ended = folder.run(["send", "invoke", "nope", "x", "--json"]).expect(1);
    assert_eq!(ended.error_code(), "command_failed");
}

/// What the program writes to stderr when that is a terminal.
#[cfg(target_os = "linux")]
fn on_a_terminal(no_color: &str) -> Vec<u8> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("text");
    let noctty = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
    let slave =
        fs::OpenOptions::new().read(true).write(true).custom_flags(noctty).open(name).expect("opened");
    let folder = Folder::new();
    let mut command = folder.oxide(["list"]);
    command.env("TERM", "xterm").env("NO_COLOR", no_color).stdout(Stdio::null()).stderr(slave);
    assert_eq!(command.status().expect("it runs").code(), Some(5));
    drop(command);
    let mut written = Vec::new();
    // Ends with an error, not with nothing, once nobody holds the other side.
    let _ = fs::File::from(master).read_to_end(&mut written);
    written
}

#[test]
#[cfg(target_os = "linux")]
fn colour_is_for_terminals_and_not_with_no_color() {
    let coloured = on_a_terminal("");
    assert!(coloured.contains(&0x1b), "{:?}", String::from_utf8_lossy(&coloured));
    let plain = on_a_terminal("1");
    assert!(plain.starts_with(b"error: "), "{:?}", String::from_utf8_lossy(&plain));
    assert!(!plain.contains(&0x1b));
    let piped = Folder::new().run(["list"]).expect(5);
    assert!(!piped.stderr.contains('\x1b'));
}
