//! A WASM guest is a module like any other: its engine is a plugin of which the host opens a generation for each guest.
//! The engine here runs nothing; what the real one does is tested where it is built.

mod engines;
mod loading;
mod swapping;
