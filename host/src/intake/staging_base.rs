//! Where hosts keep their copies, and how they tell the folder of a living host from that of a dead one.
//!
//! Every host has a folder `oxide-<pid>-<random>` with a file `lock` in it, locked while it lives. The system
//! releases the lock however the host ends, so that a lock which can be taken belongs to a dead host. Two
//! hosts that start at once may each see the other's folder half made; the one that made it notices (its lock is
//! gone, or another file) and makes another.

use std::{
    env,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::error::KernelError;

use super::stage::io_error;

/// The file whose lock says that the host lives.
pub(super) const LOCK: &str = "lock";

/// How many folders may be swept from under us before we say that something is wrong.
const ATTEMPTS: u32 = 16;

/// The folder in which hosts make theirs, existing and fit for it.
pub(super) fn prepare(base: Option<&Path>) -> Result<PathBuf, KernelError> {
    if let Some(base) = base {
        make_folder(base, true).map_err(|error| io_error("create the staging folder", base, error))?;
        check_chosen(base).map_err(|error| io_error("stage plugins in", base, error))?;
        // The loader wants a path that does not depend on the current folder.
        return fs::canonicalize(base).map_err(|error| io_error("find", base, error));
    }
    if let Some(base) = runtime_base() {
        // It may be missing, another user's (after `su`) or noexec; the next one will do.
        if prepare_own(&base).is_ok() {
            return Ok(base);
        }
    }
    temporary()
}

/// The last of the default bases, made ready.
pub(super) fn temporary() -> Result<PathBuf, KernelError> {
    #[cfg(unix)]
    let name = format!("oxide-host-{}", rustix::process::geteuid().as_raw());
    #[cfg(not(unix))]
    let name = "oxide-host";
    let base = env::temp_dir().join(name);
    prepare_own(&base).map_err(|error| io_error("stage plugins in", &base, error))?;
    Ok(base)
}

/// `$XDG_RUNTIME_DIR/oxide-host/staging`.
fn runtime_base() -> Option<PathBuf> {
    let runtime = PathBuf::from(env::var_os("XDG_RUNTIME_DIR")?);
    // The specification says to ignore a relative one.
    runtime.is_absolute().then(|| runtime.join("oxide-host").join("staging"))
}

/// Makes one of the default bases, and checks every folder on the way to it that is ours to make.
fn prepare_own(base: &Path) -> io::Result<()> {
    if let Some(parent) = base.parent().filter(|parent| parent.ends_with("oxide-host")) {
        make_folder(parent, false)?;
        check_own(parent)?;
    }
    make_folder(base, false)?;
    check_own(base)?;
    check_executable(base)
}

pub(super) fn make_folder(path: &Path, parents: bool) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(parents);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    match builder.create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// A folder under a name that anyone could have taken before us must turn out to be ours alone.
fn check_own(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Err(unfit(format_args!("`{}` is not a real folder; remove it", path.display())));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if !is_ours(&metadata) {
            return Err(unfit(format_args!(
                "`{}` belongs to another user (uid {}); remove it, or choose another folder with the builder's \
                 `staging_dir` or with TMPDIR",
                path.display(),
                metadata.uid()
            )));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(unfit(format_args!(
                "`{}` is open to other users (mode {mode:04o}, expected 0700); close it with `chmod 700`",
                path.display()
            )));
        }
    }
    Ok(())
}

/// A folder that the operator chose may be shared, as long as others can't exchange what is in it.
fn check_chosen(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(unfit("it is not a folder"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mode = metadata.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Err(unfit(format_args!(
                "every user may rename what is in it (mode {:04o}); close it with `chmod o-w`",
                mode & 0o7777
            )));
        }
    }
    check_executable(path)
}

/// The loader maps code from here, which a mount may forbid. Elsewhere than on Linux it is the loader that says
/// so.
fn check_executable(path: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if rustix::fs::statvfs(path)?.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        return Err(unfit(
            "it is mounted noexec, so that no library can be opened from it; choose another folder with the \
             builder's `staging_dir` or with TMPDIR",
        ));
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = path;
    Ok(())
}

fn unfit(problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, problem.to_string())
}

#[cfg(unix)]
fn is_ours(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn is_ours(_: &Metadata) -> bool {
    true
}

/// Makes a new folder in `base` and locks it.
pub(super) fn claim(base: &Path) -> Result<(PathBuf, File), KernelError> {
    let mut last = io::Error::from(ErrorKind::AlreadyExists);
    for _ in 0..ATTEMPTS {
        let path = base.join(format!("oxide-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()));
        make_new(&path).map_err(|error| io_error("create", &path, error))?;
        match lock_new(&path.join(LOCK)) {
            Ok(lock) => return Ok((path, lock)),
            // A host that started at the same moment took it for a dead one's: try again.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock) => last = error,
            Err(error) => {
                let _ = fs::remove_dir(&path);
                return Err(io_error("lock", &path, error));
            }
        }
    }
    Err(io_error("claim a folder in", base, last))
}

fn make_new(path: &Path) -> io::Result<()> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "there is no mode to set"))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// Removes the folders of dead hosts. What can't be removed is left to the next host.
pub(super) fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let is_one = entry.file_name().to_str().is_some_and(is_claim);
        let path = entry.path();
        if is_one && fs::symlink_metadata(&path).is_ok_and(|it| it.is_dir() && is_ours(&it)) {
            sweep_one(&path);
        }
    }
}

/// In a folder that the operator chose, other people's folders may begin with `oxide-` too.
fn is_claim(name: &str) -> bool {
    let mut parts = name.strip_prefix("oxide-").unwrap_or("").splitn(2, '-');
    let (pid, random) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    !pid.is_empty()
        && pid.bytes().all(|byte| byte.is_ascii_digit())
        && random.len() == 32
        && random.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn sweep_one(path: &Path) {
    let swept = match lock_existing(&path.join(LOCK)) {
        Ok(_lock) => clear(path),
        // Half made or half removed. Only an empty folder goes: it holds nothing that anyone could miss.
        Err(error) if error.kind() == ErrorKind::NotFound => fs::remove_dir(path),
        // Locked: its host lives.
        Err(_) => return,
    };
    match swept {
        Ok(()) => tracing::debug!(path = %path.display(), "swept the staging folder of a dead host"),
        Err(error) => tracing::debug!(path = %path.display(), %error, "cannot sweep a staging folder"),
    }
}

/// Removes a folder whose lock we hold: the lock last, so that an interrupted removal can be taken up again.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() != LOCK {
            remove_file(&entry.path())?;
        }
    }
    fs::remove_file(path.join(LOCK))?;
    fs::remove_dir(path)
}

/// Removes a folder whose lock we hold, unless there are copies in it.
pub(super) fn remove_if_empty(path: &Path) {
    let Ok(mut entries) = fs::read_dir(path) else { return };
    if entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)) {
        let _ = clear(path);
    }
}

/// Removes a copy.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    #[cfg(windows)]
    {
        // Windows does not remove what is read-only.
        let mut permissions = fs::metadata(path)?.permissions();
        #[allow(
            clippy::permissions_set_readonly_false,
            reason = "Windows only, where it is about this bit alone"
        )]
        permissions.set_readonly(false);
        fs::set_permissions(path, permissions)?;
    }
    fs::remove_file(path)
}

/// Makes the lock file of a new folder and takes the lock.
fn lock_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let file = lock(options, path)?;
    // A sweeper may have removed the file between its making and its locking: then it is nobody's lock.
    if is_file_at(&file, path)? { Ok(file) } else { Err(ErrorKind::NotFound.into()) }
}

/// Takes the lock of a folder that exists; `WouldBlock` when its host lives.
fn lock_existing(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    lock(options, path)
}

#[cfg(unix)]
fn lock(mut options: OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::{FlockOperation, OFlags};

    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = options.mode(0o600).custom_flags(i32::try_from(flags.bits()).unwrap_or(0)).open(path)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (held, named) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((held.dev(), held.ino()) == (named.dev(), named.ino()))
}

/// On Windows opening without sharing is the lock, and making and locking are one step.
#[cfg(windows)]
fn lock(mut options: OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    // FILE_SHARE_DELETE alone, so that its holder can remove it.
    options.share_mode(4).open(path)
}

#[cfg(windows)]
fn is_file_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}
