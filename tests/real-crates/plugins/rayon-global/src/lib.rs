//! Sorts on `rayon`'s global pool, whose threads never end: it can't be unmapped.
#![forbid(unsafe_code)]

use common::check;
use oxide_plugin_api::prelude::*;
use rayon::prelude::*;

fn sort(seed: u64) -> Result<()> {
    let mut numbers: Vec<u64> = (0..5_000_u64).map(|n| n.wrapping_mul(seed | 1) % 9_973).collect();
    numbers.par_sort_unstable();
    check(numbers.is_sorted(), "the order")?;
    let sum: u64 = numbers.par_iter().map(|n| n * 2).sum();
    check(sum == numbers.iter().sum::<u64>() * 2, "the sum")
}

common::stateless!(sort);
