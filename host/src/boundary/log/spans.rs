//! The spans that one generation has open, by the numbers the plugin knows them by.
#![forbid(unsafe_code)]

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use oxide_plugin_api::ffi::host_table::span_step;
use parking_lot::Mutex;
use tracing_core::{Dispatch, dispatcher, span::Id};

use super::{callsite::Callsite, guarded};

/// A generation that never closes its spans stops getting new ones here.
const MAX_OPEN: usize = 1 << 18;

/// A span of the host's subscriber; closed with the last reference, never under the table's lock.
pub(super) struct OpenSpan {
    dispatch: Dispatch,
    id: Id,
    callsite: &'static Callsite,
}

impl OpenSpan {
    pub(super) fn new(dispatch: Dispatch, id: Id, callsite: &'static Callsite) -> Self {
        Self { dispatch, id, callsite }
    }

    pub(super) fn id(&self) -> Id {
        self.id.clone()
    }

    pub(super) fn callsite(&self) -> &'static Callsite {
        self.callsite
    }

    /// Runs `body` with the dispatcher that made the span, as the thread's default too: a registry closes
    /// parents through the default, whichever that is.
    pub(super) fn within<R>(&self, body: impl FnOnce(&Dispatch, &Id) -> R) -> R {
        dispatcher::with_default(&self.dispatch, || body(&self.dispatch, &self.id))
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        guarded(|| self.within(|dispatch, id| dispatch.try_close(id.clone())));
    }
}

/// The open spans. Steps that would make no sense to a subscriber do not reach it.
#[derive(Default)]
pub(super) struct SpanTable {
    revoked: AtomicBool,
    /// As many as `open` holds.
    count: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    slots: HashMap<u64, Slot>,
}

struct Slot {
    span: Arc<OpenSpan>,
    /// The plugin's references. At 0 the slot only waits for threads to come out.
    references: usize,
    /// Which threads are inside, and how many times.
    inside: Vec<(u64, usize)>,
}

impl Slot {
    fn enter(&mut self, thread: u64) {
        match self.inside.iter_mut().find(|(known, _)| *known == thread) {
            Some((_, times)) => *times += 1,
            None => self.inside.push((thread, 1)),
        }
    }

    /// False when the thread is not inside.
    fn exit(&mut self, thread: u64) -> bool {
        let Some(at) = self.inside.iter().position(|(known, _)| *known == thread) else { return false };
        self.inside[at].1 -= 1;
        if self.inside[at].1 == 0 {
            self.inside.swap_remove(at);
        }
        true
    }

    fn is_over(&self) -> bool {
        self.references == 0 && self.inside.is_empty()
    }
}

impl SpanTable {
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(super) fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= MAX_OPEN
    }

    /// Keeps a span and gives its number; none when the table is revoked, and the span is closed.
    pub(super) fn add(&self, span: OpenSpan) -> Option<u64> {
        let slot = Slot { span: Arc::new(span), references: 1, inside: Vec::new() };
        let mut open = self.open.lock();
        if self.is_revoked() {
            drop(open);
            drop(slot);
            return None;
        }
        open.last += 1;
        let number = open.last;
        open.slots.insert(number, slot);
        self.count.store(open.slots.len(), Ordering::Relaxed);
        Some(number)
    }

    /// The span of that number, if the plugin still refers to it.
    pub(super) fn get(&self, number: u64) -> Option<Arc<OpenSpan>> {
        let open = self.open.lock();
        open.slots.get(&number).filter(|slot| slot.references > 0).map(|slot| slot.span.clone())
    }

    /// Does one step. In a revoked table only threads that are inside can still come out.
    pub(super) fn step(&self, number: u64, step: u8) -> u8 {
        let thread = this_thread();
        // Perhaps the last reference, and then dropped after the lock is given back.
        let span;
        let mut answer = 0;
        {
            let mut open = self.open.lock();
            let Some(slot) = open.slots.get_mut(&number) else { return 0 };
            let legal = match step {
                span_step::EXIT => slot.exit(thread),
                _ if slot.references == 0 => false,
                span_step::ENTER => {
                    slot.enter(thread);
                    true
                }
                span_step::CLONE => {
                    slot.references += 1;
                    true
                }
                span_step::CLOSE => {
                    slot.references -= 1;
                    answer = u8::from(slot.references == 0);
                    true
                }
                _ => false,
            };
            if !legal {
                return 0;
            }
            span = slot.span.clone();
            if slot.is_over() {
                open.slots.remove(&number);
                self.count.store(open.slots.len(), Ordering::Relaxed);
            }
        }
        match step {
            span_step::ENTER => span.within(Dispatch::enter),
            span_step::EXIT => span.within(Dispatch::exit),
            // The subscriber's span has one reference, ours.
            _ => {}
        }
        answer
    }

    pub(super) fn count(&self) -> usize {
        self.open.lock().slots.len()
    }

    /// Closes everything and says how much was open.
    pub(super) fn revoke(&self) -> usize {
        let thread = this_thread();
        let mut closed = 0;
        let mut leave = Vec::new();
        let mut removed = Vec::new();
        {
            let mut open = self.open.lock();
            self.revoked.store(true, Ordering::Release);
            for (&number, slot) in &mut open.slots {
                closed += usize::from(slot.references > 0);
                slot.references = 0;
                while slot.exit(thread) {
                    leave.push((number, slot.span.clone()));
                }
            }
            removed.extend(open.slots.extract_if(|_, slot| slot.is_over()));
            self.count.store(open.slots.len(), Ordering::Relaxed);
        }
        // The innermost first, as far as the numbers tell.
        leave.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        for (_, span) in leave {
            guarded(|| span.within(Dispatch::exit));
        }
        removed.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        drop(removed);
        closed
    }
}

/// A number for the present thread that is never used again; it needs no destructor, so it works while the
/// thread's locals are being destroyed.
fn this_thread() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    thread_local!(static NUMBER: Cell<u64> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        number.get()
    })
}
