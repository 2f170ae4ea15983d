//! Compiled guests.
#![allow(unsafe_code, reason = "wasmtime takes compiled code back from bytes that it cannot check")]

use wasmtime::{Engine, Module, Result, component::Component};

/// A guest's code for this machine.
pub(crate) enum Compiled {
    Core(Module),
    Component(Component),
}

/// The two kinds of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Core,
    Component,
}

impl Kind {
    /// What these bytes say they are; `None` when they are no WASM of ours.
    pub(crate) fn of(guest: &[u8]) -> Option<Self> {
        // `\0asm`, then the version and the layer of the binary format.
        match guest.get(..8)? {
            b"\0asm\x01\0\0\0" => Some(Self::Core),
            [0, b'a', b's', b'm', _, _, 1, 0] => Some(Self::Component),
            _ => None,
        }
    }
}

impl Compiled {
    /// Compiles on this thread.
    ///
    /// # Errors
    /// When the bytes are no valid WASM.
    pub(crate) fn new(engine: &Engine, kind: Kind, guest: &[u8]) -> Result<Self> {
        Ok(match kind {
            Kind::Core => Self::Core(Module::from_binary(engine, guest)?),
            Kind::Component => Self::Component(Component::from_binary(engine, guest)?),
        })
    }

    /// The code as bytes.
    ///
    /// # Errors
    /// When wasmtime cannot write it.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        match self {
            Self::Core(module) => module.serialize(),
            Self::Component(component) => component.serialize(),
        }
    }

    /// Takes back what [`Compiled::to_bytes`] gave.
    ///
    /// # Errors
    /// When another version of wasmtime wrote it, another configuration, or for another machine.
    ///
    /// # Safety
    /// The bytes are what `to_bytes` gave, unchanged: they are machine code, and will be run.
    pub(crate) unsafe fn from_bytes(engine: &Engine, kind: Kind, bytes: &[u8]) -> Result<Self> {
        Ok(match kind {
            // SAFETY: the caller's duty is what wasmtime asks for; it looks for itself whether version,
            // configuration and machine are those of the engine.
            Kind::Core => Self::Core(unsafe { Module::deserialize(engine, bytes) }?),
            // SAFETY: as above.
            Kind::Component => Self::Component(unsafe { Component::deserialize(engine, bytes) }?),
        })
    }

    /// Takes back what a cache kept, which vouches for it.
    ///
    /// # Errors
    /// As [`Compiled::from_bytes`].
    pub(crate) fn from_cache(engine: &Engine, kept: &crate::cache::Kept) -> Result<Self> {
        // SAFETY: `Kept` is made by `cache.rs` alone, of a file that says in its head which guest it was compiled
        // from, by which engine, and the SHA-256 of the code behind it, and only when all of that is so. That
        // excludes what is damaged, cut short or mixed up. It does not exclude a forgery, which nobody but this user
        // (or root) can place there: the folder was looked at and belongs to us, and nobody else may write or look
        // into it. They could as well change this very library. What was checked is what is used: one buffer.
        unsafe { Self::from_bytes(engine, kept.kind(), kept.code()) }
    }
}
