//! Systems on which no plugin has a shim (`plugin-api/src/shim`), so that nobody asks for any of this, and on which every
//! library is retained (`platform.rs`): as if the C library lacked it.

/// As Linux has them in `threads.rs`.
pub(crate) mod threads {
    use std::ffi::{c_int, c_void};

    pub(crate) type Key = u32;
    pub(crate) type KeyEnd = unsafe extern "C" fn(*mut c_void);
    pub(crate) type Start = unsafe extern "C-unwind" fn(*mut ()) -> *mut ();

    pub(crate) fn key_create(_: Option<KeyEnd>) -> Result<Key, c_int> {
        Err(libc::ENOSYS)
    }

    pub(crate) fn key_set(_: Key, _: *const ()) -> c_int {
        libc::ENOSYS
    }

    pub(crate) fn key_get(_: Key) -> *mut () {
        std::ptr::null_mut()
    }

    pub(crate) fn key_delete(_: Key) -> c_int {
        libc::ENOSYS
    }

    /// # Safety
    /// Always safe.
    pub(crate) unsafe fn create(_: *mut usize, _: *const (), _: Start, _: *mut ()) -> c_int {
        libc::ENOSYS
    }

    pub(crate) fn own_number() -> u32 {
        0
    }

    pub(crate) fn set_own_name(_: &str) {}

    pub(crate) fn name_of(_: u32) -> String {
        String::new()
    }
}

/// As Linux has them in `regions.rs`.
pub(crate) mod regions {
    use std::ptr;

    pub(crate) fn map(_: usize) -> *mut u8 {
        ptr::null_mut()
    }

    /// # Safety
    /// Always safe.
    pub(crate) unsafe fn unmap(_: *mut u8, _: usize) {}

    /// # Safety
    /// Always safe.
    pub(crate) unsafe fn remap(_: *mut u8, _: usize, _: usize) -> *mut u8 {
        ptr::null_mut()
    }
}

/// As Linux has them in `signals.rs`.
pub(crate) mod signals {
    use std::ffi::c_int;

    pub(crate) const SIGNALS: c_int = 1;

    /// # Safety
    /// Always safe.
    pub(crate) unsafe fn sigaction(_: c_int, _: *const (), _: *mut ()) -> c_int {
        -1
    }

    /// # Safety
    /// Always safe.
    pub(crate) unsafe fn signal(_: c_int, _: usize) -> usize {
        // `SIG_ERR`.
        usize::MAX
    }

    pub(crate) fn handler(_: c_int) -> Option<usize> {
        None
    }

    pub(crate) fn image_of(_: usize) -> Option<usize> {
        None
    }
}
