use std::{
    sync::{
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::*;

static SEEN: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn note(object: *mut ()) {
    SEEN.store(object as usize, SeqCst);
}

#[test]
fn a_keys_destructor_runs_though_the_c_library_cleared_its_value_before_our_end_came() {
    let residue = Residue::new("one", 1, 1, || None);
    let on_the_thread = residue.clone();
    let thread = thread::spawn(move || {
        let context = lend(&on_the_thread);
        let mut key = 0;
        // SAFETY: the context is that of a residue that lives.
        let made = unsafe { (HOST_SHIM.key_create)(context, &raw mut key, Some(note)) };
        assert_eq!(made, 0);
        for value in [8, 0, 16] {
            // SAFETY: as above; the value is a number to its destructor.
            assert_eq!(unsafe { (HOST_SHIM.key_set)(context, key, value as *const ()) }, 0);
        }
        // What a thread's end does with each key in turn.
        sys::threads::key_set(key, std::ptr::null());
    });
    thread.join().unwrap();
    assert_eq!((SEEN.load(SeqCst), residue.locals()), (16, 0));
    residue.bury();
}

/// How often [`release`] was called.
static RELEASED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn release() {
    RELEASED.fetch_add(1, SeqCst);
}

#[test]
fn a_thread_whose_heap_is_being_counted_does_not_end_before_that_and_then_releases_nothing() {
    let residue = Residue::new("one", 2, 2, || None);
    let on_the_thread = residue.clone();
    let (begun, has_begun) = mpsc::channel();
    let (end, may_end) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        // SAFETY: the context is that of a residue that lives.
        unsafe { (HOST_SHIM.at_thread_end)(lend(&on_the_thread), release) };
        begun.send(sys::threads::own_number()).unwrap();
        let _ = may_end.recv();
    });
    let number = has_begun.recv().unwrap();
    let ended = residue.forget_at_ends(|| {
        drop(end);
        thread::sleep(Duration::from_millis(50));
        // std says so before the thread's end; the system, after it.
        !std::path::Path::new(&format!("/proc/self/task/{number}")).exists()
    });
    thread.join().unwrap();
    assert_eq!((ended, RELEASED.load(SeqCst)), (false, 0));
    residue.bury();
}

/// The generation that begins to leave while [`set_again`] runs, and its key's destructor's calls.
static OTHER: Mutex<Option<Arc<Residue>>> = Mutex::new(None);
static OTHERS: AtomicUsize = AtomicUsize::new(0);
static AGAIN: Mutex<(usize, u32, usize)> = Mutex::new((0, 0, 0));

unsafe extern "C" fn of_the_other(_: *mut ()) {
    OTHERS.fetch_add(1, SeqCst);
}

/// Sets its own key each time; the last time the other generation is asked for, too.
unsafe extern "C" fn set_again(object: *mut ()) {
    let (context, key, runs) = {
        let mut again = AGAIN.lock();
        again.2 += 1;
        *again
    };
    // SAFETY: the context is that of a residue that lives.
    unsafe { (HOST_SHIM.key_set)(context as *const (), key, object) };
    // Twice in each of four rounds.
    if runs == 8 {
        OTHER.lock().as_ref().unwrap().ask();
    }
}

#[test]
fn destructors_of_a_generation_that_begins_to_leave_during_a_flush_are_not_forgotten() {
    let (one, other) = (Residue::new("one", 3, 3, || None), Residue::new("one", 4, 4, || None));
    *OTHER.lock() = Some(other.clone());
    thread::spawn(move || {
        for (residue, destructor) in [(&one, set_again as Destructor), (&other, of_the_other as Destructor)] {
            let mut key = 0;
            // SAFETY: the context is that of a residue that lives.
            unsafe { (HOST_SHIM.key_create)(lend(residue), &raw mut key, Some(destructor)) };
            if Arc::ptr_eq(residue, &one) {
                *AGAIN.lock() = (lend(residue) as usize, key, 0);
            }
            // SAFETY: as above; the value is a number to its destructor.
            unsafe { (HOST_SHIM.key_set)(lend(residue), key, 8 as *const ()) };
        }
        one.ask();
        threads::flush_if_asked();
        threads::flush_if_asked();
        assert_eq!((one.locals(), other.locals()), (0, 0));
        assert_eq!(OTHERS.load(SeqCst), 1);
        one.no_longer_asks();
        other.no_longer_asks();
    })
    .join()
    .unwrap();
}

#[test]
fn a_thread_that_owes_nothing_any_more_keeps_nobodys_runtime_also_when_it_was_forgotten() {
    struct Kept;
    impl Nudge for Kept {
        fn nudge(&self, _: usize, _: bool, _: &Arc<()>) {}
        fn identity(&self) -> u64 {
            0
        }
    }
    static RUNTIME: LazyLock<Arc<Kept>> = LazyLock::new(|| Arc::new(Kept));
    let residue = Residue::new("one", 5, 5, || Some(RUNTIME.clone()));
    // SAFETY: the context is that of a residue that lives.
    unsafe { (HOST_SHIM.at_exit)(lend(&residue), note, std::ptr::null_mut()) };
    assert_eq!((residue.locals(), Arc::strong_count(&RUNTIME)), (1, 2));
    residue.forget_locals();
    assert_eq!((residue.locals(), Arc::strong_count(&RUNTIME)), (0, 1));
}

#[test]
fn a_library_that_is_being_closed_or_was_keeps_what_it_was_lent_and_leaves_nothing_for_the_ends_of_threads() {
    let residue = Residue::new("one", 6, 6, || None);
    let context = lend(&residue);
    assert_eq!(lend(&residue), context);
    assert_eq!(Arc::strong_count(&residue), 2, "one for the library");
    residue.begin_closing();
    let mut key = 0;
    // SAFETY: the context is that of a residue that lives.
    unsafe {
        (HOST_SHIM.at_exit)(context, note, std::ptr::null_mut());
        assert_eq!((HOST_SHIM.key_create)(context, &raw mut key, Some(note)), 0);
        assert_eq!((HOST_SHIM.key_set)(context, key, 8 as *const ()), 0);
    }
    assert_eq!(sys::threads::key_get(key) as usize, 8, "it is set all the same");
    assert_eq!((residue.locals(), residue.debtors().threads), (0, vec![]));
    residue.bury();
    residue.bury();
    assert_eq!(Arc::strong_count(&residue), 1);
}
