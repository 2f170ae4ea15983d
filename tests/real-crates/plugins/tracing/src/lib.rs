//! Logs with `tracing` and nothing else: plugin-api's bridge, the plugin's global default, takes it to the host.
#![forbid(unsafe_code)]

use common::check;
use oxide_plugin_api::prelude::*;
use tracing::{Span, debug, info_span, instrument, trace, warn};

#[instrument(level = "info", skip(depth))]
fn nested(seed: u64, depth: u32) -> u64 {
    trace!(depth, "going down");
    if depth == 0 { seed } else { nested(seed ^ u64::from(depth), depth - 1) }
}

fn log(seed: u64) -> Result<()> {
    let span = info_span!("use", seed, found = tracing::field::Empty);
    let _entered = span.enter();
    let found = nested(seed, 4);
    Span::current().record("found", found);
    debug!(?found, "found it");
    warn!(error = %std::io::Error::other("made up"), "nothing is wrong");
    check(found == seed ^ 4 ^ 3 ^ 2 ^ 1, "the number")
}

common::stateless!(log);
