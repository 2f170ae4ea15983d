//! The destructors that plugins have registered on each thread, and the threads that plugins have started.
//!
//! Each list belongs to one thread and is run by that thread only: at its end, as the C library would have
//! (plain destructors last in first out until none is left, then those of keys), or early, when a generation
//! is leaving and the thread comes by. The list hangs on a key of the host's whose end drains it; nothing here
//! has a destructor that the C library would run before.

use std::{
    cell::Cell,
    ffi::c_void,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Arc, LazyLock,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Relaxed, SeqCst},
        },
    },
};

use oxide_plugin_api::ffi::shim_table::{Destructor, ThreadStart};
use parking_lot::Mutex;

use super::{Nudge, Residue};
use crate::{
    boundary::frames,
    sys::{
        threads::{self, Key},
        words::{self, Words},
    },
};

/// So many times the destructors of keys may set further keys, as POSIX has it.
const ROUNDS: usize = 4;

/// What one thread owes to plugins.
pub(super) struct Record {
    pub(super) number: u32,
    /// A generation wants this thread to come by.
    pub(super) asked: AtomicBool,
    pub(super) list: Mutex<List>,
}

#[derive(Default)]
pub(super) struct List {
    plain: Vec<Plain>,
    keyed: Vec<Keyed>,
    pub(super) at_end: Vec<AtEnd>,
    /// Where the thread's lent words are, while it has any.
    pub(super) words: Option<ThreadWords>,
    /// Whose thread it is.
    pub(super) started_by: Option<Arc<Residue>>,
    /// What can make this thread come by.
    pub(super) nudge: Option<Arc<dyn Nudge>>,
}

struct Plain {
    residue: Arc<Residue>,
    destructor: Destructor,
    object: *mut (),
}

struct Keyed {
    residue: Arc<Residue>,
    key: Key,
    /// As it was set last. The C library has no memory of it at a thread's end: it clears the values of
    /// keys one after the other, and those below our own are gone when our end runs.
    value: *mut (),
}

pub(super) struct AtEnd {
    pub(super) residue: Arc<Residue>,
    release: unsafe extern "C" fn(),
}

pub(super) struct ThreadWords(pub(super) *const Words);

// SAFETY: the thread takes it back, under the list's lock, before it ends.
unsafe impl Send for ThreadWords {}

// SAFETY: what the pointers lead to is used by the list's own thread only.
unsafe impl Send for Plain {}
// SAFETY: as above.
unsafe impl Send for Keyed {}

/// All threads that have a list.
pub(super) static RECORDS: Mutex<Vec<Arc<Record>>> = Mutex::new(Vec::new());

/// How many generations want threads to come by.
pub(super) static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Its end drains the list of the thread that ends.
static END: LazyLock<Option<Key>> = LazyLock::new(|| threads::key_create(Some(end_of_thread)).ok());

thread_local! {
    static OWN: Cell<*const Record> = const { Cell::new(ptr::null()) };
}

/// Whether the ends of threads can be seen, without which no library may be closed.
pub(crate) fn ends_are_seen() -> bool {
    END.is_some()
}

/// Runs `body` with this thread's record, which is made when there is none.
fn with_own<R>(body: impl FnOnce(&Record) -> R) -> R {
    if OWN.get().is_null() {
        let record = Arc::new(Record {
            number: threads::own_number(),
            asked: AtomicBool::new(false),
            list: Mutex::default(),
        });
        OWN.set(Arc::as_ptr(&record));
        RECORDS.lock().push(record);
        if let Some(key) = *END {
            // Any value but null has the end run.
            threads::key_set(key, OWN.get().cast());
        }
    }
    // SAFETY: `RECORDS` keeps it until this thread's end takes it out, which sets `OWN` to null first.
    body(unsafe { &*OWN.get() })
}

impl Record {
    fn add(&self, residue: &Arc<Residue>, put: impl FnOnce(&mut List)) {
        let nudge = (residue.nudger)();
        let mut list = self.list.lock();
        if nudge.is_some() {
            list.nudge = nudge;
        }
        residue.locals.fetch_add(1, SeqCst);
        put(&mut list);
    }

    /// Takes one destructor to run: plain ones first.
    fn next(&self, wanted: impl Fn(&Residue) -> bool, keyed: bool) -> Option<Due> {
        let mut list = self.list.lock();
        if let Some(at) = list.plain.iter().rposition(|entry| wanted(&entry.residue)) {
            let Plain { residue, destructor, object } = list.plain.remove(at);
            return Some(Due { residue, destructor, object });
        }
        if !keyed {
            return None;
        }
        loop {
            let at = list.keyed.iter().position(|entry| wanted(&entry.residue))?;
            let Keyed { residue, key, value: object } = list.keyed.remove(at);
            let destructor = residue.keys.lock().get(&key).copied().flatten();
            match destructor {
                Some(destructor) if !object.is_null() => {
                    threads::key_set(key, ptr::null());
                    return Some(Due { residue, destructor, object });
                }
                // Deleted, or set to null since.
                _ => residue.local_is_gone(),
            }
        }
    }

    /// Runs all destructors of the generations that are wanted, also those that these register.
    fn run(&self, wanted: impl Fn(&Residue) -> bool) {
        for _ in 0..ROUNDS {
            while let Some(due) = self.next(&wanted, false) {
                due.run();
            }
            let mut keys = self.list.lock().keyed.len();
            while keys > 0
                && let Some(due) = self.next(&wanted, true)
            {
                due.run();
                keys -= 1;
            }
        }
        while let Some(due) = self.next(&wanted, false) {
            due.run();
        }
        self.forget(&wanted);
    }

    /// Sets the keys again that the C library has cleared on its way to our end: destructors may read them.
    fn restore_values(&self) {
        for entry in &self.list.lock().keyed {
            threads::key_set(entry.key, entry.value);
        }
    }

    /// Leaves destructors unrun, for good. What their objects own stays.
    pub(super) fn forget(&self, wanted: impl Fn(&Residue) -> bool) -> usize {
        let (mut plain, mut keyed) = (Vec::new(), Vec::new());
        let unneeded = {
            let mut list = self.list.lock();
            let List { plain: all_plain, keyed: all_keyed, nudge, .. } = &mut *list;
            plain.extend(all_plain.extract_if(.., |entry| wanted(&entry.residue)));
            keyed.extend(all_keyed.extract_if(.., |entry| wanted(&entry.residue)));
            // It keeps somebody's runtime.
            if all_plain.is_empty() && all_keyed.is_empty() { nudge.take() } else { None }
        };
        drop(unneeded);
        let forgotten = plain.len() + keyed.len();
        plain.iter().for_each(|entry| entry.residue.local_is_gone());
        keyed.iter().for_each(|entry| entry.residue.local_is_gone());
        forgotten
    }

    /// The generations on the list that are leaving.
    fn leaving(&self) -> Vec<Arc<Residue>> {
        let mut leaving: Vec<Arc<Residue>> = Vec::new();
        let list = self.list.lock();
        let plain = list.plain.iter().map(|entry| &entry.residue);
        for residue in plain.chain(list.keyed.iter().map(|entry| &entry.residue)) {
            let known = leaving.iter().any(|other| Arc::ptr_eq(other, residue));
            if !known && residue.leaving.load(SeqCst) {
                leaving.push(residue.clone());
            }
        }
        leaving
    }

    /// How many destructors it has of this generation.
    pub(super) fn owes(&self, residue: &Arc<Residue>) -> usize {
        let list = self.list.lock();
        list.plain.iter().filter(|entry| Arc::ptr_eq(&entry.residue, residue)).count()
            + list.keyed.iter().filter(|entry| Arc::ptr_eq(&entry.residue, residue)).count()
    }
}

/// A destructor taken off its list, still counted.
struct Due {
    residue: Arc<Residue>,
    destructor: Destructor,
    object: *mut (),
}

impl Due {
    fn run(self) {
        // SAFETY: registered on this thread with this object, and taken off the list once; its generation
        // stays mapped while it is counted.
        frames::within(self.residue.frame, || unsafe { (self.destructor)(self.object) });
        self.residue.local_is_gone();
    }
}

/// Registers a plain destructor on this thread.
pub(super) fn add_plain(residue: &Arc<Residue>, destructor: Destructor, object: *mut ()) {
    with_own(|own| {
        own.add(residue, |list| list.plain.push(Plain { residue: residue.clone(), destructor, object }));
    });
}

/// This thread has set a key that has a destructor, maybe to null.
pub(super) fn set_keyed(residue: &Arc<Residue>, key: Key, value: *mut ()) {
    if value.is_null() && OWN.get().is_null() {
        return;
    }
    with_own(|own| {
        let is_mine = |entry: &&mut Keyed| entry.key == key && Arc::ptr_eq(&entry.residue, residue);
        if let Some(entry) = own.list.lock().keyed.iter_mut().find(is_mine) {
            entry.value = value;
            return;
        }
        if !value.is_null() {
            own.add(residue, |list| list.keyed.push(Keyed { residue: residue.clone(), key, value }));
        }
    });
}

/// A key is gone: nobody owes anything for it.
pub(super) fn drop_key(residue: &Arc<Residue>, key: Key) {
    let records = RECORDS.lock().clone();
    for record in records {
        let gone: Vec<_> = {
            let mut list = record.list.lock();
            let is_gone = |entry: &mut Keyed| entry.key == key && Arc::ptr_eq(&entry.residue, residue);
            list.keyed.extract_if(.., is_gone).collect()
        };
        gone.iter().for_each(|entry| entry.residue.local_is_gone());
    }
}

/// Has `release` called at this thread's end, after all destructors.
pub(super) fn add_at_end(residue: &Arc<Residue>, release: unsafe extern "C" fn()) {
    with_own(|own| {
        let mut list = own.list.lock();
        list.words = Some(ThreadWords(words::own()));
        list.at_end.push(AtEnd { residue: residue.clone(), release });
    });
}

/// A thread that a plugin starts, on its way there.
struct Job {
    residue: Arc<Residue>,
    start: ThreadStart,
    argument: *mut (),
}

/// Starts and counts a thread; answers as `pthread_create` does.
///
/// # Safety
/// As for that function.
pub(super) unsafe fn start(
    residue: &Arc<Residue>,
    thread: *mut usize,
    attributes: *const (),
    start: ThreadStart,
    argument: *mut (),
) -> i32 {
    residue.threads.fetch_add(1, SeqCst);
    let job = Box::into_raw(Box::new(Job { residue: residue.clone(), start, argument }));
    // SAFETY: as our caller promises; the trampoline takes the job.
    let answer = unsafe { threads::create(thread, attributes, run_counted, job.cast()) };
    if answer != 0 {
        // SAFETY: no thread came to be that would take it.
        drop(unsafe { Box::from_raw(job) });
        residue.thread_has_ended();
    }
    answer
}

/// Host code under a plugin's thread: the plugin's is left before the thread is counted out.
unsafe extern "C-unwind" fn run_counted(job: *mut ()) -> *mut () {
    let (start, argument) = take(job.cast());
    // SAFETY: what the plugin asked for. Nothing here has a destructor: `pthread_exit` may unwind by force.
    unsafe { start(argument) }
}

fn take(job: *mut Job) -> (ThreadStart, *mut ()) {
    // SAFETY: `start` made it for this thread alone.
    let Job { residue, start, argument } = *unsafe { Box::from_raw(job) };
    threads::set_own_name(&residue.name);
    with_own(|own| own.list.lock().started_by = Some(residue));
    (start, argument)
}

/// Runs what a thread that ends still owes; then, if a plugin started it, counts it out.
unsafe extern "C" fn end_of_thread(_: *mut c_void) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let own = OWN.get();
        if own.is_null() {
            return;
        }
        let record = {
            let records = RECORDS.lock();
            records.iter().find(|record| Arc::as_ptr(record) == own).cloned()
        };
        let Some(record) = record else { return };
        record.restore_values();
        record.run(|_| true);
        while let Some(residue) = record.has_at_end() {
            let _held = residue.releases.lock();
            let Some(release) = record.take_at_end(&residue) else { continue };
            // SAFETY: the plugin asked for it, and it is not forgotten; nobody forgets it, nor closes the library,
            // before the lock is free.
            frames::within(residue.frame, || unsafe { release() });
        }
        OWN.set(ptr::null());
        RECORDS.lock().retain(|other| !Arc::ptr_eq(other, &record));
        let started_by = {
            let mut list = record.list.lock();
            list.words = None;
            list.started_by.take()
        };
        if let Some(residue) = started_by {
            residue.thread_has_ended();
        }
    }));
    if let Err(payload) = ended {
        // A bug of ours: what was owed is not known to have run, so the counts stay up and keep the library.
        mem::forget(payload);
    }
}

impl Record {
    /// Whose release is the next to be run.
    fn has_at_end(&self) -> Option<Arc<Residue>> {
        self.list.lock().at_end.last().map(|at_end| at_end.residue.clone())
    }

    /// A release of this generation, unless it has been forgotten. Its `releases` are locked.
    fn take_at_end(&self, residue: &Arc<Residue>) -> Option<unsafe extern "C" fn()> {
        let mut list = self.list.lock();
        let at = list.at_end.iter().rposition(|at_end| Arc::ptr_eq(&at_end.residue, residue))?;
        Some(list.at_end.remove(at).release)
    }
}

/// Runs what this thread has of generations that are leaving. To be called wherever threads come by; costs a
/// load when nobody has asked.
#[inline]
pub(crate) fn flush_if_asked() {
    if ASKED.load(Relaxed) != 0 {
        flush();
    }
}

#[cold]
fn flush() {
    let own = OWN.get();
    // SAFETY: as in `with_own`.
    let Some(record) = (unsafe { own.as_ref() }) else { return };
    if record.asked.swap(false, AcqRel) {
        // One that begins to leave from here on asks again; were it looked for anew each time, `run` would forget
        // at its end what it has not run.
        let leaving = record.leaving();
        record.run(|residue| leaving.iter().any(|one| ptr::eq(&raw const **one, residue)));
    }
}
