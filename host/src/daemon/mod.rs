//! The host as a process: HTTP/1.1 + JSON on a Unix socket. Every verb of the command line is one call of
//! this API, so `curl --unix-socket` can do all of it.
//!
//! `socket` decides who may serve, `api` and `events` answer, `serve` ties them to the life of the process.

mod answer;
mod api;
mod dry_run;
mod events;
mod extract;
mod journal;
mod messages;
mod metrics;
mod openapi;
mod serve;
mod signals;
mod socket;
mod wire;

pub use dry_run::{ProbeOrder, ProbeReply};
pub use serve::Daemon;
pub use signals::Signals;
pub use socket::{Claim, Endpoint, SocketError};
pub use wire::{
    DryRun, ErrorBody, ErrorReport, Health, LoadReport, LoadRequest, MessageRequest, SwapRequest,
};
