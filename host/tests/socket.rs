//! Who may have the socket, and what is left of it.
#![cfg(all(unix, feature = "daemon"))]

mod program;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
};

use program::{Ended, Folder, Running, is_clean, oxide};
use rustix::process::Signal;

#[test]
fn both_signals_end_a_host_in_good_order() {
    let folder = Folder::new();
    for signal in [Signal::INT, Signal::TERM] {
        let host = folder.host(["run"]);
        let mode = fs::metadata(&folder.socket).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        host.signal(signal);
        let ended = host.end().expect(0);
        assert_eq!(ended.stdout, "");
        assert!(is_clean(&folder.socket), "{ended:?}");
    }
}

#[test]
fn a_second_host_is_refused_and_the_first_goes_on() {
    let folder = Folder::new();
    let host = folder.host(["run"]);
    let ended = folder.run(["run"]).expect(1);
    assert!(ended.stderr.contains("a host is already running on"), "{ended:?}");
    assert_eq!(folder.run(["run", "--json"]).expect(1).error_code(), "host_running");
    folder.run(["list"]).expect(0);
    host.interrupt().expect(0);
    folder.run(["list"]).expect(5);
}

#[test]
fn of_hosts_that_start_at_once_exactly_one_wins() {
    let folder = Folder::new();
    let mut hosts: Vec<Running> = (0..6).map(|_| Running::start(&mut folder.oxide(["run"]))).collect();
    let first_lines: Vec<String> = hosts.iter_mut().filter_map(Running::next_line).collect();
    let winners = first_lines.iter().filter(|line| line.contains("listening on")).count();
    let losers = first_lines.iter().filter(|line| line.contains("already running")).count();
    assert_eq!((winners, losers), (1, 5), "{first_lines:?}");
    folder.run(["list"]).expect(0);
}

#[test]
fn the_socket_of_a_killed_host_is_replaced() {
    let folder = Folder::new();
    let host = folder.host(["run"]);
    host.signal(Signal::KILL);
    host.end().expect(-1);
    assert!(folder.socket.exists());
    folder.run(["list"]).expect(5);
    let host = folder.host(["run"]);
    folder.run(["list"]).expect(0);
    host.interrupt().expect(0);
    assert!(is_clean(&folder.socket));
}

#[test]
fn a_living_socket_is_never_stolen() {
    let folder = Folder::new();
    let listener = UnixListener::bind(&folder.socket).expect("bound");
    assert_eq!(folder.run(["run", "--json"]).expect(1).error_code(), "host_running");
    listener.accept().expect("it was tried");
    assert!(folder.socket.exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let folder = Folder::new();
    fs::write(&folder.socket, "precious").expect("written");
    for verb in [&["run", "--json"][..], &["load", "/nonexistent", "--json"]] {
        assert_eq!(folder.run(verb).expect(1).error_code(), "not_a_socket");
        assert_eq!(fs::read_to_string(&folder.socket).expect("still there"), "precious");
    }
    assert_eq!(fs::read_dir(folder.dir.path()).expect("the folder").count(), 1, "no litter");

    fs::remove_file(&folder.socket).expect("removed");
    fs::create_dir(&folder.socket).expect("made");
    let ended = folder.run(["run"]).expect(1);
    assert!(ended.stderr.contains("is a directory, not a socket"), "{ended:?}");
}

#[test]
fn a_path_that_cannot_be_a_socket_gets_a_clear_error() {
    let folder = Folder::new();
    let missing = folder.path("missing/s");
    let ended = Ended::of(oxide(["run"]).env("OXIDE_SOCKET", &missing)).expect(1);
    assert!(ended.stderr.contains("hint: make the folder"), "{ended:?}");

    let long = folder.path(&"x".repeat(200));
    for verb in [&["run", "--json"][..], &["list", "--json"]] {
        let ended = Ended::of(oxide(verb).env("OXIDE_SOCKET", &long)).expect(1);
        assert_eq!(ended.error_code(), "bad_socket_path");
    }
    // Not even root may make a file here.
    if cfg!(target_os = "linux") {
        let ended = Ended::of(&mut oxide(["run", "--socket", "/sys/oxide.sock"])).expect(1);
        assert!(ended.stderr.contains("the socket `/sys/oxide.sock`"), "{ended:?}");
        assert!(ended.stderr.contains("hint: this user may not write there"), "{ended:?}");
    }
}

#[test]
fn the_default_socket_is_in_a_folder_of_the_users_own() {
    let folder = Folder::new();
    let runtime = || {
        let mut command = oxide(["run"]);
        command.env("XDG_RUNTIME_DIR", folder.dir.path()).env("OXIDE_SOCKET", "");
        command
    };
    let mut host = Running::start(&mut runtime());
    host.wait_for("oxide-host/oxide.sock");
    let own = folder.path("oxide-host");
    assert_eq!(fs::metadata(&own).expect("the folder").permissions().mode() & 0o777, 0o700);
    host.interrupt().expect(0);

    // A folder that somebody else put there could have anybody's host in it.
    fs::remove_dir_all(&own).expect("removed");
    std::os::unix::fs::symlink("/tmp", &own).expect("a link");
    let ended = Ended::of(&mut runtime()).expect(1);
    assert!(ended.stderr.contains("is not a directory of this user's"), "{ended:?}");

    let mut elsewhere = oxide(["run"]);
    elsewhere.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", folder.dir.path());
    let mut host = Running::start(&mut elsewhere);
    let uid = rustix::process::getuid().as_raw();
    host.wait_for(&format!("oxide-host-{uid}/oxide.sock"));
    host.interrupt().expect(0);
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_configuration() {
    let folder = Folder::new();
    let config = folder.write("host.toml", "socket = 'from-config'\n");
    let run = |socket: Option<&str>, flag: &[&str]| {
        let mut command = oxide(["run", "--config", &config].iter().chain(flag));
        if let Some(socket) = socket {
            command.env("OXIDE_SOCKET", folder.path(socket));
        }
        let mut host = Running::start(&mut command);
        let line = host.wait_for("listening on");
        host.interrupt().expect(0);
        line
    };
    let flagged = folder.path("from-flag");
    let flag = ["--socket", flagged.to_str().expect("text")];
    assert!(run(None, &[]).contains("from-config"));
    assert!(run(Some("from-env"), &[]).contains("from-env"));
    assert!(run(Some("from-env"), &flag).contains("from-flag"));
}
