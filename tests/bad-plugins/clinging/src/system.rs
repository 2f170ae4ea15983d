//! What it asks of the system behind everybody's back: signal handlers, memory, libraries, and code that runs
//! when the library is opened and closed.

use std::{
    ffi::{CStr, CString, c_int, c_void},
    mem::{self, MaybeUninit},
    ptr,
    sync::Mutex,
};

use crate::wait_for;

/// The one that it handles. Nothing else in the tests uses it.
const SIGNAL: c_int = libc::SIGUSR2;

extern "C" fn handler(_: c_int) {}

/// What was there before, of each `sigaction`.
static BEFORE: Mutex<Vec<libc::sigaction>> = Mutex::new(Vec::new());

fn install() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: zeroes are an action without flags; the handler does nothing; the old one is written by the
    // call that is seen to succeed.
    let before = unsafe {
        (*action.as_mut_ptr()).sa_sigaction = handler as *const () as usize;
        assert_eq!(libc::sigaction(SIGNAL, action.as_ptr(), before.as_mut_ptr()), 0);
        before.assume_init()
    };
    BEFORE.lock().expect("nobody panics with it").push(before);
}

fn restore() {
    let before = BEFORE.lock().expect("nobody panics with it").pop().expect("installed before");
    // SAFETY: what was there is put back.
    assert_eq!(unsafe { libc::sigaction(SIGNAL, &raw const before, ptr::null_mut()) }, 0);
}

fn opened(path: &str) -> *mut c_void {
    let path = CString::new(path).expect("no test has such paths");
    // SAFETY: the test says which library, and all of them may be opened anywhere.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    // SAFETY: asked right after the call that failed.
    assert!(!library.is_null(), "{:?}", unsafe { CStr::from_ptr(libc::dlerror()) });
    library
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

unsafe extern "C" {
    fn quick_exit(code: c_int) -> !;
}

/// Forks this process and ends the new one the quick way; says with which code that ended.
fn fork_and_exit(code: c_int) -> String {
    let mut status = 0;
    // SAFETY: the new process does nothing but end; the status is written by the call that is seen to succeed.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            quick_exit(code);
        }
        assert!(child > 0 && libc::waitpid(child, &raw mut status, 0) == child);
    }
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status).to_string()
    } else {
        format!("signal {}", libc::WTERMSIG(status))
    }
}

/// Sends a message to a queue that there is.
fn send(queue: &str) {
    let name = CString::new(queue).expect("no test has such names");
    // SAFETY: a name that ends with NUL, and a message as long as is said.
    unsafe {
        let queue = libc::mq_open(name.as_ptr(), libc::O_WRONLY);
        assert!(queue >= 0);
        assert_eq!(libc::mq_send(queue, c"!".as_ptr(), 1, 0), 0);
        libc::mq_close(queue);
        libc::mq_unlink(name.as_ptr());
    }
}

pub(crate) fn perform(verb: &str, argument: &str) -> Option<String> {
    match verb {
        "sigaction" => install(),
        "sigaction_restore" => restore(),
        "signal" => {
            // SAFETY: the handler does nothing.
            unsafe { libc::signal(SIGNAL, handler as *const () as libc::sighandler_t) };
        }
        "signal_default" => {
            // SAFETY: a default is always there.
            unsafe { libc::signal(SIGNAL, libc::SIG_DFL) };
        }
        "raise" => {
            // SAFETY: the signal is handled, as the test has seen to.
            unsafe { libc::raise(SIGNAL) };
        }
        "fork_and_exit" => return Some(fork_and_exit(argument.parse().expect("a number"))),
        "send" => send(argument),
        "leak" => mem::forget(vec![1_u8; argument.parse().expect("a number")]),
        "open" => {
            opened(argument);
        }
        "open_itself" => {
            opened(&own_path());
        }
        // What was opened before, by whomever.
        "close" => {
            let library = opened(argument);
            // SAFETY: opened twice, and nothing of it is in use.
            unsafe {
                libc::dlclose(library);
                libc::dlclose(library);
            }
        }
        "open_and_close" => {
            // SAFETY: it has just been opened, and nothing of it is in use.
            unsafe { libc::dlclose(opened(argument)) };
        }
        "open_and_use" => {
            let library = opened(argument);
            // SAFETY: the test's own library has this function, of this type.
            unsafe {
                let hold = libc::dlsym(library, c"hold_on".as_ptr());
                assert!(!hold.is_null());
                mem::transmute::<*mut c_void, extern "C" fn()>(hold)();
            }
        }
        _ => return None,
    }
    Some(String::new())
}

/// Waits as the variable says: for a file at the path that is its value.
fn follow(variable: &str) {
    if let Ok(path) = std::env::var(variable) {
        wait_for(&path);
    }
}

extern "C" fn constructor() {
    follow("CLINGING_CONSTRUCTOR");
}

extern "C" fn destructor() {
    follow("CLINGING_DESTRUCTOR");
    if std::env::var_os("CLINGING_DESTRUCTOR_ALLOCATES").is_some() {
        // Of many sizes, some kept and some freed: from here on the heap has something for this thread.
        let kept: Vec<_> = (1..500).map(|size| vec![1_u8; size]).collect();
        mem::forget(kept.clone());
        super::locals::perform("local", "");
    }
}

// SAFETY: an array of functions without arguments, which the loader calls when it has opened the library.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

// SAFETY: as above, before it unmaps the library.
#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;
