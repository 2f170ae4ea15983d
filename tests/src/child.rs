//! Tests that run in a process of their own: there a crash is a verdict, and the process's map, threads and
//! end belong to one test alone.

use std::{
    any::type_name_of_val,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child as Process, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{Flag, build};

/// Says to a process that it is the child; its value is the folder that it may use.
const FOLDER: &str = "OXIDE_TESTS_CHILD_FOLDER";

/// Nothing in a child takes so long, on any machine.
const FAR_TOO_LONG: Duration = Duration::from_secs(120);

/// A test's child: what it finds in its environment.
#[derive(Debug)]
pub struct Child {
    plugins: Vec<(String, PathBuf)>,
    variables: Vec<(&'static str, String)>,
    flags: Vec<&'static str>,
}

/// A child that uses these plugins.
pub fn child(packages: &[&str]) -> Child {
    let built = |package: &&str| ((*package).to_owned(), build::plugin(package));
    let plugins = if is_child() { Vec::new() } else { packages.iter().map(built).collect() };
    Child { plugins, variables: Vec::new(), flags: Vec::new() }
}

/// Whether this process is one.
fn is_child() -> bool {
    env::var_os(FOLDER).is_some()
}

/// A folder of this child's, gone after it has ended.
///
/// # Panics
/// When this is no child.
pub fn folder() -> PathBuf {
    env::var_os(FOLDER).expect("asked in a child").into()
}

impl Child {
    /// Has the child use one more plugin, `plugin(name)` there. Built in the test, not again in its child.
    #[must_use]
    pub fn with(mut self, name: &str, build: impl FnOnce() -> PathBuf) -> Self {
        if !is_child() {
            self.plugins.push((name.to_owned(), build()));
        }
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Sets a variable to a path, which is that of `Flag::named(name)`.
    #[must_use]
    pub fn flag(mut self, name: &'static str) -> Self {
        self.flags.push(name);
        self
    }

    /// In the child: runs `body`, which stands in the test's function. In the test: runs the child, up to
    /// its end.
    ///
    /// # Panics
    /// When the child does not end well, or at all.
    pub fn run(self, body: impl FnOnce()) {
        if is_child() {
            return body();
        }
        // `crate::module::test::{{closure}}`
        let name = type_name_of_val(&body).trim_end_matches("::{{closure}}");
        let name = name.split_once("::").map_or(name, |(_, name)| name);
        let folder = tempfile::tempdir().expect("room for temporary files");
        let (status, output) = self.output(name, &folder);
        assert!(status.success(), "the child ended with {status}:\n{output}");
        assert!(output.contains("test result: ok. 1 passed"), "it ran no test `{name}`:\n{output}");
    }

    fn output(&self, name: &str, folder: &TempDir) -> (ExitStatus, String) {
        let path = |name: &str| folder.path().join(name);
        let (out, err) = (path("stdout"), path("stderr"));
        let file = |path: &Path| Stdio::from(File::create(path).expect("room for temporary files"));
        let mut command = Command::new(env::current_exe().expect("a running test has a file"));
        command.args(["--exact", name, "--nocapture"]).env(FOLDER, folder.path());
        command.env(build::BUILT, serde_json::to_string(&self.plugins).expect("paths are text here"));
        command.env("RUST_BACKTRACE", "0").envs(self.variables.iter().map(|(name, value)| (name, value)));
        for flag in &self.flags {
            command.env(flag, path(flag));
        }
        let child = command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).spawn();
        let status = wait(child.expect("a test can be run again"));
        let [out, err] = [out, err].map(|path| fs::read(path).unwrap_or_default());
        (status, format!("{}\n{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err)))
    }
}

/// Waits for its end; kills it when there is none.
fn wait(mut child: Process) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is ours to wait for") {
            return status;
        }
        if began.elapsed() >= FAR_TOO_LONG {
            let _ = child.kill();
            return child.wait().expect("it is ours to wait for");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

impl Flag {
    /// The flag at the path that this variable of the process says.
    ///
    /// # Panics
    /// When there is no such variable.
    pub fn named(variable: &str) -> Self {
        Self::at(env::var_os(variable).expect("the test has set it").into())
    }
}
