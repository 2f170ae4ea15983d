//! The porting list: everything that asks which operating system this is.
#![allow(unsafe_code, reason = "the room of system calls that the standard library lacks")]

pub(crate) mod barrier;
pub(crate) mod platform;
pub(crate) mod regions;
pub(crate) mod signals;
pub(crate) mod threads;
pub(crate) mod words;

use std::path::Path;

/// What the C library answers when it lacks something.
pub(crate) const AGAIN: i32 = libc::EAGAIN;

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

/// Whether nothing at all is mapped at `address`. One question to the kernel, where `is_mapped` reads a long
/// list; but something else may have been mapped there since.
pub(crate) fn is_free(address: usize) -> bool {
    // The smallest page that any system has: rounding down to it is within the page that is meant.
    let page = address & !0xfff;
    let mut resident = 0_u8;
    #[cfg(target_os = "linux")]
    // SAFETY: asks about one page, which need not be mapped, and writes one byte.
    let answer = unsafe { libc::mincore(page as *mut libc::c_void, 1, &raw mut resident) };
    #[cfg(not(target_os = "linux"))]
    let answer = (page, &mut resident, 0).2;
    answer != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOMEM)
}

/// Ends the process at once: no finalisers, which would run under living plugin threads. The caller has
/// flushed what is to be kept.
#[cfg_attr(not(feature = "daemon"), expect(dead_code, reason = "only the program leaves this way"))]
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}
