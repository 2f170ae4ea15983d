//! What a generation leaves in the process besides its image: threads, destructors of thread-locals, keys,
//! signal handlers, memory. All of it is listed here, so that an unload can wait for it, undo it, or say what
//! keeps the library.
//!
//! The plugin's own std asks for these things through the functions of [`table`] (plugin-api's `shim/`).

mod debts;
pub(crate) mod handlers;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod threads;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use oxide_plugin_api::ffi::shim_table::Destructor;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::handlers::Handlers;
use super::frames::Frame;
use crate::sys;

pub(crate) use table::{HOST_SHIM, lend};

/// Told whenever something of any generation's is gone, so that whoever waits for one looks again.
pub(crate) static CHANGED: Notify = Notify::const_new();

/// What one generation has in the process.
pub(crate) struct Residue {
    /// What its threads are called until they say otherwise: their name would be that of whoever starts them.
    name: String,
    frame: Frame,
    nudger: FindNudge,
    /// Threads that it started and that have not ended.
    threads: AtomicUsize,
    /// Threads that its constructors started, before anybody counted.
    uncounted: AtomicUsize,
    /// Destructors on threads' lists, or being run.
    locals: AtomicUsize,
    /// It is to be closed: threads that come by run what they have of it.
    leaving: AtomicBool,
    /// Its library is being closed, or was and stayed mapped: what its code starts or leaves for the end of a thread
    /// would find nothing.
    closing: AtomicBool,
    /// The library has it, and a count of its own for that.
    lent: AtomicBool,
    keys: Mutex<HashMap<sys::threads::Key, Option<Destructor>>>,
    handlers: Mutex<Handlers>,
    /// Start and length of each region of its heap.
    regions: Mutex<HashMap<usize, usize>>,
    /// The word that is lent to its heap.
    word: Mutex<Option<usize>>,
    /// Held while a thread that ends runs a release of its heap's, and while these are forgotten.
    releases: Mutex<()>,
}

/// The words that are lent, one bit each.
static LENT_WORDS: Mutex<u64> = Mutex::new(0);

const _: () = assert!(sys::words::WORDS == u64::BITS as usize);

/// Something that can make a thread come by, where the thread itself does not.
pub(crate) trait Nudge: Send + Sync {
    /// Makes up to `threads` idle threads of its kind run [`threads::flush_if_asked`], soon, without
    /// blocking anybody; `blocking` tells whether also those that are kept for blocking work. What it begins for
    /// that keeps a clone of `errand` until it is done.
    fn nudge(&self, threads: usize, blocking: bool, errand: &Arc<()>);
    /// The same for two that reach the same threads.
    fn identity(&self) -> u64;
}

/// Finds what can nudge the calling thread; `None` when nothing can.
pub(crate) type FindNudge = fn() -> Option<Arc<dyn Nudge>>;

impl Residue {
    pub(crate) fn new(name: &str, module_number: u64, generation: u64, nudger: FindNudge) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            frame: Frame { module: module_number, generation, is_call: false },
            nudger,
            threads: AtomicUsize::new(0),
            uncounted: AtomicUsize::new(0),
            locals: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            keys: Mutex::default(),
            handlers: Mutex::default(),
            regions: Mutex::default(),
            word: Mutex::default(),
            releases: Mutex::default(),
        })
    }

    /// How many threads it started that have not ended; with those that nobody counts.
    pub(crate) fn threads(&self) -> usize {
        self.threads.load(SeqCst) + self.uncounted.load(SeqCst)
    }

    /// How many threads run that will never be seen ending.
    pub(crate) fn uncounted_threads(&self) -> usize {
        self.uncounted.load(SeqCst)
    }

    /// How many destructors of thread-locals have not run.
    pub(crate) fn locals(&self) -> usize {
        self.locals.load(SeqCst)
    }

    /// From now on it gets no threads, and no destructor of thread-locals is run for it any more: who closes its
    /// library last, and when, nobody may tell the host.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, SeqCst);
    }

    fn thread_has_ended(&self) {
        self.threads.fetch_sub(1, SeqCst);
        CHANGED.notify_waiters();
    }

    fn local_is_gone(&self) {
        if self.locals.fetch_sub(1, SeqCst) == 1 {
            CHANGED.notify_waiters();
        }
    }

    /// The signals whose handlers keep the image at `base`, with what is known of each.
    pub(crate) fn handlers(&self, base: usize) -> Vec<String> {
        self.handlers.lock().holding(base)
    }

    /// Takes a word that nobody has; gives its distance from the thread pointer.
    fn lend_word(&self) -> Option<isize> {
        static OFFSET: LazyLock<Option<isize>> = LazyLock::new(sys::words::offset);
        let offset = (*OFFSET)?;
        let mut lent = LENT_WORDS.lock();
        let word = lent.trailing_ones() as usize;
        if word >= sys::words::WORDS {
            return None;
        }
        *lent |= 1 << word;
        *self.word.lock() = Some(word);
        Some(offset + (word * size_of::<usize>()).cast_signed())
    }

    /// Whether its library is being closed, or was.
    fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    /// Undoes what the system still has of it. To be called when its library is gone.
    pub(crate) fn bury(self: &Arc<Self>) {
        // What its static destructors have left on the thread that closed it.
        self.forget_locals();
        self.forget_at_ends(|| ());
        for (key, _) in self.keys.lock().drain() {
            sys::threads::key_delete(key);
        }
        // `forget_at_ends` has made it null in every thread.
        if let Some(word) = self.word.lock().take() {
            *LENT_WORDS.lock() &= !(1 << word);
        }
        for (start, len) in self.regions.lock().drain() {
            // SAFETY: the list has what `map` gave and nobody gave back; the only code that knew of it is
            // gone.
            unsafe { sys::regions::unmap(start as *mut u8, len) };
        }
        if self.lent.swap(false, SeqCst) {
            // SAFETY: `lend` made this count for the library, which is gone; the swap says that it is still there.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(self)) };
        }
    }
}
