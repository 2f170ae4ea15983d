//! Private copies: exact, ours alone, gone when they should be, and never another host's.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use oxide_host::{InspectedFile, StagedFile, StagingDir, error::KernelError};
use support::{file, plugin};

fn plugin_file(name: &str) -> InspectedFile {
    InspectedFile::read(&file(name, plugin())).unwrap()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// What a host that died left behind.
fn leave_dead_host(base: &Path) -> PathBuf {
    let path = base.join(format!("oxide-1-{}", "0123456789abcdef".repeat(2)));
    fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
    fs::write(path.join("lock"), "").unwrap();
    fs::write(path.join("echo-1.so"), "old").unwrap();
    path
}

/// The error with its causes, as a terminal would show it.
fn chain(error: &KernelError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[test]
fn a_copy_is_exact_private_and_removed_with_its_last_clone() {
    let base = tempfile::tempdir().unwrap();
    let dir = StagingDir::open(Some(base.path())).unwrap();
    assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
    let original = plugin_file("copied.so");
    // What was inspected is what is staged, whatever becomes of the file.
    fs::write(original.path(), "something else").unwrap();
    let staged = StagedFile::write(&dir, &original).unwrap();
    assert_eq!(fs::read(staged.path()).unwrap(), plugin());
    assert_eq!(fs::metadata(staged.path()).unwrap().mode() & 0o777, 0o400);
    assert_eq!(staged.path().file_name().unwrap(), "copied-1.so");
    assert_eq!(staged.origin(), original.path());
    assert_eq!(staged.description(), original.description());
    assert!(staged.has_bytes_of(&original).unwrap());

    let again = StagedFile::write(&dir, &original).unwrap();
    assert_ne!(staged.path(), again.path());
    let (path, clone) = (staged.path().to_owned(), staged.clone());
    drop(staged);
    assert!(path.exists());
    drop(clone);
    assert!(!path.exists());
}

#[test]
fn a_build_that_differs_in_one_byte_is_another_build() {
    let base = tempfile::tempdir().unwrap();
    let dir = StagingDir::open(Some(base.path())).unwrap();
    let staged = StagedFile::write(&dir, &plugin_file("first.so")).unwrap();
    // In the padding of ELF's identification, and far behind the first page.
    let places = [15, support::find(plugin(), b"Says")];
    assert!(places[1] > 4096);
    for at in places {
        let mut other = plugin().to_vec();
        other[at] ^= 1;
        let other = InspectedFile::read(&file("second.so", &other)).unwrap();
        assert!(!staged.has_bytes_of(&other).unwrap());
    }
    assert!(staged.has_bytes_of(&plugin_file("third.so")).unwrap());
}

#[test]
fn odd_names_become_harmless_ones() {
    let base = tempfile::tempdir().unwrap();
    let dir = StagingDir::open(Some(base.path())).unwrap();
    for (name, staged) in [("..so", "_-1.so"), ("a b\n$(c).so", "a_b___c_-2.so"), ("ünü.1.so", "_n__1-3.so")]
    {
        let copy = StagedFile::write(&dir, &plugin_file(name)).unwrap();
        assert_eq!(copy.path().file_name().unwrap(), staged);
    }
    let long = "x".repeat(240);
    let copy = StagedFile::write(&dir, &plugin_file(&long)).unwrap();
    assert!(copy.path().file_name().unwrap().len() < 80);
}

#[test]
fn an_empty_folder_goes_with_its_host_and_a_used_one_with_the_last_copy() {
    let base = tempfile::tempdir().unwrap();
    drop(StagingDir::open(Some(base.path())).unwrap());
    assert!(entries(base.path()).is_empty());

    let dir = StagingDir::open(Some(base.path())).unwrap();
    let staged = StagedFile::write(&dir, &plugin_file("kept.so")).unwrap();
    drop(dir);
    // Another host's start leaves it alone: the copy keeps the lock.
    drop(StagingDir::open(Some(base.path())).unwrap());
    assert!(staged.path().exists());
    drop(staged);
    assert!(entries(base.path()).is_empty());
}

#[test]
fn the_end_of_the_process_removes_everything() {
    let base = tempfile::tempdir().unwrap();
    let dir = StagingDir::open(Some(base.path())).unwrap();
    let staged = StagedFile::write(&dir, &plugin_file("last.so")).unwrap();
    std::mem::forget(staged.clone());
    dir.remove_all().unwrap();
    assert!(entries(base.path()).is_empty());
    dir.remove_all().unwrap();
    let error = StagedFile::write(&dir, &plugin_file("late.so")).unwrap_err();
    assert!(matches!(error, KernelError::Io { action: "create", .. }), "{error:?}");
}

#[test]
fn dead_hosts_are_swept_and_nothing_else() {
    let base = tempfile::tempdir().unwrap();
    let dead = leave_dead_host(base.path());
    let half_made = base.path().join(format!("oxide-2-{}", "f".repeat(32)));
    fs::create_dir(&half_made).unwrap();
    let living = StagingDir::open(Some(base.path())).unwrap();
    assert!(!dead.exists() && !half_made.exists());

    let theirs = base.path().join("oxide-notes");
    fs::create_dir(&theirs).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = leave_dead_host(elsewhere.path());
    let link = base.path().join(format!("oxide-3-{}", "e".repeat(32)));
    symlink(&target, &link).unwrap();
    let second = StagingDir::open(Some(base.path())).unwrap();
    assert_ne!(living.path(), second.path());
    assert!(living.path().exists() && theirs.exists() && target.join("echo-1.so").exists());
    assert!(link.symlink_metadata().is_ok());
}

#[test]
fn many_hosts_may_start_at_once() {
    let base = tempfile::tempdir().unwrap();
    leave_dead_host(base.path());
    let file = plugin_file("many.so");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let dir = StagingDir::open(Some(base.path())).unwrap();
                    let staged = StagedFile::write(&dir, &file).unwrap();
                    std::thread::yield_now();
                    assert!(staged.has_bytes_of(&file).unwrap(), "nobody swept it");
                    assert!(dir.path().join("lock").exists());
                }
            });
        }
    });
    assert!(entries(base.path()).is_empty(), "{:?}", entries(base.path()));
}

/// The child of the next test: a host that stages something and waits to be killed.
#[test]
fn a_host_in_another_process() {
    let Some(base) = std::env::var_os("STAGING_TEST_BASE") else { return };
    let dir = StagingDir::open(Some(Path::new(&base))).unwrap();
    let staged = StagedFile::write(&dir, &plugin_file("child.so")).unwrap();
    println!("\nstaged {}", staged.path().display());
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn a_killed_host_is_swept_and_a_living_one_is_not() {
    let base = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["a_host_in_another_process", "--exact", "--nocapture"])
        .env("STAGING_TEST_BASE", base.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let staged = lines.find_map(|line| line.strip_prefix("staged ").map(PathBuf::from)).expect("it staged");

    drop(StagingDir::open(Some(base.path())).unwrap());
    let survived = staged.exists();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(survived, "a living host's copy");
    assert!(staged.exists(), "nobody has looked yet");
    drop(StagingDir::open(Some(base.path())).unwrap());
    assert!(!staged.exists());
}

#[test]
fn a_base_that_others_could_tamper_with_is_refused() {
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = StagingDir::open(Some(base.path())).unwrap_err();
    assert_eq!(
        chain(&error).replace(&*base.path().to_string_lossy(), "[BASE]"),
        "cannot stage plugins in `[BASE]`: every user may rename what is in it (mode 0777); close it with `chmod o-w`"
    );
    // Sticky, as /tmp is, it is fine.
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    StagingDir::open(Some(base.path())).unwrap();
}

#[test]
fn a_base_is_made_when_it_is_missing_and_must_be_a_folder() {
    let base = tempfile::tempdir().unwrap();
    let deep = base.path().join("not/yet/there");
    let dir = StagingDir::open(Some(&deep)).unwrap();
    assert!(dir.path().starts_with(&deep) && dir.path().is_absolute());
    let flat = base.path().join("flat");
    fs::write(&flat, "").unwrap();
    assert!(matches!(StagingDir::open(Some(&flat)), Err(KernelError::Io { .. })));
}

/// The child of the next test: a host that may only stage on a noexec mount.
#[test]
fn a_host_on_a_noexec_mount() {
    let Some(base) = std::env::var_os("STAGING_TEST_NOEXEC") else { return };
    let text = chain(&StagingDir::open(Some(Path::new(&base))).unwrap_err());
    assert!(
        text.contains("mounted noexec") && text.contains("`staging_dir`") && text.contains("TMPDIR"),
        "{text}"
    );
    // As a default it is passed over.
    let dir = StagingDir::open(None).unwrap();
    assert!(!dir.path().starts_with(&base), "{}", dir.path().display());
}

/// Runs `test` of this file in a mount namespace of its own, which ends with it, after the script, where this user
/// can have one.
fn in_a_namespace(script: &str, test: &str, variables: &[(&str, &Path)]) {
    let enter = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap());
        command.env_remove("XDG_RUNTIME_DIR").env_remove("TMPDIR").envs(variables.iter().copied()).output()
    };
    if !enter(script).is_ok_and(|output| output.status.success()) {
        eprintln!("no mount namespaces for this user: not tried");
        return;
    }
    let output = enter(&format!("{script} && exec \"$0\" --exact {test}")).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn a_folder_mounted_noexec_is_refused_with_the_way_out() {
    let (base, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    in_a_namespace(
        "mount -t tmpfs -o noexec,mode=700 none \"$STAGING_TEST_NOEXEC\"",
        "a_host_on_a_noexec_mount",
        &[
            ("STAGING_TEST_NOEXEC", base.path()),
            ("XDG_RUNTIME_DIR", base.path()),
            ("TMPDIR", temporary.path()),
        ],
    );
}

/// The child of the next test: a host whose runtime directory has no room.
#[test]
fn a_host_whose_runtime_directory_is_full() {
    let Some(temporary) = std::env::var_os("STAGING_TEST_ROOM") else { return };
    let base = temporary_base_in(Path::new(&temporary));
    let dir = StagingDir::open(None).unwrap();
    assert!(dir.path().starts_with(std::env::var_os("XDG_RUNTIME_DIR").unwrap()));
    let staged = [(); 2].map(|()| StagedFile::write(&dir, &plugin_file("large.so")).unwrap());
    for staged in &staged {
        assert!(staged.path().starts_with(&base), "{}", staged.path().display());
        assert_eq!(fs::read(staged.path()).unwrap(), plugin());
    }
    // Nothing is left of what was begun.
    assert_eq!(entries(dir.path()), [dir.path().join("lock")]);
    dir.remove_all().unwrap();
    assert!(entries(&base).is_empty());
    assert!(!dir.path().exists());
    std::mem::forget(staged);

    // Whoever chose a place is told that it is full.
    let chosen = Path::new(&std::env::var_os("XDG_RUNTIME_DIR").unwrap()).join("chosen");
    let dir = StagingDir::open(Some(&chosen)).unwrap();
    let error = StagedFile::write(&dir, &plugin_file("large.so")).unwrap_err();
    assert!(chain(&error).contains("No space left"), "{}", chain(&error));
}

fn temporary_base_in(folder: &Path) -> PathBuf {
    folder.join(format!("oxide-host-{}", fs::metadata(folder).unwrap().uid()))
}

#[test]
fn where_the_runtime_directory_is_full_copies_go_to_the_temporary_one() {
    let (runtime, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    in_a_namespace(
        "mount -t tmpfs -o mode=700,size=16k none \"$XDG_RUNTIME_DIR\"",
        "a_host_whose_runtime_directory_is_full",
        &[
            ("STAGING_TEST_ROOM", temporary.path()),
            ("XDG_RUNTIME_DIR", runtime.path()),
            ("TMPDIR", temporary.path()),
        ],
    );
}

/// The child of the next test: a host with the default base, whose folders somebody prepared.
#[test]
fn a_host_with_the_default_base() {
    let Some(expected) = std::env::var_os("STAGING_TEST_EXPECTED") else { return };
    match StagingDir::open(None) {
        Ok(dir) => assert!(dir.path().starts_with(expected), "{}", dir.path().display()),
        Err(error) => assert!(chain(&error).contains(expected.to_str().unwrap()), "{}", chain(&error)),
    }
}

#[test]
fn the_default_base_is_ours_alone_or_refused() {
    let (runtime, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let try_it = |expected: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["a_host_with_the_default_base", "--exact"])
            .env("XDG_RUNTIME_DIR", runtime.path())
            .env("TMPDIR", temporary.path())
            .env("STAGING_TEST_EXPECTED", expected)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    let chosen = runtime.path().join("oxide-host/staging");
    try_it(chosen.to_str().unwrap());
    assert_eq!(fs::metadata(&chosen).unwrap().mode() & 0o777, 0o700);

    // Open to others: the next base is taken.
    fs::set_permissions(&chosen, fs::Permissions::from_mode(0o755)).unwrap();
    let uid = fs::metadata(temporary.path()).unwrap().uid();
    let second = temporary.path().join(format!("oxide-host-{uid}"));
    try_it(second.to_str().unwrap());

    fs::set_permissions(&second, fs::Permissions::from_mode(0o755)).unwrap();
    try_it("is open to other users (mode 0755, expected 0700); close it with `chmod 700`");
    fs::remove_dir(&second).unwrap();
    symlink(runtime.path(), &second).unwrap();
    try_it("is not a real folder; remove it");
}
