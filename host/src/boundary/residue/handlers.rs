//! The signal handlers that a generation has installed.

use std::{collections::HashMap, ffi::c_int};

use crate::sys::signals;

/// What each signal's handler was before the generation first changed it: `None` when there was none. The
/// outer `None` means that nobody looked.
#[derive(Debug, Default)]
pub(crate) struct Handlers(HashMap<c_int, Option<Option<usize>>>);

impl Handlers {
    /// It has changed this signal's handler, which was `before`.
    pub(crate) fn changed(&mut self, signal: c_int, before: Option<usize>) {
        self.0.entry(signal).or_insert(Some(before));
        // Put back by itself: as if it had never been there.
        if self.0.get(&signal) == Some(&Some(signals::handler(signal))) {
            self.0.remove(&signal);
        }
    }

    /// It may have changed this signal's handler before anybody looked.
    pub(crate) fn touched(&mut self, signal: c_int) {
        if signals::handler(signal).is_some() {
            self.0.entry(signal).or_insert(None);
        }
    }

    /// Whatever still leads, or may lead, to the image at `base`, in words.
    pub(crate) fn holding(&mut self, base: usize) -> Vec<String> {
        // Put back by whoever it was: nobody can have chained to it in between and be left.
        self.0.retain(|signal, before| *before != Some(signals::handler(*signal)));
        (1..signals::SIGNALS)
            .filter_map(|signal| {
                let present = signals::handler(signal)?;
                if signals::image_of(present) == Some(base) {
                    Some(format!("the handler of signal {signal}"))
                } else if self.0.contains_key(&signal) {
                    Some(format!("its handler of signal {signal}, which another one was put over"))
                } else {
                    None
                }
            })
            .collect()
    }
}
