//! Orders for the plugin `misbehaving`, and files by which it and a test tell each other where they stand.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use oxide_host::{Host, LoadOptions, ModuleInfo, error::KernelError};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{build, plugin, wait::eventually};

/// Stands before the orders in the plugin's file.
const MARK: &[u8] = b"orders of the misbehaving plugin:";

/// How much room there is for the mark and the orders.
const ROOM: usize = 512;

/// The plugin's bytes, and where in them the orders go.
static PLACE: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
    let bytes = fs::read(misbehaving()).expect("it has just been built");
    let places: Vec<usize> = bytes
        .windows(MARK.len())
        .enumerate()
        .filter_map(|(at, window)| (window == MARK).then_some(at + MARK.len()))
        .collect();
    let [place] = places[..] else { panic!("the mark of the orders stands {} times", places.len()) };
    (bytes, place)
});

/// The plugin, without any orders.
pub fn misbehaving() -> PathBuf {
    plugin("misbehaving")
}

/// A copy of the plugin with orders that it follows before it is configured: `id`, `constructor`, `metadata`.
///
/// # Panics
/// When they are too long, or the plugin has no place for them.
pub fn ordered(orders: &Value) -> Changed {
    let orders = orders.to_string();
    let (plugin, place) = &*PLACE;
    let (mut bytes, place) = (plugin.clone(), *place);
    assert!(orders.len() <= ROOM - MARK.len(), "too long: {orders}");
    bytes[place..place + orders.len()].copy_from_slice(orders.as_bytes());
    changed("misbehaving", &bytes)
}

/// A plugin's file with changed bytes. It is gone when this is dropped.
#[derive(Debug)]
pub struct Changed {
    path: PathBuf,
    _folder: TempDir,
}

impl AsRef<Path> for Changed {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// Puts a plugin's changed bytes into a file of their own, whose name is that of the plugin.
///
/// # Panics
/// When the file cannot be written.
pub fn changed(name: &str, bytes: &[u8]) -> Changed {
    let folder = tempfile::tempdir_in(build::target()).expect("the target folder can be written to");
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let path = folder.path().join(format!("{prefix}{name}{suffix}"));
    fs::write(&path, bytes).expect("room for a plugin");
    Changed { path, _folder: folder }
}

/// Loads and starts the plugin under `id`; `hooks` says what each of its hooks does.
///
/// # Errors
/// As [`Host::load_with`].
pub async fn load_misbehaving(host: &Host, id: &str, hooks: Value) -> Result<ModuleInfo, KernelError> {
    host.load_with(misbehaving(), options(id, hooks)).await
}

/// The options for that.
pub fn options(id: &str, hooks: Value) -> LoadOptions {
    let mut config = if hooks.is_object() { hooks } else { json!({}) };
    config["id"] = id.into();
    LoadOptions::new().id(id).config(config)
}

/// A path by which a deed tells that it is inside and that it has ended, and is told to go on.
#[derive(Debug)]
pub struct Flag {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Flag {
    /// A flag that nobody has seen yet.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("room for temporary files");
        Self { path: folder.path().join("flag"), _folder: Some(folder) }
    }

    /// The flag at this path, which somebody else makes room for.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, _folder: None }
    }

    /// `verb:path`, a deed.
    pub fn deed(&self, verb: &str) -> String {
        format!("{verb}:{}", self.argument())
    }

    /// The path, a deed's argument.
    pub fn argument(&self) -> &str {
        self.path.to_str().expect("temporary folders have readable names")
    }

    fn file(&self, what: &str) -> PathBuf {
        Path::new(&format!("{}.{what}", self.argument())).to_owned()
    }

    /// Whether the deed has begun.
    pub fn is_inside(&self) -> bool {
        self.file("inside").exists()
    }

    /// Whether the deed is over, or was dropped.
    pub fn has_ended(&self) -> bool {
        self.file("ended").exists()
    }

    /// Waits until the deed has begun.
    pub async fn inside(&self) {
        eventually("the deed begins", || self.is_inside()).await;
    }

    /// Waits until the deed is over, or was dropped.
    pub async fn ended(&self) {
        eventually("the deed ends", || self.has_ended()).await;
    }

    /// Lets the deed go on.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    pub fn go_on(&self) {
        fs::write(&self.path, "").expect("room for temporary files");
    }
}
