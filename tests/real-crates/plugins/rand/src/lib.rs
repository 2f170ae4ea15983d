//! Throws dice with `rand`, whose generator is a thread-local with a destructor.
#![forbid(unsafe_code)]

use common::check;
use oxide_plugin_api::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

fn throw(seed: u64) -> Result<()> {
    let mut rng = rand::rng();
    let sum: u32 = (0..1_000).map(|_| rng.random_range(1..=6_u32)).sum();
    check((3_000..4_000).contains(&sum), "the sum of the dice")?;
    let mut cards: Vec<u8> = (0..52).collect();
    cards.shuffle(&mut rng);
    cards.sort_unstable();
    check(cards.iter().copied().eq(0..52), "the deck")?;
    let (mut one, mut other) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed));
    check(one.random::<u64>() == other.random::<u64>(), "the seeded generator")
}

common::stateless!(throw);
