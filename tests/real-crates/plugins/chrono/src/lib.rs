//! Reads the clock, the local time zone and dates with `chrono`, which caches the zone in a thread-local.
#![forbid(unsafe_code)]

use chrono::{DateTime, Days, Local, NaiveDate, TimeDelta, TimeZone, Utc};
use common::check;
use oxide_plugin_api::prelude::*;

fn calculate(seed: u64) -> Result<()> {
    let now = Local::now();
    let again = DateTime::parse_from_rfc3339(&now.to_rfc3339())?;
    check(again == now, "the parsed time")?;
    check(Utc::now() - now.with_timezone(&Utc) < TimeDelta::seconds(60), "the clock")?;
    let leap = NaiveDate::from_ymd_opt(2024, 2, 28).and_then(|day| day.checked_add_days(Days::new(1)));
    check(leap.is_some_and(|day| day.format("%d.%m.%Y").to_string() == "29.02.2024"), "the leap day")?;
    let then = Local.timestamp_opt((seed % 1_000_000_000) as i64, 0).single();
    check(then.is_some(), "the local time")
}

common::stateless!(calculate);
