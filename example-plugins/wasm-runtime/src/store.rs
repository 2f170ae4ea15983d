//! What one instance has of the engine: its limits, its clock, the bus.

use std::{
    fmt,
    time::{Duration, Instant},
};

use oxide_plugin_api::{MessageBus, Result};
use wasmtime::{Engine, Store, UpdateDeadline};

use crate::{config::Limits, limiter::Limiter};

/// What the host functions and the limits of an instance work on.
pub(crate) struct Data {
    pub(crate) limiter: Limiter,
    /// `None` up to `instantiate`.
    pub(crate) bus: Option<MessageBus>,
    /// When the instance was made.
    pub(crate) began: Instant,
    /// Why the present call of a core module failed, if it said so.
    pub(crate) failure: Option<String>,
    ticks: Ticks,
    #[cfg(feature = "wasi")]
    pub(crate) wasi: crate::wasi::State,
}

/// How much longer the present call may work.
struct Ticks {
    left: u64,
    limit: u64,
    length: Duration,
    call_time: Duration,
    /// Whether it stands on a stack of its own, so that it can be left for a while.
    suspends: bool,
}

/// The guest has worked longer than it may.
#[derive(Debug)]
pub(crate) struct TooLong(Duration);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it worked longer than {} ms (`wasm.call_time`)", self.0.as_millis())
    }
}

impl std::error::Error for TooLong {}

impl Data {
    /// # Errors
    /// When a folder that was granted cannot be opened.
    pub(crate) fn new(limits: &Limits, tick: Duration, bus: Option<MessageBus>) -> Result<Self> {
        let call_time = limits.call_time();
        let limit = call_time.as_nanos().div_ceil(tick.as_nanos().max(1));
        // One more, since the first tick may come at once.
        let limit = u64::try_from(limit).unwrap_or(u64::MAX - 1) + 1;
        Ok(Self {
            limiter: Limiter::new(limits),
            bus,
            began: Instant::now(),
            failure: None,
            ticks: Ticks { left: limit, limit, length: tick, call_time, suspends: true },
            #[cfg(feature = "wasi")]
            wasi: crate::wasi::State::new(&limits.allow)?,
        })
    }

    /// The guest was left alone for as long as `since` is ago, in a host function that waited.
    ///
    /// Its next look at the epoch will find a tick gone, and take it for one of work.
    pub(crate) fn waited(&mut self, since: Instant) {
        if since.elapsed() >= self.ticks.length {
            self.ticks.left = (self.ticks.left + 1).min(self.ticks.limit);
        }
    }
}

/// A store for one instance.
pub(crate) fn new(engine: &Engine, data: Data) -> Store<Data> {
    let mut store = Store::new(engine, data);
    store.limiter(|data| &mut data.limiter);
    store.epoch_deadline_callback(move |mut store| {
        let ticks = &mut store.data_mut().ticks;
        ticks.left = ticks.left.saturating_sub(1);
        if ticks.left == 0 {
            return Err(TooLong(ticks.call_time).into());
        }
        // Its caller's thread is free for others at each tick, and its future can be dropped there.
        Ok(if ticks.suspends { UpdateDeadline::Yield(1) } else { UpdateDeadline::Continue(1) })
    });
    begin(&mut store);
    store
}

/// Another call begins. It may work as long as any.
pub(crate) fn begin(store: &mut Store<Data>) {
    let data = store.data_mut();
    data.ticks.left = data.ticks.limit;
    data.failure = None;
    store.set_epoch_deadline(1);
}

/// Whether what runs next stands on a stack of its own.
pub(crate) fn suspends(store: &mut Store<Data>, suspends: bool) {
    store.data_mut().ticks.suspends = suspends;
}
