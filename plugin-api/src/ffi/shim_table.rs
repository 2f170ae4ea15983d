//! What the host does for the plugin's own std: thread-locals, threads, signal handlers and memory, so that
//! an unload knows all of it and can undo it.
//!
//! Both tables are frozen but for their ends: each begins with its size, and a reader uses what is there. They
//! are passed by pointer and are no part of the layout check.

use std::mem::offset_of;

/// A thread-local's destructor.
pub type Destructor = unsafe extern "C" fn(object: *mut ());

/// Where a thread begins. C code that ends or cancels its thread unwinds through it.
pub type ThreadStart = unsafe extern "C-unwind" fn(argument: *mut ()) -> *mut ();

/// The host's side. Every function may be called on any thread, and from constructors of the library on.
/// Those that stand in for a function of the system's answer as that does.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HostShim {
    /// The size of this table.
    pub size: usize,
    /// Has `destructor` run on `object` when this thread ends, or at the unload.
    pub at_exit: unsafe extern "C" fn(context: *const (), destructor: Destructor, object: *mut ()),
    /// `pthread_key_create`.
    pub key_create:
        unsafe extern "C" fn(context: *const (), key: *mut u32, destructor: Option<Destructor>) -> i32,
    /// Takes over a key that was made, with a null destructor, before the host attached itself; this thread
    /// may have set it.
    pub key_adopt: unsafe extern "C" fn(context: *const (), key: u32, destructor: Option<Destructor>),
    /// `pthread_setspecific`.
    pub key_set: unsafe extern "C" fn(context: *const (), key: u32, value: *const ()) -> i32,
    /// `pthread_key_delete`.
    pub key_delete: unsafe extern "C" fn(context: *const (), key: u32) -> i32,
    /// `pthread_create`.
    pub thread_create: unsafe extern "C" fn(
        context: *const (),
        thread: *mut usize,
        attributes: *const (),
        start: ThreadStart,
        argument: *mut (),
    ) -> i32,
    /// Says that constructors started this many threads that nobody counts.
    pub threads_uncounted: unsafe extern "C" fn(context: *const (), count: usize),
    /// `sigaction`; `new` and `old` are the system's.
    pub sigaction: unsafe extern "C" fn(context: *const (), signal: i32, new: *const (), old: *mut ()) -> i32,
    /// `signal`.
    pub signal: unsafe extern "C" fn(context: *const (), signal: i32, handler: usize) -> usize,
    /// Says that constructors may have set this signal's handler.
    pub signal_touched: unsafe extern "C" fn(context: *const (), signal: i32),
    /// Maps this many bytes, a multiple of the page's size: zeroed. Null when there is no memory.
    pub map: unsafe extern "C" fn(context: *const (), len: usize) -> *mut u8,
    /// Gives a whole region back.
    pub unmap: unsafe extern "C" fn(context: *const (), start: *mut u8, len: usize),
    /// Changes a region's length and perhaps its place; null when that can't be done, and then it stays.
    pub remap:
        unsafe extern "C" fn(context: *const (), start: *mut u8, len: usize, new_len: usize) -> *mut u8,
    /// Takes over a region that was mapped before the host attached itself.
    pub adopt: unsafe extern "C" fn(context: *const (), start: *mut u8, len: usize),
    /// Has `release` called when this thread ends, after all of the plugin's destructors on it. An unload
    /// forgets it.
    pub at_thread_end: unsafe extern "C" fn(context: *const (), release: unsafe extern "C" fn()),
    /// Lends a word of every thread's, so many bytes from the thread pointer, that is null in each and nobody
    /// else's until the library is gone; 0 when there is none.
    pub lend_word: unsafe extern "C" fn(context: *const ()) -> isize,
}

/// The plugin's side. `[the undertaker, when nobody is inside]`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PluginShim {
    /// The size of this table.
    pub size: usize,
    /// Lets go of what any of its code might still have used until now. May come more than once.
    pub finish: unsafe extern "C" fn(),
    /// How many bytes it allocated and never freed; `u64::MAX` when it has an allocator of its own. Comes once, right
    /// before the library is closed and while no thread can end that asked for `at_thread_end`: from then on the
    /// heap keeps nothing on threads.
    pub live_bytes: unsafe extern "C" fn() -> u64,
}

const _: () = assert!(offset_of!(HostShim, at_exit) == 8);
const _: () = assert!(offset_of!(HostShim, at_thread_end) == 8 * 15);
const _: () = assert!(size_of::<HostShim>() == 8 * 17);
const _: () = assert!(offset_of!(PluginShim, finish) == 8);
const _: () = assert!(offset_of!(PluginShim, live_bytes) == 16);
