//! The porting list: everything that asks which operating system this is.
#![allow(unsafe_code, reason = "the room of system calls that the standard library lacks")]

pub(crate) mod barrier;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
pub(crate) mod platform;
pub(crate) mod private_file;
#[cfg(target_os = "linux")]
pub(crate) mod regions;
#[cfg(target_os = "linux")]
pub(crate) mod signals;
#[cfg(target_os = "linux")]
pub(crate) mod threads;
pub(crate) mod words;

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{regions, signals, threads};

use std::path::Path;

/// What the C library answers when it lacks something.
pub(crate) const AGAIN: i32 = libc::EAGAIN;

/// Whether the file at `path` is mapped into this process. Where that cannot be seen, it is said to be:
/// then the generation is retained. The folder that it lies in must have a name that no other has.
pub(crate) fn is_mapped(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        let Ok(maps) = std::fs::read("/proc/self/maps") else { return true };
        is_in_maps(&maps, path)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        true
    }
}

/// The kernel has paths of its own: links are followed in them, another root may be in front, and lines ended are
/// written in another way. So it is the folder's name and the file's that count.
#[cfg(target_os = "linux")]
fn is_in_maps(maps: &[u8], path: &Path) -> bool {
    let (Some(file), Some(folder)) = (path.file_name(), path.parent().and_then(Path::file_name)) else {
        return true;
    };
    let wanted = [b"/", folder.as_encoded_bytes(), b"/", file.as_encoded_bytes()].concat();
    // A line ends with the path; the kernel appends " (deleted)" once the file is unlinked.
    maps.split(|&byte| byte == b'\n').any(|line| {
        line.ends_with(&wanted)
            || line.strip_suffix(b" (deleted)").is_some_and(|line| line.ends_with(&wanted))
    })
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

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_is_found_in_the_map_however_the_kernel_calls_the_way_to_it() {
        use super::{Path, is_in_maps, is_mapped};

        let mapped = |maps: &str| is_in_maps(maps.as_bytes(), Path::new("/tmp/a\nb/oxide-1-ab/echo-1.so"));
        assert!(mapped("7f00-7f01 r-xp 0 08:01 5    /srv/tmp/a\\012b/oxide-1-ab/echo-1.so\n"));
        assert!(mapped("7f00-7f01 r-xp 0 08:01 5    /oxide-1-ab/echo-1.so (deleted)\n"));
        assert!(!mapped(
            "7f00-7f01 r-xp 0 08:01 5    /tmp/oxide-1-ab/echo-11.so\n/tmp/oxide-2-ab/echo-1.so\n"
        ));
        assert!(is_mapped(&std::env::current_exe().unwrap()));
    }
}
