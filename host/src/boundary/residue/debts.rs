//! What a generation is owed by threads: asking them to come by, who has not, and leaving it at that.

use std::{
    ptr,
    sync::{
        Arc,
        atomic::Ordering::{Release, SeqCst},
    },
};

use super::{
    Nudge, Residue,
    threads::{ASKED, RECORDS, Record},
};
use crate::sys::words;

/// Which threads owe destructors.
pub(crate) struct Debtors {
    /// (number, how many)
    pub(crate) threads: Vec<(u32, usize)>,
    pub(crate) nudges: Vec<(Arc<dyn Nudge>, usize)>,
}

impl Residue {
    /// Asks all threads to come by. Until `no_longer_asks`, each that does runs what it owes.
    pub(crate) fn ask(self: &Arc<Self>) {
        if !self.leaving.swap(true, SeqCst) {
            ASKED.fetch_add(1, SeqCst);
        }
        for record in RECORDS.lock().iter().filter(|record| record.owes(self) > 0) {
            record.asked.store(true, Release);
        }
    }

    /// Nobody is waited for any more.
    pub(crate) fn no_longer_asks(&self) {
        if self.leaving.swap(false, SeqCst) {
            ASKED.fetch_sub(1, SeqCst);
        }
    }

    /// Who owes destructors.
    pub(crate) fn debtors(self: &Arc<Self>) -> Debtors {
        let mut debtors = Debtors { threads: Vec::new(), nudges: Vec::new() };
        for record in RECORDS.lock().iter() {
            let owes = record.owes(self);
            if owes == 0 {
                continue;
            }
            debtors.threads.push((record.number, owes));
            if let Some(nudge) = record.list.lock().nudge.clone() {
                match debtors.nudges.iter_mut().find(|(known, _)| known.identity() == nudge.identity()) {
                    Some((_, threads)) => *threads += 1,
                    None => debtors.nudges.push((nudge, 1)),
                }
            }
        }
        debtors
    }

    /// The numbers of the threads that it started and that are known by now.
    pub(crate) fn own_threads(self: &Arc<Self>) -> Vec<u32> {
        let records = RECORDS.lock();
        let is_mine = |record: &&Arc<Record>| {
            record.list.lock().started_by.as_ref().is_some_and(|by| Arc::ptr_eq(by, self))
        };
        records.iter().filter(is_mine).map(|record| record.number).collect()
    }

    /// Leaves all of its destructors unrun. Memory-safe, but what their objects own stays; tells how many.
    pub(crate) fn forget_locals(self: &Arc<Self>) -> usize {
        let records = RECORDS.lock().clone();
        records.iter().map(|record| record.forget(|residue| ptr::eq(residue, Arc::as_ptr(self)))).sum()
    }

    /// Takes its releases off all lists, and back what those threads keep for its heap; `before` comes before
    /// that. Until then no thread that has a release ends, so that what its heap has on that thread is there, and
    /// none runs one. To be called when nobody is inside.
    pub(crate) fn forget_at_ends<R>(self: &Arc<Self>, before: impl FnOnce() -> R) -> R {
        let _quiet = self.releases.lock();
        let result = before();
        let records = RECORDS.lock().clone();
        for record in records {
            let gone: Vec<_> = {
                let mut list = record.list.lock();
                let gone: Vec<_> =
                    list.at_end.extract_if(.., |entry| Arc::ptr_eq(&entry.residue, self)).collect();
                if let (Some(words), Some(word)) = (&list.words, *self.word.lock()) {
                    // SAFETY: the thread has not ended, or it would have taken its words back; nobody is
                    // inside the generation whose word it is.
                    unsafe { words::clear(words.0, word) };
                }
                gone
            };
            drop(gone);
        }
        result
    }
}
