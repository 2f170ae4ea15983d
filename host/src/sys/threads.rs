//! Threads as the C library knows them: keys with destructors, creation, names.

use std::ffi::c_int;

/// What the C library calls a thread's own value for a key.
pub(crate) type Key = libc::pthread_key_t;

/// Runs at a thread's end with the thread's value, when that is not null.
pub(crate) type KeyEnd = unsafe extern "C" fn(*mut libc::c_void);

/// Where a thread begins. Its end may unwind through it by force (`pthread_exit`).
pub(crate) type Start = unsafe extern "C-unwind" fn(*mut ()) -> *mut ();

/// Makes a key; the error is the C library's number.
pub(crate) fn key_create(end: Option<KeyEnd>) -> Result<Key, c_int> {
    let mut key = 0;
    // SAFETY: the place is ours; `end` has the type that the C library calls.
    match unsafe { libc::pthread_key_create(&raw mut key, end) } {
        0 => Ok(key),
        error => Err(error),
    }
}

/// Sets this thread's value. The C library keeps it as it is and never follows it.
pub(crate) fn key_set(key: Key, value: *const ()) -> c_int {
    // SAFETY: a key that does not exist is an error, and the value is only passed to the key's own end.
    unsafe { libc::pthread_setspecific(key, value.cast()) }
}

/// This thread's value; null when there is none.
pub(crate) fn key_get(key: Key) -> *mut () {
    // SAFETY: has no preconditions in this C library; an unknown key gives null.
    unsafe { libc::pthread_getspecific(key) }.cast()
}

/// Gives a key back. No destructor runs.
pub(crate) fn key_delete(key: Key) -> c_int {
    // SAFETY: a key that does not exist is an error.
    unsafe { libc::pthread_key_delete(key) }
}

/// Starts a thread as `pthread_create` does, with its answer.
///
/// # Safety
/// As for `pthread_create`.
pub(crate) unsafe fn create(
    thread: *mut usize,
    attributes: *const (),
    start: Start,
    argument: *mut (),
) -> c_int {
    // SAFETY: the two types differ in what may unwind; the C library's own unwinding is by force, which
    // `start` allows.
    let start =
        unsafe { std::mem::transmute::<Start, extern "C" fn(*mut libc::c_void) -> *mut libc::c_void>(start) };
    // SAFETY: as our caller promises; `pthread_t` is as wide as a pointer wherever plugins are loaded.
    unsafe { libc::pthread_create(thread.cast(), attributes.cast(), start, argument.cast()) }
}

/// This thread's number in the system.
pub(crate) fn own_number() -> u32 {
    u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap_or_default()
}

/// Names this thread; of a long name, the beginning.
pub(crate) fn set_own_name(name: &str) {
    let short: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(short) {
        // It is only a name.
        let _ = rustix::thread::set_name(&name);
    }
}

/// What a thread of this process is called; empty when it is gone.
pub(crate) fn name_of(number: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/self/task/{number}/comm"));
    name.unwrap_or_default().trim_end().to_owned()
}
