//! What is known of each system's unloading (docs/safety.md): where it is not proven that closing a library unmaps
//! it safely, every library is retained, with the reason.

/// Whether closing a library is proven to unload it on this system, with why not.
pub(crate) fn unload_is_proven() -> Result<(), &'static str> {
    if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")) {
        Ok(())
    } else if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "aarch64")) {
        if has_own_thread_locals(&libc_version()) {
            Ok(())
        } else {
            Err(
                "a C library before 2.39 may give a new library the thread-locals of one that is gone (glibc bug 29039)",
            )
        }
    } else if cfg!(all(target_os = "linux", target_env = "musl")) {
        Err("musl never unmaps a library")
    } else if cfg!(target_vendor = "apple") {
        Err("this system does not unmap libraries that have thread-locals, and Rust's always have")
    } else if cfg!(windows) {
        Err("how Rust's thread-locals end on this system is not known to the host, nor measured")
    } else {
        Err("closing a library is not proven to unload it on this system")
    }
}

/// Whether a glibc of this version gives each library thread-locals of its own, also where they are found through
/// descriptors, as on aarch64. Distributions have mended earlier ones, but their versions do not tell.
fn has_own_thread_locals(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (2, 39)
}

fn libc_version() -> String {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: gives a text that lives as long as the process.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        version.to_string_lossy().into_owned()
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_c_library_is_known_by_its_version() {
        assert!(["2.39", "2.40", "3.0", "2.41.9000"].into_iter().all(has_own_thread_locals));
        assert!(!["2.36", "2.38.1", "", "unknown", "1.99"].into_iter().any(has_own_thread_locals));
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn the_c_library_says_its_version() {
        assert!(libc_version().starts_with("2."), "{}", libc_version());
    }
}
