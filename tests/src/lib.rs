//! Builds the plugins that the tests load, and finds them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' crate lies in the workspace")
}

/// The compiled plugin of this package; it is built when it is not there.
///
/// # Panics
/// When it does not build: then there is nothing to test.
pub fn plugin(package: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| build_all());
    folder.join(
        format!("{}{package}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
            .replace('-', "_"),
    )
}

fn build_all() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args(["build", "--quiet", "-p", "echo", "-p", "counter", "-p", "ticker"])
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the example plugins do not build");
    target.join("debug")
}
