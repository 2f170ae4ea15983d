//! The functions that stand in for the system's: thin, never unwinding.

use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use oxide_plugin_api::ffi::shim_table::{Destructor, HostShim, ThreadStart};

use super::{Residue, threads};
use crate::sys;

/// The table that every plugin's shim gets.
pub(crate) static HOST_SHIM: HostShim = HostShim {
    size: size_of::<HostShim>(),
    at_exit,
    key_create,
    key_adopt,
    key_set,
    key_delete,
    thread_create,
    threads_uncounted,
    sigaction,
    signal,
    signal_touched,
    map,
    unmap,
    remap,
    adopt,
    at_thread_end,
    lend_word,
};

/// The context that goes with the table. The library keeps `residue` with it until it is buried, whoever else drops
/// it: code of the library may run as long as it is mapped.
pub(crate) fn lend(residue: &Arc<Residue>) -> *const () {
    if !residue.lent.swap(true, SeqCst) {
        std::mem::forget(residue.clone());
    }
    Arc::as_ptr(residue).cast()
}

/// # Safety
/// `context` came from [`lend`], and its `Residue` has not been buried.
unsafe fn residue(context: *const ()) -> Arc<Residue> {
    let pointer = context.cast::<Residue>();
    // SAFETY: as the caller promises; the count goes up for the `Arc` that is made.
    unsafe {
        Arc::increment_strong_count(pointer);
        Arc::from_raw(pointer)
    }
}

/// Runs a function's body; a panic in it, which would be a bug of ours, must not reach the plugin's std.
fn calmly<R>(body: impl FnOnce() -> R, otherwise: R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        std::mem::forget(payload);
        otherwise
    })
}

unsafe extern "C" fn at_exit(context: *const (), destructor: Destructor, object: *mut ()) {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    if !residue.is_closing() {
        calmly(|| threads::add_plain(&residue, destructor, object), ());
    }
}

unsafe extern "C" fn key_create(context: *const (), key: *mut u32, destructor: Option<Destructor>) -> c_int {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    let make = || match sys::threads::key_create(None) {
        Ok(made) => {
            residue.keys.lock().insert(made, destructor);
            // SAFETY: `pthread_key_create` promises the place.
            unsafe { *key = made };
            0
        }
        Err(error) => error,
    };
    calmly(make, sys::AGAIN)
}

unsafe extern "C" fn key_adopt(context: *const (), key: u32, destructor: Option<Destructor>) {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    calmly(
        || {
            residue.keys.lock().insert(key, destructor);
            if destructor.is_some() {
                threads::set_keyed(&residue, key, sys::threads::key_get(key));
            }
        },
        (),
    );
}

unsafe extern "C" fn key_set(context: *const (), key: u32, value: *const ()) -> c_int {
    let answer = sys::threads::key_set(key, value);
    if answer != 0 {
        return answer;
    }
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    let note = || {
        let has_destructor = residue.keys.lock().get(&key).is_some_and(Option::is_some);
        if has_destructor && !residue.is_closing() {
            threads::set_keyed(&residue, key, value.cast_mut());
        }
        0
    };
    calmly(note, sys::AGAIN)
}

unsafe extern "C" fn key_delete(context: *const (), key: u32) -> c_int {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    let delete = || {
        residue.keys.lock().remove(&key);
        threads::drop_key(&residue, key);
        sys::threads::key_delete(key)
    };
    calmly(delete, sys::AGAIN)
}

unsafe extern "C" fn thread_create(
    context: *const (),
    thread: *mut usize,
    attributes: *const (),
    start: ThreadStart,
    argument: *mut (),
) -> c_int {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    if residue.is_closing() {
        return sys::AGAIN;
    }
    // SAFETY: the plugin keeps to the duties of `pthread_create`.
    calmly(|| unsafe { threads::start(&residue, thread, attributes, start, argument) }, sys::AGAIN)
}

unsafe extern "C" fn threads_uncounted(context: *const (), count: usize) {
    // SAFETY: the plugin passes the context that it was given.
    unsafe { residue(context) }.uncounted.fetch_add(count, SeqCst);
}

unsafe extern "C" fn sigaction(context: *const (), signal: c_int, new: *const (), old: *mut ()) -> c_int {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    let before = sys::signals::handler(signal);
    // SAFETY: the plugin keeps to the duties of `sigaction`.
    let answer = unsafe { sys::signals::sigaction(signal, new, old) };
    if answer == 0 && !new.is_null() {
        calmly(|| residue.handlers.lock().changed(signal, before), ());
    }
    answer
}

unsafe extern "C" fn signal(context: *const (), signal: c_int, handler: usize) -> usize {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    let before = sys::signals::handler(signal);
    // SAFETY: the plugin keeps to the duties of `signal`.
    let answer = unsafe { sys::signals::signal(signal, handler) };
    calmly(|| residue.handlers.lock().changed(signal, before), ());
    answer
}

unsafe extern "C" fn signal_touched(context: *const (), signal: c_int) {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    calmly(|| residue.handlers.lock().touched(signal), ());
}

unsafe extern "C" fn map(context: *const (), len: usize) -> *mut u8 {
    let start = sys::regions::map(len);
    if !start.is_null() {
        // SAFETY: the plugin passes the context that it was given.
        let residue = unsafe { residue(context) };
        calmly(
            || {
                residue.regions.lock().insert(start as usize, len);
            },
            (),
        );
    }
    start
}

unsafe extern "C" fn unmap(context: *const (), start: *mut u8, len: usize) {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    // Before it is unmapped: the place may be given to another region at once.
    calmly(
        || {
            residue.regions.lock().remove(&(start as usize));
        },
        (),
    );
    // SAFETY: the plugin's heap gives back what it got, once.
    unsafe { sys::regions::unmap(start, len) };
}

unsafe extern "C" fn remap(context: *const (), start: *mut u8, len: usize, new_len: usize) -> *mut u8 {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    let change = || {
        // Locked through the change: the old place may be given to another region at once.
        let mut regions = residue.regions.lock();
        // SAFETY: the plugin's heap owns the region and uses the new place from now on.
        let moved = unsafe { sys::regions::remap(start, len, new_len) };
        if !moved.is_null() {
            regions.remove(&(start as usize));
            regions.insert(moved as usize, new_len);
        }
        moved
    };
    calmly(change, ptr::null_mut())
}

unsafe extern "C" fn adopt(context: *const (), start: *mut u8, len: usize) {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    calmly(
        || {
            residue.regions.lock().insert(start as usize, len);
        },
        (),
    );
}

unsafe extern "C" fn at_thread_end(context: *const (), release: unsafe extern "C" fn()) {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    calmly(|| threads::add_at_end(&residue, release), ());
}

unsafe extern "C" fn lend_word(context: *const ()) -> isize {
    // SAFETY: the plugin passes the context that it was given.
    let residue = unsafe { residue(context) };
    calmly(|| residue.lend_word().unwrap_or(0), 0)
}
