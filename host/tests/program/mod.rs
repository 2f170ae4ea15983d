//! Runs the compiled program, and speaks to its socket as `curl` would.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// No answer takes so long, on any machine: the clock is there only so that a test that fails ends too.
const FAR_TOO_LONG: Duration = Duration::from_secs(60);

/// A folder with room for a socket.
pub(crate) struct Folder {
    pub(crate) dir: TempDir,
    pub(crate) socket: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Self {
        // Not the default folder: a socket's path must be short, and TMPDIR need not be.
        let dir = tempfile::Builder::new().prefix("ox").tempdir_in("/tmp").expect("a folder");
        let socket = dir.path().join("s");
        Self { dir, socket }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("written");
        path.into_os_string().into_string().expect("text")
    }

    /// The program, told to use this folder's socket.
    pub(crate) fn oxide<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = oxide(args);
        command.env("OXIDE_SOCKET", &self.socket);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        Ended::of(&mut self.oxide(args))
    }

    /// Starts a host and waits until it listens.
    pub(crate) fn host<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        let mut host = Running::start(&mut self.oxide(args));
        host.wait_for("listening on");
        host
    }

    /// One HTTP request; gives the status and the body.
    pub(crate) fn http(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = UnixStream::connect(&self.socket).expect("a host");
        stream.set_read_timeout(Some(FAR_TOO_LONG)).expect("a limit");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(body).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer[end + 4..].to_vec())
    }

    /// The same, answered in JSON.
    pub(crate) fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.http(method, path, body.as_bytes());
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("JSON: {body:?}")))
    }
}

/// The program, without anything of this test's environment that it listens to.
pub(crate) fn oxide<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oxide-host"));
    for name in
        ["OXIDE_SOCKET", "OXIDE_WASM_ENGINE", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG", "COLUMNS"]
    {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// How a run of the program ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("it runs");
        Self {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).expect("text"),
            stderr: String::from_utf8(stderr).expect("text"),
        }
    }

    /// stdout as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("JSON: {self:?}"))
    }

    /// The code of the error on stdout, whose shape is checked.
    #[track_caller]
    pub(crate) fn error_code(&self) -> String {
        error_code(&self.json())
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit {}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// Checks that this is `{"error":{"code","message","hint"}}`, and gives the code.
#[track_caller]
pub(crate) fn error_code(value: &Value) -> String {
    let error = &value["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
    assert!(error["hint"].is_string() || error["hint"].is_null(), "{value}");
    assert!(error.get("hint").is_some(), "{value}");
    error["code"].as_str().unwrap_or_else(|| panic!("a code: {value}")).to_owned()
}

/// A program that goes on. Killed when dropped, so that no test leaves one behind.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stderr: BufReader<ChildStderr>,
    pub(crate) said: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        Self { child, stderr, said: String::new() }
    }

    /// Reads what it says until a line that has `text` in it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            match self.next_line() {
                Some(line) if line.contains(text) => return line,
                Some(_) => {}
                None => panic!("it ended without saying `{text}`, but:\n{}", self.said),
            }
        }
    }

    pub(crate) fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.stderr.read_line(&mut line).expect("stderr");
        self.said.push_str(&line);
        (length > 0).then_some(line)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    /// Waits until it ends by itself.
    pub(crate) fn end(mut self) -> Ended {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take();
        while self.next_line().is_some() {}
        if let Some(pipe) = &mut pipe {
            pipe.read_to_string(&mut stdout).expect("stdout");
        }
        let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        Ended { code, stdout, stderr: std::mem::take(&mut self.said) }
    }

    /// Ends it in good order.
    pub(crate) fn interrupt(self) -> Ended {
        self.signal(Signal::INT);
        self.end()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether nothing is left of a host.
pub(crate) fn is_clean(socket: &Path) -> bool {
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    !socket.exists() && !Path::new(&lock).exists()
}
