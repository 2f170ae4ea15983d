//! Writes and reads JSON with `serde_json`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use common::check;
use oxide_plugin_api::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    number: u64,
    lines: Vec<Line>,
    notes: BTreeMap<String, Option<String>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Item { name: String, price: f64 },
    Discount { percent: i8 },
}

fn round_trip(seed: u64) -> Result<()> {
    let item = |n: u64| Line::Item { name: format!("thing \"{n}\" ü"), price: n as f64 / 4.0 };
    let mut lines: Vec<Line> = (0..50).map(item).collect();
    lines.push(Line::Discount { percent: -3 });
    let notes = [("first".to_owned(), None), ("second".to_owned(), Some("line\nbreak".to_owned()))];
    let order = Order { number: seed, lines, notes: notes.into() };
    let text = serde_json::to_string_pretty(&order)?;
    check(serde_json::from_str::<Order>(&text)? == order, "what was read back")?;
    let value: serde_json::Value = serde_json::from_slice(text.as_bytes())?;
    check(value["lines"][50]["percent"] == -3, "the value")?;
    check(serde_json::from_str::<Order>("{\"number\": -1}").is_err(), "the answer to nonsense")
}

common::stateless!(round_trip);
