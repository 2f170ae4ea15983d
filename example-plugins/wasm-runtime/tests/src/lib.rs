//! What the tests over the engine share: the engine, guests to give it, and hosts to load it into.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use oxide_host::{
    Host, HostBuilder, LoadOptions, ModuleInfo, Receipt,
    bus::{Event, Message},
    error::KernelError,
    report::Holder,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The folder of the engine's workspace.
///
/// # Panics
/// When this crate was taken out of it.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie beside the engine")
}

/// Where cargo has put these tests: the folder of their profile.
fn profile() -> PathBuf {
    let tests = env::current_exe().expect("a running test has a file");
    let folder = tests.ancestors().find(|folder| folder.join("deps").is_dir());
    folder.expect("cargo puts tests into `deps`, beside which libraries are").to_owned()
}

/// Cargo, without what it tells those that it runs.
fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("CARGO_") && name != "CARGO_HOME") {
        cargo.env_remove(name);
    }
    cargo
}

fn library(name: &str) -> String {
    format!("{}{name}{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX)
}

/// A native plugin of the main workspace: one of its examples, or of its tests'.
///
/// # Panics
/// When it does not build.
pub fn native(package: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--locked", "--target-dir"]);
        let target = profile().with_file_name("natives");
        cargo.arg(&target).current_dir(workspace().join("../.."));
        cargo.args(
            ["echo", "counter", "counter2", "misbehaving"].iter().flat_map(|package| ["--package", package]),
        );
        assert!(cargo.status().expect("cargo runs").success(), "the native plugins do not build");
        target.join("debug")
    });
    folder.join(library(package))
}

/// The engine, built as these tests were.
///
/// # Panics
/// When it does not build.
pub fn engine() -> &'static Path {
    static ENGINE: OnceLock<PathBuf> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let folder = profile();
        // All of the workspace, as the tests are built: another choice of packages would choose other features,
        // and build wasmtime once more.
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--workspace"]).current_dir(workspace());
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        cargo.env("CARGO_TARGET_DIR", folder.parent().expect("a profile's folder is in the target folder"));
        assert!(cargo.status().expect("cargo runs").success(), "the engine does not build");
        folder.join(library("wasm_runtime"))
    })
}

/// A guest of the folder `guests`: compiled before, or from its text.
///
/// # Panics
/// When there is none of this name.
pub fn guest(name: &str) -> Vec<u8> {
    let guests = workspace().join("guests");
    if let Ok(bytes) = fs::read(guests.join("built").join(format!("{name}.wasm"))) {
        return bytes;
    }
    let texts = ["wat", "bad"].map(|folder| guests.join(folder).join(format!("{name}.wat")));
    let text = texts.iter().find_map(|path| fs::read_to_string(path).ok());
    wat(&text.unwrap_or_else(|| panic!("there is no guest `{name}` in {}", guests.display())))
}

/// A module in text.
///
/// # Panics
/// When it does not parse.
pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// What the engine is to be given: guest, limits and all else; each part can be changed.
#[derive(Clone, Debug)]
pub struct Given(Value);

impl Given {
    /// A guest, with the default limits.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        Self(json!({
            "guest": BASE64_STANDARD.encode(bytes),
            "name": format!("{name}.wasm"),
            "config": null,
            "wasm": {},
            "cache": null,
        }))
    }

    /// A guest of the folder `guests`.
    pub fn guest(name: &str) -> Self {
        Self::new(name, &guest(name))
    }

    /// One of the limits or grants.
    #[must_use]
    pub fn with(mut self, limit: &str, value: impl Into<Value>) -> Self {
        self.0["wasm"][limit] = value.into();
        self
    }

    /// What the guest's own `configure` gets.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.0["config"] = config;
        self
    }

    /// Where compiled code is kept.
    #[must_use]
    pub fn cache(mut self, folder: &Path) -> Self {
        self.0["cache"] = folder.to_str().expect("a path in text").into();
        self
    }

    /// As the engine takes it.
    pub fn json(&self) -> Value {
        self.0.clone()
    }
}

/// A host, and where the copies of its libraries are.
pub struct House {
    /// The host.
    pub host: Host,
    staging: TempDir,
}

impl Default for House {
    fn default() -> Self {
        Self::new()
    }
}

impl House {
    /// A host with the usual deadlines.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// A host that was set up in another way than that.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn with(change: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let staging = tempfile::tempdir().expect("room for temporary files");
        let builder = change(Host::builder()).staging_dir(staging.path());
        Self { host: builder.build().expect("a host can be set up"), staging }
    }

    /// Loads and starts a guest.
    ///
    /// # Errors
    /// As [`Host::load_with`].
    pub async fn try_load(&self, id: &str, given: &Given) -> Result<ModuleInfo, KernelError> {
        self.host.load_with(engine(), LoadOptions::new().id(id).config(given.json())).await
    }

    /// The same, for a guest that lets itself be loaded.
    ///
    /// # Panics
    /// When it does not.
    pub async fn load(&self, id: &str, given: &Given) -> ModuleInfo {
        self.try_load(id, given).await.unwrap_or_else(|error| panic!("{}", told(&error)))
    }

    /// The error of a guest that does not let itself be loaded.
    ///
    /// # Panics
    /// When it does.
    pub async fn refused(&self, given: &Given) -> String {
        match self.try_load("refused", given).await {
            Ok(info) => panic!("it was loaded: {info:?}"),
            Err(error) => told(&error),
        }
    }

    /// Calls a module.
    ///
    /// # Errors
    /// As [`Host::invoke`], in words.
    pub async fn try_call(&self, id: &str, method: &str, argument: &str) -> Result<String, String> {
        let reply = self.host.invoke(id, method, argument).await.map_err(|error| told(&error))?;
        Ok(String::from_utf8_lossy(reply.as_bytes()).into_owned())
    }

    /// Calls a module that answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn call(&self, id: &str, method: &str, argument: &str) -> String {
        self.try_call(id, method, argument).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error of a call that fails.
    ///
    /// # Panics
    /// When it does not.
    pub async fn fails(&self, id: &str, method: &str, argument: &str) -> String {
        self.try_call(id, method, argument).await.expect_err("the call fails")
    }

    /// Unloads a module, which is gone then: the receipt says so, and the process's map.
    ///
    /// # Panics
    /// When it is not.
    pub async fn gone(&self, id: &str) -> Receipt {
        let before = self.mapped();
        let receipt = self.host.unload(id).await.expect("it was loaded");
        assert!(receipt.unmapped, "{receipt:?}");
        assert_eq!(self.mapped(), before - 1, "the map says otherwise: {receipt:?}");
        receipt
    }

    /// Unloads a module that left thread-locals on threads of the process's: it is gone at once, or as soon as they
    /// have come by.
    ///
    /// # Panics
    /// When anything else holds it.
    pub async fn gone_in_a_while(&self, id: &str) {
        let mut events = self.host.bus().subscribe().await;
        let receipt = self.host.unload(id).await.expect("it was loaded");
        assert!(receipt.retained_by.iter().all(|one| one.holder == Holder::ThreadLocal), "{receipt:?}");
        let mut unmapped = receipt.unmapped;
        while !unmapped {
            let envelope = events.receiver.recv().await.expect("the bus is there");
            if let Message::Event(Event::ModuleUnmapped { module_id, .. }) = envelope.message {
                unmapped = module_id == id;
            }
        }
        assert_eq!(self.mapped(), 0, "the map says otherwise");
    }

    /// How many of this host's copies are in the process's map.
    ///
    /// # Panics
    /// When the map cannot be read.
    pub fn mapped(&self) -> usize {
        let staging = self.staging.path().to_string_lossy().into_owned();
        let maps = fs::read_to_string("/proc/self/maps").expect("the map can be read");
        let mut files: Vec<_> =
            maps.lines().filter_map(|line| line.find(&staging).map(|at| &line[at..])).collect();
        files.sort_unstable();
        files.dedup();
        files.len()
    }
}

/// An error with its causes.
pub fn told(error: &KernelError) -> String {
    let mut text = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        if let KernelError::HookFailed { chain, .. } = error {
            text.extend(chain.iter().map(|cause| format!(": {cause}")));
        }
        let source = std::error::Error::source(error);
        text.extend(source.map(|source| format!(": {source}")));
        next = match error {
            KernelError::SwapFailed { source, .. } => Some(&**source),
            _ => source.and_then(|source| source.downcast_ref()),
        };
    }
    text
}

/// The bytes of this process that are in memory.
///
/// # Panics
/// When the system does not say.
pub fn resident() -> u64 {
    status("VmRSS:") * 1024
}

/// How many threads this process has.
pub fn threads() -> u64 {
    status("Threads:")
}

fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the system says");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it has such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Nothing in these tests takes so long, on any machine.
const FAR_TOO_LONG: Duration = Duration::from_secs(120);

/// Waits until `is_so`.
///
/// # Panics
/// When it never is.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < FAR_TOO_LONG, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
