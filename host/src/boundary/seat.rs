//! How a caller gets into the present generation of a module without a lock: seats and routes.
//!
//! A seat holds a gate and a pointer to the generation that sits in it. Seats are never freed, only used
//! again, so a caller may count itself in at a seat's gate before it knows whether the seat is still the
//! module's: if it is not, it leaves again and looks anew. That makes an entry one count and three loads.

use std::{marker::PhantomData, ops::Deref, ptr};

use super::{
    gate::{Gate, Pass},
    sync::{
        Arc, CALL_SLOTS, Mutex,
        atomic::{AtomicPtr, Ordering::SeqCst},
    },
};

/// A place for one generation, with the gate that its calls go through.
#[derive(Debug)]
pub(crate) struct Seat<T> {
    gate: Gate<CALL_SLOTS>,
    /// From `Arc::into_raw` while occupied.
    occupant: AtomicPtr<T>,
}

/// The seats that nobody sits in.
#[derive(Debug)]
pub(crate) struct Seats<T: 'static>(Mutex<Vec<&'static Seat<T>>>);

impl<T: Send + Sync + 'static> Seats<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Gives `occupant` a seat, its gate shut.
    pub(crate) fn take(&self, occupant: Arc<T>) -> &'static Seat<T> {
        let free = self.0.lock().pop();
        let seat = free.unwrap_or_else(|| {
            Box::leak(Box::new(Seat {
                gate: Gate::shut_from_the_start(),
                occupant: AtomicPtr::new(ptr::null_mut()),
            }))
        });
        seat.occupant.store(Arc::into_raw(occupant).cast_mut(), SeqCst);
        seat
    }

    /// Takes a seat back whose gate is drained and that no route leads to. Otherwise it stays occupied for
    /// good, which is what a retained generation wants.
    pub(crate) fn give_back(&self, seat: &'static Seat<T>) -> bool {
        if !seat.gate.is_drained() {
            return false;
        }
        let occupant = seat.occupant.swap(ptr::null_mut(), SeqCst);
        if occupant.is_null() {
            return false;
        }
        // SAFETY: `take` stored it from `Arc::into_raw`, the swap took it once, and the drained gate says
        // that no `Inside` borrows it.
        drop(unsafe { Arc::from_raw(occupant.cast_const()) });
        self.0.lock().push(seat);
        true
    }
}

impl<T> Seat<T> {
    /// The gate that this seat's calls go through.
    pub(crate) fn gate(&self) -> &Gate<CALL_SLOTS> {
        &self.gate
    }
}

/// Leads from a module to the seat of its present generation.
#[derive(Debug)]
pub(crate) struct Route<T: 'static> {
    seat: AtomicPtr<Seat<T>>,
    _seat: PhantomData<&'static Seat<T>>,
}

impl<T: Send + Sync + 'static> Route<T> {
    pub(crate) fn to(seat: &'static Seat<T>) -> Self {
        Self { seat: AtomicPtr::new(ptr::from_ref(seat).cast_mut()), _seat: PhantomData }
    }

    /// The seat it leads to now; `None` after `close`.
    #[inline]
    pub(crate) fn seat(&self) -> Option<&'static Seat<T>> {
        // SAFETY: only `to`, `lead_to` and `close` write it: null, or from a reference to a seat; seats are
        // never freed.
        unsafe { self.seat.load(SeqCst).as_ref() }
    }

    /// Leads to another seat from now on: a swap. Whoever is inside the old one stays there.
    pub(crate) fn lead_to(&self, seat: &'static Seat<T>) {
        self.seat.store(ptr::from_ref(seat).cast_mut(), SeqCst);
    }

    /// Leads nowhere from now on. To be done before its seat is given back.
    pub(crate) fn close(&self) {
        self.seat.store(ptr::null_mut(), SeqCst);
    }

    /// Goes into the present generation, unless its gate is shut.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Inside<T>> {
        loop {
            let seat = self.seat()?;
            let Some(pass) = seat.gate.enter() else {
                // Shut because the route leads elsewhere by now? Then that way.
                if self.leads_to(seat) {
                    return None;
                }
                continue;
            };
            let inside = Inside { seat, pass };
            // The seat may have gone to another module between the load and the count; then the route had
            // been changed before, and this load, which comes after, sees it.
            if self.leads_to(seat) {
                return Some(inside);
            }
        }
    }

    /// Goes in although the gate is shut, from inside a call of the same generation.
    pub(crate) fn enter_nested(&self, is_same: impl Fn(&T) -> bool) -> Option<Inside<T>> {
        let seat = self.seat()?;
        let pass = seat.gate.enter_nested()?;
        let inside = Inside { seat, pass };
        (self.leads_to(seat) && is_same(&inside)).then_some(inside)
    }

    #[inline]
    fn leads_to(&self, seat: &'static Seat<T>) -> bool {
        ptr::eq(self.seat.load(SeqCst), seat)
    }
}

/// A ticket: while it lives, the generation stays. Leaves by being dropped.
#[derive(Debug)]
pub(crate) struct Inside<T: 'static> {
    seat: &'static Seat<T>,
    pass: Pass,
}

impl<T> Deref for Inside<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the gate counts this ticket, `give_back` takes an occupant only from a drained gate, and
        // a gate is opened only while its seat is occupied.
        unsafe { &*self.seat.occupant.load(SeqCst) }
    }
}

impl<T> Drop for Inside<T> {
    #[inline]
    fn drop(&mut self) {
        self.seat.gate.leave(self.pass);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    #[test]
    fn a_route_leads_to_the_present_generation_only() {
        static SEATS: LazyLock<Seats<u32>> = LazyLock::new(Seats::new);
        let old = SEATS.take(Arc::new(1));
        let route = Route::to(old);
        assert!(route.enter().is_none());
        old.gate().open();
        let ticket = route.enter().unwrap();
        assert_eq!(*ticket, 1);
        old.gate().shut();
        assert!(!SEATS.give_back(old));
        assert!(route.enter().is_none());
        let nested = route.enter_nested(|&generation| generation == 1).unwrap();
        drop(ticket);
        assert!(!SEATS.give_back(old));
        drop(nested);
        let new = SEATS.take(Arc::new(3));
        new.gate().open();
        route.lead_to(new);
        assert_eq!(*route.enter().unwrap(), 3);
        route.close();
        assert!(SEATS.give_back(old));
        assert!(route.enter().is_none());
        assert!(ptr::eq(SEATS.take(Arc::new(2)), old));
    }
}
