//! Counts in a `dashmap` that all calls share.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use common::check;
use dashmap::DashMap;
use oxide_plugin_api::prelude::*;

static COUNTS: LazyLock<DashMap<String, u64>> = LazyLock::new(DashMap::new);

fn count(seed: u64) -> Result<()> {
    for n in 0..200 {
        *COUNTS.entry(format!("key {}", (seed ^ n) % 64)).or_default() += 1;
    }
    COUNTS.remove(&format!("key {}", seed % 64));
    check(COUNTS.iter().map(|entry| *entry.value()).sum::<u64>() > 0, "the sum")?;
    COUNTS.retain(|_, count| *count < 1_000);
    check(COUNTS.len() <= 64, "the number of keys")
}

common::stateless!(count);
