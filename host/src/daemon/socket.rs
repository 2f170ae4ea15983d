//! Who may serve on a socket path: exactly one living host.
//!
//! A lock file beside the socket decides it, since a lock dies with its process and a socket file does
//! not. Only the holder of the lock ever removes or binds the socket.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use parking_lot::Mutex;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

use super::ErrorReport;

/// Where a host listens, or where a client looks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    path: PathBuf,
    /// The folder is ours to create and to check, because nobody named it.
    own_folder: bool,
}

impl Endpoint {
    /// A path that somebody gave.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), own_folder: false }
    }

    /// The socket in the user's runtime directory, or else in a folder of the user's under the temporary
    /// directory.
    pub fn default_for_user() -> Self {
        // The XDG specification says that a relative path is to be ignored.
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let folder = match runtime {
            Some(dir) => dir.join("oxide-host"),
            None => std::env::temp_dir().join(format!("oxide-host-{}", own_uid())),
        };
        Self { path: folder.join("oxide.sock"), own_folder: true }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says whether this path can be a socket's at all, and whether its folder is one that no other user
    /// could have put there. A client asks too: whoever owns the folder could answer in the host's place.
    ///
    /// # Errors
    /// When the path is too long, or the folder is somebody else's.
    pub fn check(&self) -> Result<(), SocketError> {
        if SocketAddr::from_pathname(&self.path).is_err() {
            let problem = "it is too long for a socket, or has a zero byte in it";
            return Err(SocketError::BadPath { path: self.path.clone(), problem });
        }
        if !self.own_folder {
            return Ok(());
        }
        let folder = self.folder();
        match fs::symlink_metadata(folder) {
            Ok(found) if !found.is_dir() || found.uid() != own_uid() => {
                Err(SocketError::ForeignFolder { folder: folder.to_owned() })
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.io("look at the folder of", source)),
        }
    }

    fn prepare_folder(&self) -> Result<(), SocketError> {
        if !self.own_folder {
            return Ok(());
        }
        let folder = self.folder();
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(self.io("make the folder of", error));
            }
            _ => {}
        }
        self.check()?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))
            .map_err(|error| self.io("protect the folder of", error))
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn io(&self, action: &'static str, source: io::Error) -> SocketError {
        SocketError::Io { action, path: self.path.clone(), source }
    }
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The right to serve on a path, held until it is released or dropped. Releasing removes the socket.
#[derive(Debug)]
pub struct Claim {
    endpoint: Endpoint,
    lock_path: PathBuf,
    /// `None` once released; the lock ends with the file.
    lock: Mutex<Option<File>>,
    /// The socket file that we made, by device and inode: nobody else's is ever removed.
    bound: OnceLock<(u64, u64)>,
}

impl Claim {
    /// Takes the path, or says who has it.
    ///
    /// # Errors
    /// When a living host has it, when something else is there, or when the system says no.
    pub fn acquire(endpoint: Endpoint) -> Result<Self, SocketError> {
        endpoint.check()?;
        endpoint.prepare_folder()?;
        // Before the lock file is made: a path that is taken by something else gets no litter beside it.
        refuse_what_is_no_socket(&endpoint)?;
        let mut lock_path = endpoint.path.clone().into_os_string();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = take_lock(&endpoint, &lock_path)?;
        let claim = Self { endpoint, lock_path, lock: Mutex::new(Some(lock)), bound: OnceLock::new() };
        claim.remove_stale()?;
        Ok(claim)
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.endpoint.path
    }

    /// Makes the socket, for this user alone.
    pub(super) fn bind(&self) -> Result<UnixListener, SocketError> {
        let path = self.path();
        let fail = |error| self.endpoint.io("create", error);
        let listener = UnixListener::bind(path).map_err(fail)?;
        let found = fs::symlink_metadata(path).map_err(fail)?;
        let _ = self.bound.set((found.dev(), found.ino()));
        // A connection that slips in before this line is looked at when it is accepted.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        Ok(listener)
    }

    /// Removes the socket and lets the path go. Doing it twice does nothing.
    pub fn release(&self) {
        let Some(lock) = self.lock.lock().take() else { return };
        if let (Some(ours), Ok(found)) = (self.bound.get(), fs::symlink_metadata(self.path()))
            && *ours == (found.dev(), found.ino())
        {
            let _ = fs::remove_file(self.path());
        }
        // Safe while we hold it: whoever waits for it looks again whether it is still this file.
        let _ = fs::remove_file(&self.lock_path);
        drop(lock);
    }

    /// We hold the lock, so a socket file is either dead or belongs to some other program.
    fn remove_stale(&self) -> Result<(), SocketError> {
        refuse_what_is_no_socket(&self.endpoint)?;
        match UnixStream::connect(self.path()) {
            Ok(_) => Err(SocketError::HostRunning { path: self.path().to_owned() }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                tracing::info!(path = %self.path().display(), "replacing the socket of a host that was killed");
                fs::remove_file(self.path())
                    .map_err(|error| self.endpoint.io("remove the stale socket", error))
            }
            Err(error) => Err(self.endpoint.io("find out whether a host is running on", error)),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

fn refuse_what_is_no_socket(endpoint: &Endpoint) -> Result<(), SocketError> {
    let path = endpoint.path();
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(found) => Err(SocketError::NotASocket {
            path: path.to_owned(),
            found: match found.file_type() {
                kind if kind.is_dir() => "a directory",
                kind if kind.is_file() => "a regular file",
                kind if kind.is_symlink() => "a symbolic link",
                _ => "a device or pipe",
            },
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(endpoint.io("look at", error)),
    }
}

fn take_lock(endpoint: &Endpoint, lock_path: &Path) -> Result<File, SocketError> {
    let fail = |error| endpoint.io("lock", error);
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(lock_path)
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(SocketError::HostRunning { path: endpoint.path.clone() });
            }
            Err(error) => return Err(fail(error.into())),
        }
        // The holder before us removes the file as it goes: a lock on a removed file is worth nothing.
        let ours = file.metadata().map_err(fail)?;
        match fs::symlink_metadata(lock_path) {
            Ok(found) if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            _ => {}
        }
    }
}

/// Why a host cannot serve, or a client not look, on a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody lives there.
    #[error("a host is already running on `{}`", .path.display())]
    HostRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("`{}` is {found}, not a socket", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// No socket can have this path.
    #[error("`{}` cannot be a socket's path: {problem}", .path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The default folder was made by somebody else.
    #[error("the socket's folder `{}` is not a directory of this user's", .folder.display())]
    ForeignFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// The system said no.
    #[error("cannot {action} the socket `{}`", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// Its name for programs. Never renamed.
    pub fn code(&self) -> &'static str {
        match self {
            Self::HostRunning { .. } => "host_running",
            Self::NotASocket { .. } => "not_a_socket",
            Self::BadPath { .. } => "bad_socket_path",
            Self::ForeignFolder { .. } => "foreign_folder",
            Self::Io { .. } => "io",
        }
    }

    fn hint(&self) -> Option<String> {
        let elsewhere = "name another path with --socket or OXIDE_SOCKET";
        Some(match self {
            Self::HostRunning { .. } => format!("use that one, stop it first, or {elsewhere}"),
            Self::NotASocket { .. } => format!("it was left alone; {elsewhere}"),
            Self::BadPath { .. } => "name a shorter path with --socket or OXIDE_SOCKET".to_owned(),
            Self::ForeignFolder { .. } => elsewhere.to_owned(),
            Self::Io { source, path, .. } => match source.kind() {
                ErrorKind::NotFound => {
                    let folder = path.parent().unwrap_or(path).display();
                    format!("make the folder `{folder}` first, or {elsewhere}")
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    format!("this user may not write there; {elsewhere}")
                }
                _ => return None,
            },
        })
    }
}

impl From<&SocketError> for ErrorReport {
    fn from(error: &SocketError) -> Self {
        Self { hint: error.hint(), ..Self::of(error.code(), error) }
    }
}
