//! The porting list: everything that asks which operating system this is.
#![allow(unsafe_code, reason = "the room of system calls that the standard library lacks")]

pub(crate) mod barrier;

use std::path::Path;

/// Whether the file at `path` is mapped into this process. Where that cannot be seen, it is said to be:
/// then the generation is retained.
pub(crate) fn is_mapped(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        let Ok(maps) = std::fs::read("/proc/self/maps") else { return true };
        let wanted = path.as_os_str().as_encoded_bytes();
        // A line ends with the path; the kernel appends " (deleted)" once the file is unlinked.
        maps.split(|&byte| byte == b'\n').any(|line| {
            line.ends_with(wanted)
                || line.strip_suffix(b" (deleted)").is_some_and(|line| line.ends_with(wanted))
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        true
    }
}

/// Whether closing a library is proven to unload it on this system, with why not.
pub(crate) fn unload_is_proven() -> Result<(), &'static str> {
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        Ok(())
    } else {
        Err("closing a library is not proven to unload it on this system")
    }
}

/// Ends the process at once: no finalisers, which would run under living plugin threads. The caller has
/// flushed what is to be kept.
#[cfg_attr(not(feature = "daemon"), expect(dead_code, reason = "only the program leaves this way"))]
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}
