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

/// Processors that a thread may run on.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(crate) struct Processors(rustix::thread::CpuSet);

/// Has the thread with this number run on the calling thread's processor only, if it may; gives where it may run
/// otherwise, for [`run_on`].
#[cfg(target_os = "linux")]
pub(crate) fn bring_here(number: u32) -> Option<Processors> {
    let thread = Some(rustix::thread::Pid::from_raw(i32::try_from(number).ok()?)?);
    let here = rustix::thread::sched_getcpu();
    let allowed = rustix::thread::sched_getaffinity(thread).ok()?;
    if here >= rustix::thread::CpuSet::MAX_CPU || !allowed.is_set(here) {
        return None;
    }
    let mut only_here = rustix::thread::CpuSet::new();
    only_here.set(here);
    rustix::thread::sched_setaffinity(thread, &only_here).ok()?;
    Some(Processors(allowed))
}

/// Has this thread run wherever it might before.
#[cfg(target_os = "linux")]
pub(crate) fn run_on(Processors(allowed): &Processors) {
    // Some of them may have been taken from the process since; the system takes what is left.
    let _ = rustix::thread::sched_setaffinity(None, allowed);
}

/// Not known elsewhere.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) enum Processors {}

#[cfg(not(target_os = "linux"))]
pub(crate) fn bring_here(_: u32) -> Option<Processors> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn run_on(processors: &Processors) {
    match *processors {}
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc;

    use rustix::thread::{Pid, sched_getaffinity};

    use super::*;

    #[test]
    fn a_thread_is_brought_here_and_runs_wherever_it_may_again() {
        let (send, number) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let before = sched_getaffinity(None).unwrap();
            send.send(own_number()).unwrap();
            let processors: Processors = goes_on.recv().unwrap();
            run_on(&processors);
            (before, sched_getaffinity(None).unwrap())
        });
        let number = number.recv().unwrap();
        let processors = bring_here(number).expect("it may run here");
        let allowed = sched_getaffinity(Pid::from_raw(number.try_into().unwrap())).unwrap();
        assert_eq!(allowed.count(), 1);
        go_on.send(processors).unwrap();
        let (before, after) = thread.join().unwrap();
        assert_eq!(before, after);
        assert!(bring_here(u32::MAX).is_none(), "there is no such thread");
    }
}
