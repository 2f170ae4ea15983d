//! A plugin whose code runs when its library is closed, which may be long after the host has closed it: it opens
//! itself, or somebody else does, and the C library calls it at the process's end.
//!
//! What the library's constructor and destructor do is said by variables of the process.
#![allow(
    unsafe_code,
    reason = "the dynamic loader and the C library's threads have no safe functions in std"
)]

use std::{
    cell::{Cell, RefCell},
    ffi::{CStr, c_char, c_void},
    mem::{self, MaybeUninit},
    ptr,
};

use oxide_plugin_api::prelude::*;

/// The module.
#[derive(Default)]
struct Afterlife;

/// So large that the C library maps it for each thread, and unmaps it when that thread ends: whoever comes to it
/// later is found out.
const LARGE: usize = 512 << 10;

thread_local! {
    static LARGE_LOCAL: Cell<[u8; LARGE]> = const { Cell::new([0; LARGE]) };
    static NOTES: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
}

/// Something whose destructor must not run when the library is gone.
struct Note;

impl Drop for Note {
    fn drop(&mut self) {
        drop(vec![1_u8; 100]);
    }
}

/// Where this thread's part of the library's thread-locals is.
fn touch() -> usize {
    LARGE_LOCAL.with(|local| local.as_ptr() as usize)
}

/// Blocks of many sizes, some kept and some freed, and one that gets a region of its own.
fn allocate() {
    let kept: Vec<_> = (1..500).map(|size| vec![1_u8; size]).collect();
    mem::forget(kept.clone());
    mem::forget(vec![1_u8; 4 << 20]);
}

/// Where the dynamic loader found this library.
fn own_path() -> String {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: asks about a function of this library's, which is open, so that the name is there.
    unsafe {
        assert_ne!(libc::dladdr(own_path as *const c_void, found.as_mut_ptr()), 0);
        CStr::from_ptr(found.assume_init().dli_fname).to_string_lossy().into_owned()
    }
}

fn open_itself() {
    let mut path = own_path().into_bytes();
    path.push(0);
    // SAFETY: the library is open already, so that nothing of it runs.
    let library = unsafe { libc::dlopen(path.as_ptr().cast(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!library.is_null());
}

/// Makes the file `<path>.<what>` without any memory from the heap.
unsafe fn tell(path: *const c_char, what: &CStr) {
    let mut name = [0 as c_char; 4096];
    // SAFETY: the format goes with its arguments, which end with NUL.
    unsafe {
        libc::snprintf(name.as_mut_ptr(), name.len(), c"%s.%s".as_ptr(), path, what.as_ptr());
        let file = libc::open(name.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600);
        assert!(file >= 0);
        libc::close(file);
    }
}

/// Waits, if this variable is set, until there is a file at the path that is its value. Asks the heap for nothing.
fn wait_as_told_by(variable: &CStr) {
    // SAFETY: nobody changes the environment; the path ends with NUL.
    unsafe {
        let path = libc::getenv(variable.as_ptr());
        if !path.is_null() {
            tell(path, c"inside");
            while libc::access(path, libc::F_OK) != 0 {
                libc::usleep(2000);
            }
            tell(path, c"ended");
        }
    }
}

unsafe extern "C" fn destroy(_: *mut c_void) {
    drop(vec![1_u8; 100]);
}

/// Whatever the system will do at the end of this thread.
fn leave_something_behind() {
    NOTES.with_borrow_mut(|notes| notes.push(Note));
    let mut key = 0;
    // SAFETY: the destructor does nothing with the value.
    unsafe {
        assert_eq!(libc::pthread_key_create(&raw mut key, Some(destroy)), 0);
        assert_eq!(libc::pthread_setspecific(key, ptr::from_ref(&key).cast()), 0);
    }
}

extern "C" fn constructor() {
    // SAFETY: nobody changes the environment.
    if !unsafe { libc::getenv(c"AFTERLIFE_BEGINNING".as_ptr()) }.is_null() {
        open_itself();
        wait_as_told_by(c"AFTERLIFE_BEGINNING");
    }
}

extern "C" fn destructor() {
    touch();
    wait_as_told_by(c"AFTERLIFE_END");
    allocate();
    leave_something_behind();
}

// SAFETY: an array of functions without arguments, which the loader calls when it has opened the library.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

// SAFETY: as above, before it unmaps the library.
#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;

impl Module for Afterlife {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "afterlife".into(),
            name: "Afterlife".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, _: Payload) -> Result<Payload> {
        match method {
            // From here on the heap has something for this thread.
            "use" => {
                touch();
                allocate();
                Ok(Payload::empty())
            }
            "open_itself" => {
                open_itself();
                Ok(Payload::empty())
            }
            "own_path" => Ok(own_path().into_bytes().into()),
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(Afterlife);
