//! In the place of the host's `sys/`: the pair of barriers, in two models.

pub(crate) mod barrier {
    use std::cell::Cell;

    use crate::boundary::sync::{
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, SeqCst},
            fence,
        },
        global,
    };

    /// What the pair of barriers is made of.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Barriers {
        /// A full fence on both sides: the host's fallback.
        Fences,
        /// `membarrier(2)`: see the crate's documentation.
        Asymmetric,
    }

    /// At most so many threads use the barriers.
    const THREADS: usize = 4;

    struct Places([AtomicUsize; THREADS]);

    global! {
        static PLACES: Places = Places(std::array::from_fn(|_| AtomicUsize::new(0)));
    }

    std::thread_local! {
        static BARRIERS: Cell<Barriers> = const { Cell::new(Barriers::Fences) };
        static DEALT: Cell<usize> = const { Cell::new(0) };
    }

    loom::thread_local! {
        static PLACE: usize = DEALT.replace(DEALT.get() + 1);
    }

    /// Begins an execution. On its main thread.
    pub(crate) fn begin(barriers: Barriers) {
        BARRIERS.set(barriers);
        DEALT.set(0);
        let _ = &*PLACES;
    }

    pub(crate) fn prepare() {}

    pub(crate) fn light() {
        match BARRIERS.get() {
            Barriers::Fences => fence(SeqCst),
            Barriers::Asymmetric => {
                PLACE.with(|place| PLACES.0[*place].fetch_add(1, AcqRel));
            }
        }
    }

    pub(crate) fn heavy() {
        fence(SeqCst);
        if BARRIERS.get() == Barriers::Asymmetric {
            for place in &PLACES.0 {
                place.fetch_add(1, AcqRel);
            }
        }
    }
}
