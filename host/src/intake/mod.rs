//! From a path to bytes we are willing to open. Nothing here runs plugin code.
//!
//! `read` takes a file into memory; `image` recognises the format, and `elf`, `pe` and `macho` find in it the
//! description's section and the facts of linking; `description` reads the former, `facts` judges the latter;
//! `inspect` puts them together and refuses what can't be loaded here, having looked at `pieces` of a copy where it can;
//! `stage` writes the private copy, `blank` makes a file for it ahead.
//!
//! `wasm` describes a guest's file, and `guest` tells the two sorts of files apart; `engine` finds what runs guests.

mod blank;
mod description;
mod elf;
mod engine;
mod facts;
mod fault;
mod guest;
mod image;
mod inspect;
mod inspection;
mod machine;
mod macho;
mod pe;
mod pieces;
mod read;
mod refusal;
mod stage;
mod staging_base;
mod text;
mod wasm;

pub(crate) use blank::NextCopy;
pub use description::Description;
pub(crate) use engine::{find_engine, prepare_cache};
pub use facts::LinkFacts;
pub use guest::{InspectedGuest, ModuleFile};
pub use inspect::{InspectedFile, LoadPolicy};
pub use inspection::{About, Inspection, Refused, inspect, inspect_with};
pub use refusal::{Refusal, RefusalReason};
pub use stage::{StagedFile, StagingDir};
pub(crate) use text::file_name;
pub use text::printable;
pub use wasm::{WasmFacts, WasmFormat, WasmItem};

use fault::Fault;
