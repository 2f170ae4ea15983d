//! The bus, the log and the clocks as guests have them, whatever their kind.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use oxide_plugin_api::{Error, Event, MessageBus, Result, serde_json, tracing};

use crate::store::Data;

/// The longest message that goes to the log as a whole.
const LONGEST: usize = 8 << 10;

/// Publishes a custom event.
///
/// # Errors
/// When there is no bus yet, the payload is not JSON, or the bus refuses it.
pub(crate) async fn publish(data: &mut Data, module_id: String, kind: String, payload: &str) -> Result<()> {
    let payload = parse(payload)?;
    let bus = of(data)?;
    let since = Instant::now();
    let published = bus.emit_event("", Event::Custom { module_id, kind, payload }).await;
    data.waited(since);
    published.map(drop)
}

/// Calls another module and waits for its answer.
///
/// # Errors
/// As [`publish`], and what the other module says.
pub(crate) async fn request(data: &mut Data, module_id: &str, method: &str, payload: &str) -> Result<String> {
    let payload = parse(payload)?;
    let bus = of(data)?;
    let since = Instant::now();
    let answer = bus.invoke(module_id, method, payload).await;
    data.waited(since);
    answer.map(|answer| answer.to_string())
}

fn of(data: &Data) -> Result<MessageBus> {
    let bus = data.bus.clone();
    bus.ok_or_else(|| {
        Error::new("the bus is not there yet in `metadata` and `configure`: use it from `start` on")
    })
}

fn parse(payload: &str) -> Result<serde_json::Value> {
    serde_json::from_str(payload).map_err(|error| Error::from(error).context("the payload is not JSON"))
}

/// An error in one line, its causes behind it.
pub(crate) fn line(error: &Error) -> String {
    let causes = error.chain().iter().map(|cause| format!(": {cause}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}

/// Writes into the host's log; 1 is an error, 5 is a trace.
pub(crate) fn log(level: u32, message: &str) {
    let end = (0..=LONGEST.min(message.len())).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
    let (message, rest) = message.split_at(end);
    let more = if rest.is_empty() { "" } else { "…" };
    match level {
        0 | 1 => tracing::error!(target: "guest", "{message}{more}"),
        2 => tracing::warn!(target: "guest", "{message}{more}"),
        3 => tracing::info!(target: "guest", "{message}{more}"),
        4 => tracing::debug!(target: "guest", "{message}{more}"),
        _ => tracing::trace!(target: "guest", "{message}{more}"),
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since the instance was made.
pub(crate) fn monotonic(data: &Data) -> u64 {
    u64::try_from(data.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
