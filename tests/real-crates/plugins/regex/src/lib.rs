//! Searches and replaces with `regex`: its caches are pools keyed by thread.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use common::check;
use oxide_plugin_api::prelude::*;
use regex::{Regex, RegexSet};

/// Used from all threads, as programs do.
static DATE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?<year>\d{4})-(?<month>\d\d)-(?<day>\d\d)").expect("a valid pattern"));

fn search(seed: u64) -> Result<()> {
    let text = format!("from 2024-02-29 to 2025-01-{:02}, ünïcode", seed % 28 + 1);
    check(DATE.find_iter(&text).count() == 2, "the number of dates")?;
    let turned = DATE.replace_all(&text, "$day.$month.$year");
    check(turned.starts_with("from 29.02.2024 to "), "the replacement")?;
    let set = RegexSet::new([r"\bto\b", r"\p{Greek}", r"(?i)ÜNÏ\w+$"])?;
    check(set.matches(&text).into_iter().eq([0, 2]), "the set")
}

common::stateless!(search);
