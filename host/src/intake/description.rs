//! Reads the description that a plugin carries in its own section. The format is
//! `oxide_plugin_api::ffi::describe`; here its bytes come from a file and nothing about them is believed.

use oxide_plugin_api::{
    ModuleKind,
    ffi::describe::{ABI_VERSION, MAGIC, SECTION, SOURCE, keys},
};

use super::{Fault, RefusalReason, text};

/// The length of the frozen header.
const HEADER: usize = size_of::<oxide_plugin_api::ffi::describe::Header>();

/// A body beyond this is damage: everything a plugin has to say about itself fits in a page or two.
const MAX_BODY: usize = 1 << 20;

/// What a plugin says about itself. Every text is as the file has it: pass it through [`printable`] before it
/// reaches a terminal.
///
/// [`printable`]: crate::printable
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The plugin ABI it speaks: major, minor.
    pub abi: (u16, u16),
    /// Version of the oxide-plugin-api crate that it was built on.
    pub api: String,
    /// The fingerprint of that crate's sources; early builds have none.
    pub api_source: Option<String>,
    /// What its compiler calls itself.
    pub rustc: String,
    /// The target triple it was built for.
    pub target: String,
    /// Its panic strategy: `unwind` or `abort`.
    pub panic: String,
    /// The package it was built from.
    pub package: String,
    /// That package's version.
    pub package_version: String,
    /// That package's description; may be empty.
    pub description: String,
    /// What runs in it.
    pub kind: ModuleKind,
    /// What it asks to be allowed.
    pub capabilities: Vec<String>,
    /// Who provides its global allocator: `oxide` or `none`.
    pub allocator: String,
}

impl Description {
    /// Whether it was built from the very sources of oxide-plugin-api that this host was built from: then what crosses is
    /// laid out alike.
    pub(crate) fn has_our_source(&self) -> bool {
        self.api_source.as_deref() == Some(SOURCE)
    }

    /// Reads a description from the bytes of its section.
    pub(super) fn parse(section: &[u8]) -> Result<Self, Fault> {
        // A linker may pad the section in front for alignment; anything else than zeros is not padding.
        let start = section.iter().position(|byte| *byte != 0).unwrap_or(0);
        let bytes = section.get(start..).unwrap_or_default();
        if !bytes.starts_with(&MAGIC) {
            return Err(Fault::damaged(format_args!(
                "has a section `{SECTION}` that does not begin with the mark of a plugin's description"
            )));
        }
        let header = bytes.get(..HEADER).ok_or_else(|| {
            Fault::damaged(format_args!(
                "ends inside the header of its description: {} of {HEADER} bytes are there",
                bytes.len()
            ))
        })?;
        let abi = (u16_at(header, 16), u16_at(header, 18));
        // Before the body is looked at: another major version may write another body.
        check_abi(abi)?;

        let rest = bytes.get(HEADER..).unwrap_or_default();
        let length = usize::try_from(u32_at(header, 20)).unwrap_or(usize::MAX);
        if length > MAX_BODY {
            return Err(Fault::damaged(format_args!(
                "has a description that claims to be {length} bytes long, the limit is {MAX_BODY}"
            )));
        }
        let body = rest.get(..length).ok_or_else(|| {
            Fault::damaged(format_args!(
                "has a description that claims to be {length} bytes long, but only {} bytes of it are there",
                rest.len()
            ))
        })?;
        let after = rest.get(length..).unwrap_or_default();
        if after.windows(MAGIC.len()).any(|window| window == MAGIC) {
            return Err(Fault::new(
                RefusalReason::Damaged,
                "holds the descriptions of two plugins, and a plugin file is one module",
                "`export_module!` must stand once, in the cdylib's root, and in none of its dependencies",
            ));
        }
        Pairs::parse(body)?.into_description(abi)
    }
}

/// A plugin of another major version cannot be understood; a later minor version only adds.
fn check_abi(abi: (u16, u16)) -> Result<(), Fault> {
    if abi.0 == ABI_VERSION.0 {
        return Ok(());
    }
    let (theirs, ours) = (abi.0, ABI_VERSION.0);
    Err(Fault::new(
        RefusalReason::AbiMismatch,
        format_args!(
            "was built for plugin ABI {theirs}.{}, this host speaks {ours}.{}",
            abi.1, ABI_VERSION.1
        ),
        if theirs > ours {
            format!(
                "load it into a host of plugin ABI {theirs}, or build it on an oxide-plugin-api of ABI {ours}"
            )
        } else {
            format!("build it again on an oxide-plugin-api of plugin ABI {ours}")
        },
    ))
}

/// The body: keys and values, in the order they stand.
struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Pairs<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let Some(body) = body.strip_suffix(b"\0") else {
            return Err(Fault::damaged("has a description whose last value does not end"));
        };
        let body = std::str::from_utf8(body)
            .map_err(|_| Fault::damaged("has a description that is not UTF-8 text"))?;
        let mut texts = body.split('\0');
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        while let Some(key) = texts.next() {
            let Some(value) = texts.next() else {
                return Err(Fault::damaged(format_args!(
                    "has a description with a key `{}` that has no value",
                    text::short(key)
                )));
            };
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// The value of a key that may be missing.
    fn get_if_there(&self, key: &str) -> Result<Option<&'a str>, Fault> {
        if self.0.iter().any(|(name, _)| *name == key) { self.get(key).map(Some) } else { Ok(None) }
    }

    /// The value of `key`, which must be there once: of two values, which one counts?
    fn get(&self, key: &str) -> Result<&'a str, Fault> {
        let mut found = self.0.iter().filter(|(name, _)| *name == key);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(value),
            (None, _) => Err(Fault::damaged(format_args!("has a description without `{key}`"))),
            (Some(_), Some(_)) => {
                Err(Fault::damaged(format_args!("has a description that gives `{key}` twice")))
            }
        }
    }

    fn into_description(self, abi: (u16, u16)) -> Result<Description, Fault> {
        let text = |key| self.get(key).map(str::to_owned);
        let kind = match self.get(keys::KIND)? {
            "native" => ModuleKind::Native,
            "wasm" => ModuleKind::Wasm,
            other => return Err(unknown(abi, keys::KIND, other, "`native` and `wasm`")),
        };
        let panic = match self.get(keys::PANIC)? {
            known @ ("unwind" | "abort") => known.to_owned(),
            other => return Err(unknown(abi, keys::PANIC, other, "`unwind` and `abort`")),
        };
        let capabilities = self.get(keys::CAPABILITIES)?;
        let capabilities =
            capabilities.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        Ok(Description {
            abi,
            api: text(keys::API)?,
            api_source: self.get_if_there(keys::SOURCE)?.map(str::to_owned),
            rustc: text(keys::RUSTC)?,
            target: text(keys::TARGET)?,
            panic,
            package: text(keys::PACKAGE)?,
            package_version: text(keys::PACKAGE_VERSION)?,
            description: text(keys::DESCRIPTION)?,
            kind,
            capabilities,
            allocator: text(keys::ALLOCATOR)?,
        })
    }
}

/// A value that this host does not know: from a later minor version it is news, from our own it is damage.
fn unknown(abi: (u16, u16), key: &str, value: &str, known: &str) -> Fault {
    let value = text::short(value);
    if abi.1 > ABI_VERSION.1 {
        return Fault::new(
            RefusalReason::AbiMismatch,
            format_args!(
                "speaks plugin ABI {}.{} and says `{key}` is `{value}`, this host ({}.{}) knows {known}",
                abi.0, abi.1, ABI_VERSION.0, ABI_VERSION.1
            ),
            "load it into a newer host",
        );
    }
    Fault::damaged(format_args!("has a description that says `{key}` is `{value}`, known are {known}"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}
