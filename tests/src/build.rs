//! Builds the plugins that the tests load, when they are asked for.
//!
//! They go into a target folder of their own, `<target>/plugins`: a cargo inside a cargo must neither wait
//! for the outer one's lock nor undo its work. A process asks cargo once for each set of plugins; processes
//! that ask at the same time wait for each other at cargo's lock, and all but the first find the work done.

use std::{
    collections::HashMap,
    env,
    ffi::OsStr,
    fs, iter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{LazyLock, Mutex, OnceLock, PoisonError},
};

use serde_json::Value;

use crate::workspace;

/// The plugins that one build gives: package to file.
pub type Built = HashMap<String, PathBuf>;

/// The compiled plugin of this package: one of the examples, or one of the tests' own.
///
/// # Panics
/// When it does not build, or there is none: then there is nothing to test.
pub fn plugin(package: &str) -> PathBuf {
    if let Some(path) = built_before(package) {
        return path;
    }
    // Apart from the others: one `cargo build` for all would turn on the feature `tokio` for all of them.
    static PLAIN: LazyLock<Built> = LazyLock::new(|| {
        let examples = ["echo", "echo2", "counter", "counter2", "ticker"];
        build(&mut cargo(), &[&examples[..], &["engine", "future-counter", "misbehaving"]].concat())
    });
    static WITH_TOKIO: LazyLock<Built> = LazyLock::new(|| build(&mut cargo(), &["tokio-user", "everything"]));
    static CLINGING: LazyLock<Built> = LazyLock::new(|| {
        build(
            &mut cargo(),
            &["clinging", "rayon-user", "own-allocator", "c-inside", "c-beside", "c-lasting", "afterlife"],
        )
    });
    // Needs a compiler that not every machine has.
    static CPP: LazyLock<Built> = LazyLock::new(|| build(&mut cargo(), &["cpp-inside"]));
    let built = match package {
        "tokio-user" | "everything" => &WITH_TOKIO,
        "clinging" | "rayon-user" | "own-allocator" | "c-inside" | "c-beside" | "c-lasting" | "afterlife" => {
            &CLINGING
        }
        "cpp-inside" => &CPP,
        _ => &PLAIN,
    };
    file(built, package)
}

/// Tells a child which plugins were built, as JSON: `[[package, path], …]`.
pub(crate) const BUILT: &str = "OXIDE_TESTS_BUILT";

/// The plugin, if this process was told where it is.
fn built_before(package: &str) -> Option<PathBuf> {
    static TOLD: LazyLock<Vec<(String, PathBuf)>> = LazyLock::new(|| {
        let text = env::var(BUILT).unwrap_or_else(|_| "[]".to_owned());
        serde_json::from_str(&text).expect("what the test wrote can be read")
    });
    TOLD.iter().find(|(known, _)| known == package).map(|(_, path)| path.clone())
}

/// The file of `package` among those that were built.
///
/// # Panics
/// When it is not among them.
pub fn file(built: &Built, package: &str) -> PathBuf {
    built.get(package).unwrap_or_else(|| panic!("no plugin `{package}` was built, but {built:?}")).clone()
}

/// A plugin as one would ship it: optimised and without debug information.
///
/// # Panics
/// When it does not build.
pub fn stripped_release(package: &str) -> PathBuf {
    let mut cargo = cargo();
    cargo.args(["build", "--release", "--config", "profile.release.strip=true"]);
    cargo.args(["--config", "profile.release.lto='fat'", "--package", package, "--target-dir"]);
    let built = run(cargo.arg(target().join("stripped")), &[]);
    file(&built, package)
}

/// The flags that have rustc link with the linker that the C compiler knows by this name; `None` where there is none.
pub fn linker(name: &str) -> Option<Vec<String>> {
    let mut flags = vec![format!("-fuse-ld={name}")];
    let output = |command: &mut Command| String::from_utf8(command.output().ok()?.stdout).ok();
    let about = output(Command::new(rustc()).arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "))?.to_owned();
    let sysroot = PathBuf::from(output(Command::new(rustc()).args(["--print", "sysroot"]))?.trim_end());
    // Rust's own lld, where the toolchain brings it along.
    let own = sysroot.join("lib/rustlib").join(host).join("bin/gcc-ld");
    if own.is_dir() {
        flags.push(format!("-B{}", own.display()));
    }
    let asked = Command::new("cc").args(&flags).arg("-Wl,--version").output().ok()?;
    asked.status.success().then(|| flags.into_iter().map(|flag| format!("-Clink-arg={flag}")).collect())
}

/// The compiler that cargo runs.
fn rustc() -> PathBuf {
    env::var_os("RUSTC").map_or_else(|| Path::new(env!("CARGO")).with_file_name("rustc"), PathBuf::from)
}

/// A way of building that is not the tests' own.
#[derive(Debug)]
pub struct Way {
    /// The folder in [`target`] that has everything built in this way.
    pub folder: &'static str,
    /// Cargo's own arguments.
    pub cargo: &'static [&'static str],
    /// Flags for every crate.
    pub every: &'static str,
}

impl Way {
    /// Builds a plugin in this way, its own crate with `flags` more, and puts it where later builds leave it alone.
    /// `name` tells it from others of this way.
    ///
    /// # Panics
    /// When it does not build.
    pub fn build(&self, package: &str, name: &str, flags: &[String]) -> PathBuf {
        // The next build of the same package has the same file.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = target().join(self.folder);
        let mut cargo = cargo();
        cargo.args(["rustc", "--package", package, "--target-dir"]).arg(&folder).args(self.cargo);
        if !self.every.is_empty() {
            cargo.env("RUSTFLAGS", self.every);
        }
        let flags: Vec<&str> = iter::once("--").chain(flags.iter().map(String::as_str)).collect();
        let built = file(&run(&mut cargo, &flags), package);
        let own = folder.join(name);
        fs::create_dir_all(&own).expect("the target folder can be written to");
        let own = own.join(built.file_name().expect("a library has a name"));
        fs::copy(&built, &own).expect("room for a plugin");
        own
    }
}

/// `panic-abort`, which is built in the way of its name.
///
/// # Panics
/// When it does not build.
pub fn panic_abort() -> PathBuf {
    static BUILT: LazyLock<Built> = LazyLock::new(|| {
        let mut cargo = cargo();
        let target = target();
        cargo.args(["rustc", "--package", "panic-abort", "--target-dir"]).arg(target);
        // Of this crate alone; its dependencies may stay as they are.
        run(&mut cargo, &["--", "-C", "panic=abort"])
    });
    file(&BUILT, "panic-abort")
}

/// The tests' own target folder, inside the one that these tests were built into.
pub fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        let tests = env::current_exe().expect("a running test has a file");
        // Cargo marks its target folders, wherever CARGO_TARGET_DIR or a configuration put them.
        let marked = tests.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
        marked.map_or_else(|| workspace().join("target"), Path::to_owned).join("plugins")
    })
}

/// Cargo as these tests were built with, in the workspace's folder.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    prepare(&mut cargo);
    cargo
}

/// The nightly toolchain's cargo; `None` where there is no such toolchain.
pub fn nightly_cargo() -> Option<Command> {
    let list = Command::new("rustup").args(["toolchain", "list"]).output().ok()?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let nightly = list.lines().find(|line| line.starts_with("nightly"))?.split_whitespace().next()?;
    let mut cargo = Command::new("rustup");
    cargo.args(["run", nightly, "cargo"]);
    prepare(&mut cargo);
    // Of the toolchain that runs these tests, and none of the other's business.
    for variable in ["RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "CARGO", "LD_LIBRARY_PATH"] {
        cargo.env_remove(variable);
    }
    Some(cargo)
}

fn prepare(cargo: &mut Command) {
    cargo.current_dir(workspace());
    for (name, _) in env::vars_os() {
        if is_of_the_outer_cargo(&name) {
            cargo.env_remove(name);
        }
    }
}

/// What an outer cargo set for this very process, or what would lead the inner one's files elsewhere. Flags
/// and wrappers that the developer chose stay.
fn is_of_the_outer_cargo(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_", "CARGO_CFG_", "CARGO_FEATURE_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || [
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_CRATE_NAME",
            "CARGO_PRIMARY_PACKAGE",
            "CARGO_TARGET_TMPDIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MAKEFLAGS",
            "MAKEFLAGS",
            "OUT_DIR",
            "RUSTC_WORKSPACE_WRAPPER",
        ]
        .contains(&&*name)
}

/// Builds these packages into [`target`].
///
/// # Panics
/// When they do not build.
pub fn build(cargo: &mut Command, packages: &[&str]) -> Built {
    cargo.arg("build").arg("--target-dir").arg(target());
    for package in packages {
        cargo.args(["--package", package]);
    }
    run(cargo, &[])
}

/// Runs the cargo command and lists the dynamic libraries that it says it made.
///
/// # Panics
/// When it fails.
pub fn run(cargo: &mut Command, last: &[&str]) -> Built {
    cargo.args(["--quiet", "--message-format=json-render-diagnostics"]).args(last);
    let output = cargo.stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(output.status.success(), "the plugins do not build: {cargo:?} gave {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| library_of(&serde_json::from_str(line).ok()?)).collect()
}

/// The package and the file of a "compiler-artifact" message about a dynamic library.
fn library_of(message: &Value) -> Option<(String, PathBuf)> {
    let is_cdylib = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "cdylib");
    let files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    let library = files
        .map(Path::new)
        .find(|file| file.extension().is_some_and(|extension| extension == env::consts::DLL_EXTENSION))?;
    let name = message["target"]["name"].as_str()?.replace('_', "-");
    is_cdylib.then(|| (name, library.to_owned()))
}
