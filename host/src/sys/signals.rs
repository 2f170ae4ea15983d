//! Signal handlers, and which image an address belongs to.

use std::{ffi::c_int, mem::MaybeUninit, ptr};

/// One past the highest signal.
pub(crate) const SIGNALS: c_int = 65;

/// `sigaction` as it is.
///
/// # Safety
/// As for that function.
pub(crate) unsafe fn sigaction(signal: c_int, new: *const (), old: *mut ()) -> c_int {
    // SAFETY: as our caller promises.
    unsafe { libc::sigaction(signal, new.cast(), old.cast()) }
}

/// `signal` as it is.
///
/// # Safety
/// As for that function.
pub(crate) unsafe fn signal(signal: c_int, handler: usize) -> usize {
    // SAFETY: as our caller promises.
    unsafe { libc::signal(signal, handler) }
}

/// The address of a signal's present handler; `None` when it has none, or is ignored.
pub(crate) fn handler(signal: c_int) -> Option<usize> {
    let mut present = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: only asks; a signal that does not exist is an error.
    if unsafe { libc::sigaction(signal, ptr::null(), present.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: written by the call that has just succeeded.
    let handler = unsafe { present.assume_init() }.sa_sigaction;
    (handler != libc::SIG_DFL && handler != libc::SIG_IGN).then_some(handler)
}

/// Where the image that holds `address` begins; `None` when no loaded image does. Does not wait for a
/// constructor or destructor that blocks under the loader's lock, as `dladdr` would.
pub(crate) fn image_of(address: usize) -> Option<usize> {
    struct Search {
        address: usize,
        found: Option<usize>,
    }

    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, search: *mut libc::c_void) -> c_int {
        // SAFETY: `dl_iterate_phdr` passes one image's headers, valid during this call, and our own pointer.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        let base = info.dlpi_addr as usize;
        // SAFETY: as above.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let segments =
            loaded.map(|header| (base.wrapping_add(header.p_vaddr as usize), header.p_memsz as usize));
        let is_inside = segments.clone().any(|(start, len)| search.address.wrapping_sub(start) < len);
        if is_inside {
            // Not `base`, which is where address 0 of the file would be: a linker may be told to begin elsewhere.
            search.found = segments.map(|(start, _)| start).min();
        }
        is_inside.into()
    }

    let mut search = Search { address, found: None };
    // SAFETY: `look` keeps to the callback's duties, and the search outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}
