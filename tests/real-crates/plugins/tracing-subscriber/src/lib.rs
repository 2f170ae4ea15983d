//! Formats a log of its own with `tracing-subscriber`, set for a scope: the global default is the bridge to the
//! host, and is not to be had.
#![forbid(unsafe_code)]

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use common::check;
use oxide_plugin_api::prelude::*;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, registry::Registry};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(seed: u64) -> Result<()> {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let subscriber = Registry::default().with(layer.with_filter(EnvFilter::try_new("info")?));
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("outer", seed);
        let _entered = span.enter();
        tracing::info_span!("inner").in_scope(|| tracing::warn!(answer = 42, "formatted"));
        tracing::debug!("filtered out");
    });
    // This one goes to the host.
    tracing::info!(seed, "outside of the scope");
    let taken = Registry::default().with(fmt::layer());
    check(tracing::subscriber::set_global_default(taken).is_err(), "that the bridge can be replaced")?;
    let text = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = String::from_utf8(text)?;
    check(text.contains("inner") && text.contains("formatted answer=42"), "what was formatted")?;
    check(text.lines().count() == 1, "the number of lines")
}

common::stateless!(log);
