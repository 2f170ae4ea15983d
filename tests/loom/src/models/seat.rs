//! Seats and routes. A generation that was given back is written to, so that loom sees whoever still uses it.

use loom::{
    future::block_on,
    sync::Arc,
    thread::{self, JoinHandle},
};

use std::task::Poll;

use crate::{
    boundary::{
        hold::{Entered, Hold},
        seat::{Inside, Route, Seat, Seats},
    },
    watched::Watched,
};

/// A generation.
struct Occupant {
    number: u32,
    there: Watched,
}

impl Occupant {
    fn new(number: u32) -> Arc<Self> {
        Arc::new(Self { number, there: Watched::default() })
    }
}

fn look(inside: &Inside<Occupant>) -> u32 {
    inside.there.used();
    inside.number
}

/// Shuts the seat's gate, gives the seat back as soon as that is accepted, and has the occupant go.
fn vacate(seats: &Seats<Occupant>, seat: &'static Seat<Occupant>, occupant: &Occupant) {
    seat.gate().shut();
    if !seats.give_back(seat) {
        block_on(seat.gate().drained());
        assert!(seats.give_back(seat), "it is drained");
    }
    occupant.there.goes();
}

fn first(seats: &Seats<Occupant>) -> (Arc<Occupant>, &'static Seat<Occupant>, Arc<Route<Occupant>>) {
    let occupant = Occupant::new(1);
    let seat = seats.take(occupant.clone());
    seat.gate().open();
    let route = Arc::new(Route::to(seat));
    // Deals the main thread's slot.
    assert!(route.enter().is_some());
    (occupant, seat, route)
}

/// The end of a swap with a hold: the state is handed over, and nobody is in the old generation, nor will be.
fn switch(
    seats: &Seats<Occupant>,
    route: &Route<Occupant>,
    hold: &Hold,
    (old, seat): (&Occupant, &'static Seat<Occupant>),
    number: u32,
) -> (Arc<Occupant>, &'static Seat<Occupant>) {
    old.there.goes();
    let new = Occupant::new(number);
    let new_seat = seats.take(new.clone());
    new_seat.gate().open();
    route.lead_to(new_seat);
    hold.end().wake();
    assert!(seats.give_back(seat), "it is drained");
    (new, new_seat)
}

fn spawn<R: Send + 'static>(
    route: &Arc<Route<Occupant>>,
    body: impl FnOnce(&Route<Occupant>) -> R + Send + 'static,
) -> JoinHandle<R> {
    let route = route.clone();
    thread::spawn(move || body(&route))
}

/// The module goes while `callers` come; its seat is given to another one, whose gate is open. A caller gets
/// into the first or nowhere.
pub fn used_again(callers: usize) {
    let seats = Seats::new();
    let (occupant, seat, route) = first(&seats);
    let callers = Vec::from_iter((0..callers).map(|_| {
        spawn(&route, |route| {
            if let Some(inside) = route.enter() {
                assert_eq!(look(&inside), 1, "a caller of the first module is inside another");
            }
        })
    }));
    route.close();
    vacate(&seats, seat, &occupant);
    let other = Occupant::new(2);
    assert!(std::ptr::eq(seats.take(other.clone()), seat));
    seat.gate().open();
    let other_route = Route::to(seat);
    assert_eq!(other_route.enter().map(|inside| look(&inside)), Some(2));
    other_route.close();
    vacate(&seats, seat, &other);
    for caller in callers {
        let _ = caller.join();
    }
}

/// A swap: the route is led to the seat of the next generation, the old one is drained, and its seat goes to
/// another module. A caller is never turned away and never gets into that.
pub fn switched() {
    let seats = Seats::new();
    let (old, seat, route) = first(&seats);
    let new = Occupant::new(2);
    let new_seat = seats.take(new.clone());
    let callers = [(); 2].map(|()| {
        spawn(&route, |route| {
            let inside = route.enter().expect("one of the two is open");
            assert!(look(&inside) < 3, "a caller of this module is inside another");
        })
    });
    new_seat.gate().open();
    route.lead_to(new_seat);
    vacate(&seats, seat, &old);
    let other = Occupant::new(3);
    assert!(std::ptr::eq(seats.take(other.clone()), seat));
    seat.gate().open();
    for caller in callers {
        let _ = caller.join();
    }
    vacate(&seats, seat, &other);
    vacate(&seats, new_seat, &new);
}

/// A call that comes back on another thread while its outer call ends, its module goes, and the seat goes to
/// another one: it gets into the first or nowhere.
pub fn coming_back() {
    let seats = Seats::new();
    let (occupant, seat, route) = first(&seats);
    let shared = route.clone();
    let caller = spawn(&route, move |route| {
        let Some(outer) = route.enter() else { return };
        let elsewhere = spawn(&shared, |route| {
            if let Some(inner) = route.enter_nested(|occupant| occupant.number == 1) {
                assert_eq!(look(&inner), 1);
            }
        });
        look(&outer);
        drop(outer);
        let _ = elsewhere.join();
    });
    seat.gate().shut();
    block_on(seat.gate().drained());
    route.close();
    vacate(&seats, seat, &occupant);
    let other = Occupant::new(2);
    assert!(std::ptr::eq(seats.take(other.clone()), seat));
    seat.gate().open();
    vacate(&seats, seat, &other);
    let _ = caller.join();
}

/// A call as a handle polls it: into the seat, or into the row.
async fn call(route: &Route<Occupant>, hold: &Hold) -> u32 {
    let mut place = None;
    let inside = std::future::poll_fn(|context| {
        match hold.enter_or_wait(&mut place, context.waker(), || route.enter()) {
            Entered::In(inside) => Poll::Ready(inside),
            Entered::Held => Poll::Pending,
            Entered::Refused => panic!("a call is refused, though its module runs all the time"),
        }
    })
    .await;
    look(&inside)
}

fn calls(route: &Arc<Route<Occupant>>, hold: &Arc<Hold>, number: usize) -> Vec<JoinHandle<u32>> {
    Vec::from_iter((0..number).map(|_| {
        let (route, hold) = (route.clone(), hold.clone());
        thread::spawn(move || block_on(call(&route, &hold)))
    }))
}

/// A swap with a hold: calls wait while the old generation is drained, and go into the new one. The old one's last
/// word comes before the new one's first.
pub fn held_and_switched(callers: usize) {
    let seats = Seats::new();
    let (old, seat, route) = first(&seats);
    let hold = Arc::new(Hold::new(callers));
    let callers = calls(&route, &hold, callers);
    hold.begin();
    seat.gate().shut();
    block_on(seat.gate().drained());
    let (new, new_seat) = switch(&seats, &route, &hold, (&old, seat), 2);
    for caller in callers {
        let _ = caller.join();
    }
    vacate(&seats, new_seat, &new);
}

/// Two swaps with a hold, one after the other: a call that the first one let go may be held by the second.
pub fn held_twice() {
    let seats = Seats::new();
    let (mut old, mut seat, route) = first(&seats);
    let hold = Arc::new(Hold::new(1));
    let caller = calls(&route, &hold, 1);
    for number in [2, 3] {
        hold.begin();
        seat.gate().shut();
        block_on(seat.gate().drained());
        (old, seat) = switch(&seats, &route, &hold, (&old, seat), number);
    }
    for caller in caller {
        assert!(caller.join().is_ok());
    }
    vacate(&seats, seat, &old);
}

/// A call that comes back from inside one of the old generation's calls is let in while that drains: if it were held,
/// the drain would wait for it, and it for the drain.
pub fn held_and_come_back() {
    let seats = Seats::new();
    let (old, seat, route) = first(&seats);
    let hold = Arc::new(Hold::new(2));
    let (its_route, its_hold) = (route.clone(), hold.clone());
    let caller = thread::spawn(move || {
        let Some(outer) = its_route.enter() else { return };
        let number = look(&outer);
        let nested = || its_route.enter_nested(|occupant| occupant.number == number);
        let enter = || its_route.enter().or_else(nested);
        match its_hold.enter_or_wait(&mut None, std::task::Waker::noop(), enter) {
            Entered::In(inner) => assert_eq!(look(&inner), number, "the drain is over before the call"),
            other => panic!("a call that came back was turned away: {}", matches!(other, Entered::Held)),
        }
    });
    hold.begin();
    seat.gate().shut();
    block_on(seat.gate().drained());
    let (new, new_seat) = switch(&seats, &route, &hold, (&old, seat), 2);
    let _ = caller.join();
    vacate(&seats, new_seat, &new);
}

/// A hold that is given up, drained or not: every call goes into the old generation.
pub fn held_and_given_up(callers: usize) {
    let seats = Seats::new();
    let (old, seat, route) = first(&seats);
    let hold = Arc::new(Hold::new(callers));
    let callers = calls(&route, &hold, callers);
    hold.begin();
    seat.gate().shut();
    seat.gate().reopen();
    hold.end().wake();
    for caller in callers {
        assert_eq!(caller.join().ok(), Some(1));
    }
    vacate(&seats, seat, &old);
}

/// A hold that gets full while the old generation is drained, or just when it is: the swap gives up or goes on, and
/// every call goes in once, where the module is then.
pub fn held_and_perhaps_full(callers: usize) {
    let seats = Seats::new();
    let (old, seat, route) = first(&seats);
    let hold = Arc::new(Hold::new(callers - 1));
    let callers = calls(&route, &hold, callers);
    hold.begin();
    seat.gate().shut();
    if block_on(hold.unless_full(seat.gate().drained())).is_none() {
        seat.gate().reopen();
        hold.end().wake();
        for caller in callers {
            assert_eq!(caller.join().ok(), Some(1));
        }
        return vacate(&seats, seat, &old);
    }
    let (new, new_seat) = switch(&seats, &route, &hold, (&old, seat), 2);
    for caller in callers {
        assert!(caller.join().is_ok());
    }
    vacate(&seats, new_seat, &new);
}
