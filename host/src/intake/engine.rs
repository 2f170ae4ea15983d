//! Where the engine is that runs WASM guests: a plugin as any other, found without having to be named.

use std::{
    env::{
        self,
        consts::{DLL_PREFIX, DLL_SUFFIX},
    },
    fs, io,
    path::{Path, PathBuf},
};

use super::staging_base::make_folder;
use crate::error::KernelError;

/// What the library of the engine's package is called.
const NAME: &str = "wasm_runtime";

/// The engine: the file that was configured, or what is found where this program lies.
///
/// # Errors
/// [`KernelError::NoWasmEngine`] with the places that were looked at.
pub(crate) fn find_engine(configured: Option<&Path>) -> Result<PathBuf, KernelError> {
    let (looked, found) = match configured {
        Some(path) => (vec![path.to_owned()], path.exists().then(|| path.to_owned())),
        None => search(&env::current_exe().unwrap_or_default()),
    };
    found.ok_or(KernelError::NoWasmEngine { looked })
}

fn search(program: &Path) -> (Vec<PathBuf>, Option<PathBuf>) {
    let looked = places(program, |folder| folder.join("CACHEDIR.TAG").is_file());
    let is_taken = |place: &&PathBuf| {
        let safe = place.is_file() && is_safe(place, program);
        if !safe && place.is_file() {
            tracing::warn!(path = %place.display(), "not taken for the WASM engine: another user may write to it");
        }
        safe
    };
    let found = looked.iter().find(is_taken).cloned();
    (looked, found)
}

/// Beside the program; where packages put libraries; and, when the program was built here, where cargo puts the engine.
fn places(program: &Path, is_target: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let Some(folder) = program.parent() else { return Vec::new() };
    let mut folders = vec![folder.to_owned()];
    folders.extend(folder.parent().map(|prefix| prefix.join("lib").join("oxide")));
    // Cargo marks its folders, whatever their name.
    if let Some(target) = folder.ancestors().find(|folder| is_target(folder)) {
        let own = target.parent().map(|workspace| workspace.join("example-plugins/wasm-runtime/target"));
        // Optimised first: the other one compiles guests for many times as long.
        for target in [target.to_owned()].into_iter().chain(own) {
            folders.extend(["release", "debug"].map(|profile| target.join(profile)));
        }
    }
    let mut places: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let place = folder.join(format!("{DLL_PREFIX}{NAME}{DLL_SUFFIX}"));
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Whether nobody can have put it there who could not have changed the program itself. What the operator names is
/// not asked that.
#[cfg(unix)]
fn is_safe(place: &Path, program: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(program).map(|program| program.uid()).ok();
    let is_ours = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| {
            let uid = found.uid();
            let known = uid == 0 || uid == rustix::process::geteuid().as_raw() || Some(uid) == owner;
            known && found.mode() & 0o002 == 0
        })
    };
    is_ours(place) && place.parent().is_some_and(is_ours)
}

#[cfg(not(unix))]
fn is_safe(_: &Path, _: &Path) -> bool {
    true
}

/// Makes the folder in which an engine keeps what it has compiled, of mode 0700. What is in there is run, so nobody
/// else may write to it.
pub(crate) fn prepare_cache(folder: &Path) -> io::Result<PathBuf> {
    make_folder(folder, true)?;
    let folder = fs::canonicalize(folder)?;
    if !folder.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(&folder)?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "another user may write to it; close it with `chmod 700`, or choose another",
            ));
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(program: &str, target: &str) -> Vec<String> {
        let places = places(Path::new(program), |folder| folder == Path::new(target));
        let library = format!("/{DLL_PREFIX}{NAME}{DLL_SUFFIX}");
        let shown = |place: PathBuf| place.to_str().expect("text").replace(&library, "").replace('\\', "/");
        places.into_iter().map(shown).collect()
    }

    #[test]
    fn an_installed_program_looks_beside_itself_and_in_lib() {
        assert_eq!(looked("/usr/bin/oxide-host", "/none"), ["/usr/bin", "/usr/lib/oxide"]);
        assert_eq!(looked("/oxide-host", "/none"), [""]);
        assert!(looked("", "/none").is_empty());
    }

    #[test]
    fn a_program_that_was_built_here_looks_where_cargo_puts_the_engine() {
        let all = [
            "/src/oxide/target/release",
            "/src/oxide/target/debug",
            "/src/oxide/example-plugins/wasm-runtime/target/release",
            "/src/oxide/example-plugins/wasm-runtime/target/debug",
        ];
        let target = "/src/oxide/target";
        let debug = looked("/src/oxide/target/debug/oxide-host", target);
        assert_eq!(debug[..2], ["/src/oxide/target/debug", "/src/oxide/target/lib/oxide"]);
        assert_eq!(debug[2..], [all[0], all[2], all[3]]);
        let example = looked("/src/oxide/target/x86_64-unknown-linux-gnu/debug/examples/embed", target);
        assert_eq!(example[2..], all);
    }

    #[cfg(unix)]
    #[test]
    fn what_another_user_may_write_to_is_not_taken() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        let (program, engine) =
            (folder.path().join("oxide-host"), places(&folder.path().join("x"), |_| false));
        fs::write(&engine[0], "").expect("written");
        assert_eq!(search(&program).1.as_ref(), Some(&engine[0]));
        mode(&engine[0], 0o666);
        assert_eq!(search(&program).1, None);
        mode(&engine[0], 0o644);
        mode(folder.path(), 0o777);
        assert_eq!(search(&program).1, None);
        mode(folder.path(), 0o755);
        assert_eq!(search(&program), (engine.clone(), Some(engine[0].clone())));
    }

    #[cfg(unix)]
    #[test]
    fn a_cache_is_made_for_us_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let cache = folder.path().join("a/b");
        assert_eq!(prepare_cache(&cache).expect("made"), fs::canonicalize(&cache).expect("there"));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&cache), mode(&folder.path().join("a"))), (0o700, 0o700));
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).expect("set");
        prepare_cache(&cache).expect("others may read it");
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o775)).expect("set");
        prepare_cache(&cache).expect_err("others may write to it");
        fs::write(folder.path().join("file"), "").expect("written");
        prepare_cache(&folder.path().join("file")).expect_err("no folder");
    }
}
