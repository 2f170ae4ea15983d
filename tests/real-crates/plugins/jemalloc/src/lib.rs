//! Allocates with `jemalloc`, built with the feature `disable_initial_exec_tls`: without it, its thread-locals would
//! want static room that a library opened late does not get.

use std::{collections::HashMap, thread};

use common::check;
use oxide_plugin_api::prelude::*;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn allocate(seed: u64) -> Result<()> {
    let words = |from: u64| -> HashMap<u64, String> {
        (from % 1_000_000..from % 1_000_000 + 500).map(|n| (n, n.to_string())).collect()
    };
    let mine = words(seed);
    // Allocated by one thread, freed by another.
    let theirs = thread::spawn(move || words(seed)).join().map_err(|_| Error::new("the thread panicked"))?;
    check(mine == theirs, "what the thread made")?;
    let mut large = vec![0_u8; 100 << 10];
    large[(seed % 1_000) as usize] = 1;
    large.resize(300 << 10, 2);
    check(large.iter().map(|byte| u64::from(*byte)).sum::<u64>() == 1 + (400 << 10), "the large buffer")
}

common::stateless!(allocate, allocator = none);
