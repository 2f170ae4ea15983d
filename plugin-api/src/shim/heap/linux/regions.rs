//! Where regions come from: the host once there is one, `mmap` before.

use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
};

use super::{super::RegionSource, lock::Locked, sys};

/// How many regions from before the host are remembered, to be handed over to it.
const EARLY: usize = 64;

pub(super) struct Regions {
    attached: AtomicBool,
    /// Written once, under the lock of `early`, before `attached` is set.
    source: UnsafeCell<Option<RegionSource>>,
    mapped: AtomicUsize,
    early: Locked<Early>,
}

// SAFETY: `source` is read only once `attached` says that it will not be written again; and what it holds may
// be used from every thread, which `RegionSource` asks of a host.
unsafe impl Sync for Regions {}

struct Early {
    count: usize,
    regions: [(usize, usize); EARLY],
}

impl Early {
    fn remember(&mut self, start: *mut u8, len: usize) {
        if self.count < EARLY {
            self.regions[self.count] = (start.expose_provenance(), len);
            self.count += 1;
        }
    }

    fn forget(&mut self, start: *mut u8) {
        let known = &self.regions[..self.count];
        if let Some(place) = known.iter().position(|&(known, _)| known == start.addr()) {
            self.count -= 1;
            self.regions[place] = self.regions[self.count];
        }
    }
}

impl Regions {
    pub(super) const fn new() -> Self {
        Self {
            attached: AtomicBool::new(false),
            source: UnsafeCell::new(None),
            mapped: AtomicUsize::new(0),
            early: Locked::new(Early { count: 0, regions: [(0, 0); EARLY] }),
        }
    }

    /// The host, once it is attached.
    pub(super) fn source(&self) -> Option<RegionSource> {
        if self.attached.load(Acquire) {
            // SAFETY: nobody writes it after `attached` was set.
            unsafe { *self.source.get() }
        } else {
            None
        }
    }

    pub(super) fn mapped(&self) -> usize {
        self.mapped.load(Relaxed)
    }

    /// Puts the host in place and hands over the regions so far. A second call does nothing.
    pub(super) fn attach(&self, source: RegionSource) {
        self.early.with(|early| {
            if self.attached.load(Relaxed) {
                return;
            }
            for &(start, len) in &early.regions[..early.count] {
                let start = std::ptr::with_exposed_provenance_mut(start);
                // SAFETY: a region of ours, which nobody can give back while this lock is held.
                unsafe { (source.adopt)(source.context, start, len) };
            }
            early.count = 0;
            // SAFETY: nobody reads it before `attached` is set, and the lock keeps other writers out.
            unsafe { *self.source.get() = Some(source) };
            self.attached.store(true, Release);
        });
    }

    /// Zeroed memory, or null. `len` is a multiple of the page size.
    pub(super) fn map(&self, len: usize) -> *mut u8 {
        let start = match self.source() {
            // SAFETY: the host takes every multiple of the page size.
            Some(source) => unsafe { (source.map)(source.context, len) },
            None => self.map_early(len),
        };
        if !start.is_null() {
            self.mapped.fetch_add(len, Relaxed);
        }
        start
    }

    fn map_early(&self, len: usize) -> *mut u8 {
        let start = sys::map(len);
        if !start.is_null() {
            self.early.with(|early| match self.source() {
                None => early.remember(start, len),
                // The host has come between the two lines.
                // SAFETY: a region of ours that it does not know.
                Some(source) => unsafe { (source.adopt)(source.context, start, len) },
            });
        }
        start
    }

    /// # Safety
    /// A whole region, as it was mapped, that nobody uses any more.
    pub(super) unsafe fn unmap(&self, start: *mut u8, len: usize) {
        self.mapped.fetch_sub(len, Relaxed);
        let source = self.source().or_else(|| {
            self.early.with(|early| {
                let source = self.source();
                if source.is_none() {
                    early.forget(start);
                }
                source
            })
        });
        match source {
            // SAFETY: the caller's promise.
            Some(source) => unsafe { (source.unmap)(source.context, start, len) },
            // SAFETY: the caller's promise; with no host it came from `sys::map`.
            None => unsafe { sys::unmap(start, len) },
        }
    }

    /// Null when it can't be done; the region then stays as it was.
    ///
    /// # Safety
    /// A whole region, as it was mapped, whose old address nobody uses afterwards.
    pub(super) unsafe fn remap(&self, start: *mut u8, len: usize, new_len: usize) -> *mut u8 {
        let moved = match self.source() {
            // SAFETY: the caller's promise.
            Some(source) => unsafe { (source.remap)(source.context, start, len, new_len) },
            // Under the lock, so that no host comes to be told of an address that is no longer true.
            None => self.early.with(|early| {
                if let Some(source) = self.source() {
                    // SAFETY: the caller's promise.
                    return unsafe { (source.remap)(source.context, start, len, new_len) };
                }
                // SAFETY: the caller's promise; with no host it came from `sys::map`.
                let moved = unsafe { sys::remap(start, len, new_len) };
                if !moved.is_null() {
                    early.forget(start);
                    early.remember(moved, new_len);
                }
                moved
            }),
        };
        if !moved.is_null() {
            // Wraps when it shrinks, and comes out right.
            self.mapped.fetch_add(new_len.wrapping_sub(len), Relaxed);
        }
        moved
    }
}
