//! What one piece of work takes, and how such figures are printed.

use std::{
    thread,
    time::{Duration, Instant},
};

/// What leaves work to others, such as the removal of a file, has time for that before and after.
const PAUSE: Duration = Duration::from_millis(2);

/// What a piece of work takes, in microseconds.
pub(crate) struct Took {
    /// Until it is done.
    pub(crate) wall: f64,
    /// Of all processors, with what it leaves to others.
    pub(crate) processors: f64,
}

/// Does a piece of work.
pub(crate) fn time(work: impl FnOnce()) -> Took {
    thread::sleep(PAUSE);
    let (processors, began) = (used(), Instant::now());
    work();
    let wall = began.elapsed();
    thread::sleep(PAUSE);
    let processors = used() - processors;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    Took { wall: micros(wall), processors: micros(processors) }
}

/// The time that this process has had of all processors.
fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Prints the middle of some figures.
pub(crate) fn say(what: &str, figures: impl IntoIterator<Item = f64>) {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let at = |share: usize| figures[figures.len() * share / 4];
    println!("{what}: median {:.2}, quartiles {:.2} and {:.2}", at(2), at(1), at(3));
}

/// Prints what pairs took: ours, and what was done by hand as it is described.
pub(crate) fn compare(by_hand: &str, pairs: &[(Took, Took)]) {
    say("  ours, in µs", pairs.iter().map(|pair| pair.0.wall));
    say(&format!("  {by_hand} by hand, in µs"), pairs.iter().map(|pair| pair.1.wall));
    say("  ratio", pairs.iter().map(|pair| pair.0.wall / pair.1.wall));
    say("  ratio of the processors' time", pairs.iter().map(|pair| pair.0.processors / pair.1.processors));
}
