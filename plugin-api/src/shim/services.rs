//! The stand-ins for the C functions through which a plugin's std asks for thread services.
//!
//! With a host attached they are the host's. Before that (constructors of the library, or a process that has no
//! host) they are the system's, and what a host must know of is kept in a small table until it comes.

use std::{
    cell::UnsafeCell,
    ffi::{CStr, c_char, c_int, c_void},
    mem::transmute,
    ptr,
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::ffi::shim_table::{Destructor, HostShim, ThreadStart};

static HOST: AtomicPtr<HostShim> = AtomicPtr::new(ptr::null_mut());
static CONTEXT: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// The host's table and context, once it is attached.
#[inline]
fn host() -> Option<(&'static HostShim, *const ())> {
    let host = HOST.load(Acquire);
    // SAFETY: `attach` stored it, valid until this library is gone; the context was stored before it.
    unsafe { host.as_ref() }.map(|host| (host, CONTEXT.load(Relaxed).cast_const()))
}

/// See `shim::attach`.
///
/// # Safety
/// The table and the context are valid until the library is gone.
pub(super) unsafe fn attach(table: &'static HostShim, context: *const ()) {
    CONTEXT.store(context.cast_mut(), Relaxed);
    HOST.store(ptr::from_ref(table).cast_mut(), Release);
    // SAFETY: the context belongs to the table; what the early entries say is what the constructors, which
    // ran on this thread, asked for.
    unsafe {
        EARLY.take(|early| match early {
            Early::Local(destructor, object) => (table.at_exit)(context, destructor, object),
            Early::Key(key, destructor) => (table.key_adopt)(context, key, destructor),
        });
        let threads = EARLY_THREADS.swap(0, Relaxed);
        if threads > 0 {
            (table.threads_uncounted)(context, threads);
        }
        let signals = EARLY_SIGNALS.swap(0, Relaxed);
        for signal in (0..64).filter(|signal| signals & (1 << signal) != 0) {
            (table.signal_touched)(context, signal);
        }
    }
}

/// What constructors asked for before a host was there.
#[derive(Clone, Copy)]
enum Early {
    Local(Destructor, *mut ()),
    Key(u32, Option<Destructor>),
}

/// So many of them are kept. Constructors of Rust code ask for none.
const EARLY_MOST: usize = 64;

struct Earlies {
    entries: UnsafeCell<[Option<Early>; EARLY_MOST]>,
    count: UnsafeCell<usize>,
    locked: AtomicBool,
}

// SAFETY: the cells are used under the lock.
unsafe impl Sync for Earlies {}

static EARLY: Earlies = Earlies {
    entries: UnsafeCell::new([None; EARLY_MOST]),
    count: UnsafeCell::new(0),
    locked: AtomicBool::new(false),
};
static EARLY_THREADS: AtomicUsize = AtomicUsize::new(0);
static EARLY_SIGNALS: AtomicU64 = AtomicU64::new(0);

impl Earlies {
    fn locked<R>(&self, body: impl FnOnce(&mut [Option<Early>; EARLY_MOST], &mut usize) -> R) -> R {
        while self.locked.swap(true, Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: the lock makes both ours.
        let result = unsafe { body(&mut *self.entries.get(), &mut *self.count.get()) };
        self.locked.store(false, Release);
        result
    }

    /// Whether there was room.
    fn keep(&self, early: Early) -> bool {
        self.locked(|entries, count| {
            let Some(place) = entries.get_mut(*count) else { return false };
            *place = Some(early);
            *count += 1;
            true
        })
    }

    fn take(&self, mut each: impl FnMut(Early)) {
        let (entries, count) = self
            .locked(|entries, count| (std::mem::replace(entries, [None; EARLY_MOST]), std::mem::take(count)));
        entries.into_iter().take(count).flatten().for_each(&mut each);
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The system's own function of this name: our hidden one is in no table that `dlsym` searches.
fn system(name: &CStr) -> *mut c_void {
    // SAFETY: a name that ends with NUL; a null handle is `RTLD_DEFAULT`.
    let found = unsafe { dlsym(ptr::null_mut(), name.as_ptr()) };
    if found.is_null() {
        // Nothing could go on: the C library lacks what std was linked against.
        std::process::abort();
    }
    found
}

type AtExit = unsafe extern "C" fn(Destructor, *mut (), *mut c_void) -> c_int;
type KeyCreate = unsafe extern "C" fn(*mut u32, Option<Destructor>) -> c_int;
type KeySet = unsafe extern "C" fn(u32, *const ()) -> c_int;
type KeyDelete = unsafe extern "C" fn(u32) -> c_int;
type ThreadCreate = unsafe extern "C" fn(*mut usize, *const (), ThreadStart, *mut ()) -> c_int;
type SigAction = unsafe extern "C" fn(c_int, *const (), *mut ()) -> c_int;
type Signal = unsafe extern "C" fn(c_int, usize) -> usize;

/// `__cxa_thread_atexit_impl`, of the C++ ABI for Itanium as glibc has it.
///
/// # Safety
/// As for that function.
pub unsafe extern "C" fn at_exit(destructor: Destructor, object: *mut (), library: *mut c_void) -> c_int {
    if let Some((host, context)) = host() {
        // SAFETY: as our caller promises.
        unsafe { (host.at_exit)(context, destructor, object) };
        return 0;
    }
    if EARLY.keep(Early::Local(destructor, object)) {
        return 0;
    }
    // SAFETY: this is that function's type. The library stays mapped until this thread ends.
    let system = unsafe { transmute::<*mut c_void, AtExit>(system(c"__cxa_thread_atexit_impl")) };
    // SAFETY: as our caller promises.
    unsafe { system(destructor, object, library) }
}

/// `pthread_key_create`.
///
/// # Safety
/// As for that function.
pub unsafe extern "C" fn key_create(key: *mut u32, destructor: Option<Destructor>) -> c_int {
    if let Some((host, context)) = host() {
        // SAFETY: as our caller promises.
        return unsafe { (host.key_create)(context, key, destructor) };
    }
    // SAFETY: this is that function's type.
    let system = unsafe { transmute::<*mut c_void, KeyCreate>(system(c"pthread_key_create")) };
    // SAFETY: as our caller promises.
    let result = unsafe { system(key, None) };
    // SAFETY: it has just been written when the result is 0.
    if result == 0 && !EARLY.keep(Early::Key(unsafe { *key }, destructor)) {
        // No room: the system runs the destructor itself, and the host may never know. Constructors that make
        // dozens of keys do not exist.
        // SAFETY: as our caller promises; the first key was ours.
        return unsafe {
            let delete = transmute::<*mut c_void, KeyDelete>(self::system(c"pthread_key_delete"));
            delete(*key);
            system(key, destructor)
        };
    }
    result
}

/// `pthread_setspecific`.
///
/// # Safety
/// As for that function.
pub unsafe extern "C" fn key_set(key: u32, value: *const ()) -> c_int {
    if let Some((host, context)) = host() {
        // SAFETY: as our caller promises.
        return unsafe { (host.key_set)(context, key, value) };
    }
    // SAFETY: this is that function's type.
    let system = unsafe { transmute::<*mut c_void, KeySet>(system(c"pthread_setspecific")) };
    // SAFETY: as our caller promises.
    unsafe { system(key, value) }
}

/// `pthread_key_delete`.
///
/// # Safety
/// As for that function.
pub unsafe extern "C" fn key_delete(key: u32) -> c_int {
    if let Some((host, context)) = host() {
        // SAFETY: as our caller promises.
        return unsafe { (host.key_delete)(context, key) };
    }
    EARLY.locked(|entries, _| {
        for entry in entries.iter_mut() {
            if matches!(entry, Some(Early::Key(known, _)) if *known == key) {
                *entry = None;
            }
        }
    });
    // SAFETY: this is that function's type.
    let system = unsafe { transmute::<*mut c_void, KeyDelete>(system(c"pthread_key_delete")) };
    // SAFETY: as our caller promises.
    unsafe { system(key) }
}

/// `pthread_create`.
///
/// # Safety
/// As for that function.
pub unsafe extern "C" fn thread_create(
    thread: *mut usize,
    attributes: *const (),
    start: ThreadStart,
    argument: *mut (),
) -> c_int {
    if let Some((host, context)) = host() {
        // SAFETY: as our caller promises.
        return unsafe { (host.thread_create)(context, thread, attributes, start, argument) };
    }
    EARLY_THREADS.fetch_add(1, Relaxed);
    // SAFETY: this is that function's type.
    let system = unsafe { transmute::<*mut c_void, ThreadCreate>(system(c"pthread_create")) };
    // SAFETY: as our caller promises.
    unsafe { system(thread, attributes, start, argument) }
}

/// `sigaction`.
///
/// # Safety
/// As for that function.
pub unsafe extern "C" fn sigaction(signal: c_int, new: *const (), old: *mut ()) -> c_int {
    if let Some((host, context)) = host() {
        // SAFETY: as our caller promises.
        return unsafe { (host.sigaction)(context, signal, new, old) };
    }
    if !new.is_null() {
        note_early(signal);
    }
    // SAFETY: this is that function's type.
    let system = unsafe { transmute::<*mut c_void, SigAction>(system(c"sigaction")) };
    // SAFETY: as our caller promises.
    unsafe { system(signal, new, old) }
}

/// `signal`.
///
/// # Safety
/// As for that function.
pub unsafe extern "C" fn signal(signal: c_int, handler: usize) -> usize {
    if let Some((host, context)) = host() {
        // SAFETY: as our caller promises.
        return unsafe { (host.signal)(context, signal, handler) };
    }
    note_early(signal);
    // SAFETY: this is that function's type.
    let system = unsafe { transmute::<*mut c_void, Signal>(system(c"signal")) };
    // SAFETY: as our caller promises.
    unsafe { system(signal, handler) }
}

fn note_early(signal: c_int) {
    if (0..64).contains(&signal) {
        EARLY_SIGNALS.fetch_or(1 << signal, Relaxed);
    }
}
