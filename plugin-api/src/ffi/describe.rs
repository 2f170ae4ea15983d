//! The embedded description: bytes in the plugin's own section that `oxide-host inspect` reads without
//! running anything. The format is frozen; readers accept any later minor version.
//!
//! A [`Header`] (little-endian, 32 bytes) is followed by `body_len` bytes of `key \0 value \0` pairs in
//! UTF-8. Unknown keys are skipped.

use std::mem::{offset_of, size_of};

/// Begins every description.
pub const MAGIC: [u8; 16] = *b"oxide-plugin\0\x1a\r\n";

/// The section of an ELF or PE file that holds the description.
pub const SECTION: &str = ".oxide";

/// The section of a Mach-O file (segment `__DATA`) that holds the description.
pub const MACHO_SECTION: &str = "__oxide";

/// The plugin ABI this crate speaks: `(major, minor)`. It has nothing to do with the crate's own version.
pub const ABI_VERSION: (u16, u16) = (1, 0);

/// The compiler that builds this crate, and with it the plugin.
pub const RUSTC: &str = env!("OXIDE_RUSTC");

/// The target this crate is built for.
pub const TARGET: &str = env!("OXIDE_TARGET");

/// This crate's version.
pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A fingerprint of this crate's sources, which define all that crosses. Two sides that have the same one lay it out in
/// the same way, since every type of it is `repr(C)` or as good as that.
pub const SOURCE: &str = env!("OXIDE_SOURCE");

/// The keys of the body that this version writes.
pub mod keys {
    /// Version of the oxide-plugin-api crate.
    pub const API: &str = "api";
    /// [`SOURCE`](super::SOURCE). Descriptions may lack it.
    pub const SOURCE: &str = "api_source";
    /// What `rustc --version` says.
    pub const RUSTC: &str = "rustc";
    /// The target triple.
    pub const TARGET: &str = "target";
    /// `unwind` or `abort`.
    pub const PANIC: &str = "panic";
    /// The plugin's package name.
    pub const PACKAGE: &str = "package";
    /// The plugin's package version.
    pub const PACKAGE_VERSION: &str = "package_version";
    /// The plugin's package description; may be empty.
    pub const DESCRIPTION: &str = "description";
    /// `native` or `wasm`.
    pub const KIND: &str = "kind";
    /// Wanted capabilities, separated by commas; may be empty.
    pub const CAPABILITIES: &str = "capabilities";
    /// `oxide` or `none`: who provides the plugin's global allocator.
    pub const ALLOCATOR: &str = "allocator";
}

/// What stands before the body.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 16],
    /// Major number of the plugin ABI.
    pub abi_major: u16,
    /// Minor number of the plugin ABI.
    pub abi_minor: u16,
    /// How many bytes of body follow.
    pub body_len: u32,
    /// Zero.
    pub reserved: [u8; 8],
}

const _: () = assert!(offset_of!(Header, abi_major) == 16);
const _: () = assert!(offset_of!(Header, abi_minor) == 18);
const _: () = assert!(offset_of!(Header, body_len) == 20);
const _: () = assert!(size_of::<Header>() == 32);

/// A whole description with a body of `N` bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Description<const N: usize> {
    header: Header,
    body: [u8; N],
}

impl<const N: usize> Description<N> {
    /// Joins the pairs into a description.
    ///
    /// # Panics
    /// At compile time, when `N` is not [`body_len`] of the same pairs.
    pub const fn new(pairs: &[(&str, &str)]) -> Self {
        let mut body = [0; N];
        let mut at = 0;
        let mut pair = 0;
        while pair < pairs.len() {
            at = put(&mut body, at, pairs[pair].0);
            at = put(&mut body, at, pairs[pair].1);
            pair += 1;
        }
        assert!(at == N, "the body's length does not match its pairs");
        Self {
            header: Header {
                magic: MAGIC,
                abi_major: ABI_VERSION.0.to_le(),
                abi_minor: ABI_VERSION.1.to_le(),
                body_len: (N as u32).to_le(),
                reserved: [0; 8],
            },
            body,
        }
    }
}

/// How many bytes these pairs take in a body.
pub const fn body_len(pairs: &[(&str, &str)]) -> usize {
    let mut len = 0;
    let mut pair = 0;
    while pair < pairs.len() {
        len += pairs[pair].0.len() + pairs[pair].1.len() + 2;
        pair += 1;
    }
    len
}

const fn put<const N: usize>(body: &mut [u8; N], mut at: usize, text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        // A NUL inside a value would end it early.
        body[at] = if bytes[index] == 0 { b' ' } else { bytes[index] };
        at += 1;
        index += 1;
    }
    at + 1
}
