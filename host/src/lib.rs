//! The native plugin host as a library.

pub mod error;
mod intake;
pub mod report;

pub use intake::{
    About, Description, InspectedFile, Inspection, LinkFacts, LoadPolicy, Refusal, RefusalReason, Refused,
    StagedFile, StagingDir, inspect, inspect_with, printable,
};
