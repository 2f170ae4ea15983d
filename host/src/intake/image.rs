//! From bytes to a library of some format, or to what the bytes are instead.

use object::{
    FileKind, elf,
    macho::{self, FatArch32, FatArch64},
    pe::{ImageNtHeaders32, ImageNtHeaders64},
};

use super::{
    Fault, LinkFacts, RefusalReason, elf as elf_file, machine::Machine, macho as macho_file, pe as pe_file,
    pieces::Pieces,
};

/// A dynamic library.
pub(super) struct Image<'data> {
    pub(super) machine: Machine,
    /// Nothing, when the library carries no description.
    pub(super) carried: Option<Carried<'data>>,
}

/// What a plugin's file has beyond a library's.
pub(super) struct Carried<'data> {
    /// The section that holds the description.
    pub(super) section: &'data [u8],
    pub(super) facts: Result<LinkFacts, Fault>,
}

impl<'data> Image<'data> {
    /// Recognises a library.
    pub(super) fn parse(data: &'data [u8]) -> Result<Self, Fault> {
        could_be_library(data)?;
        let kind = match FileKind::parse(data) {
            Ok(kind) => kind,
            Err(_) if data.starts_with(b"MZ") => return Err(pe_file::not_pe(data)),
            Err(error) => return Err(error.into()),
        };
        match kind {
            FileKind::Elf32 => elf_file::examine::<elf::FileHeader32<_>, _>(data),
            FileKind::Elf64 => elf_file::examine::<elf::FileHeader64<_>, _>(data),
            FileKind::Pe32 => pe_file::examine::<ImageNtHeaders32>(data),
            FileKind::Pe64 => pe_file::examine::<ImageNtHeaders64>(data),
            FileKind::MachO32 => macho_file::examine::<macho::MachHeader32<_>>(data),
            FileKind::MachO64 => macho_file::examine::<macho::MachHeader64<_>>(data),
            FileKind::MachOFat32 => macho_file::examine_universal::<FatArch32>(data),
            FileKind::MachOFat64 => macho_file::examine_universal::<FatArch64>(data),
            _ => Err(unknown()),
        }
    }

    /// The same of a file that is read piece by piece. `None` when anything is wrong with it, or it is no ELF file of
    /// 64 bits: then all of its bytes say more.
    pub(super) fn parse_pieces(file: &'data Pieces<'_>) -> Option<Self> {
        let image = match FileKind::parse(file).ok()? {
            FileKind::Elf64 => elf_file::examine::<elf::FileHeader64<_>, _>(file).ok()?,
            _ => return None,
        };
        // Not everybody passes on that something could not be read.
        (!file.is_too_much()).then_some(image)
    }
}

/// Tells from a file's first bytes whether it is worth reading on: a film or a log is refused without its
/// gigabytes having been read.
pub(super) fn could_be_library(head: &[u8]) -> Result<(), Fault> {
    match head {
        [] => Err(Fault::new(
            RefusalReason::NotALibrary,
            "is empty",
            "copy it again, or build it again; it may still be being written",
        )),
        [0x7f, b'E', b'L', b'F', class, ..] if !matches!(class, 1 | 2) => Err(Fault::damaged(format_args!(
            "is an ELF file of class {class}, known are 1 (32-bit) and 2 (64-bit)"
        ))),
        [0x7f, b'E', b'L', b'F', ..] | [b'M', b'Z', ..] => Ok(()),
        // Java's class files begin as universal Mach-O files do; there the number of processors is their version.
        [0xca, 0xfe, 0xba, 0xbe, rest @ ..] => match rest.first_chunk() {
            Some(count) if u32::from_be_bytes(*count) >= 45 => {
                Err(Fault::not_a_library("is a Java class, not a dynamic library"))
            }
            _ => Ok(()),
        },
        [0xca, 0xfe, 0xba, 0xbf, ..]
        | [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..]
        | [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', ..] => {
            Err(Fault::not_a_library("is a WebAssembly module, not a dynamic library"))
        }
        _ if head.starts_with(b"!<arch>\n") || head.starts_with(b"!<thin>\n") => {
            Err(Fault::not_a_library("is a static library, not a dynamic one"))
        }
        _ if is_text(head) => Err(Fault::not_a_library("is a text file, not a dynamic library")),
        _ => Err(unknown()),
    }
}

fn unknown() -> Fault {
    Fault::not_a_library("is not a dynamic library: it is none of ELF, PE and Mach-O")
}

fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The last character may be cut where the head ends.
        Err(error) if error.error_len().is_none() => {
            head.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or("")
        }
        Err(_) => "",
    };
    !text.is_empty()
        && !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c' | '\x1b'))
}

/// Whether the text at this offset is `name`, with the NUL that ends it. Reads no further than `name` is long,
/// so that a million names in one endless string cost no more than any others.
pub(super) fn is_named(strings: &[u8], at: u64, name: &str) -> bool {
    usize::try_from(at)
        .ok()
        .and_then(|at| strings.get(at..)?.strip_prefix(name.as_bytes())?.first())
        .is_some_and(|end| *end == 0)
}

/// What begins at this offset; nothing when that is outside.
pub(super) fn text_at(strings: &[u8], at: u64) -> &[u8] {
    usize::try_from(at).ok().and_then(|at| strings.get(at..)).unwrap_or_default()
}

/// The text at this offset, up to a NUL within reason.
pub(super) fn c_string(strings: &[u8], at: u64) -> Option<String> {
    const LONGEST: usize = 4096;
    let rest = strings.get(usize::try_from(at).ok()?..)?;
    let rest = rest.get(..LONGEST).unwrap_or(rest);
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(head: &[u8]) -> String {
        could_be_library(head)
            .map_or_else(|fault| fault.of("x".as_ref()).message, |()| "could be a library".to_owned())
    }

    #[test]
    fn a_head_tells_what_is_no_library() {
        assert_eq!(found(b""), "`x` is empty");
        assert_eq!(found("#!/bin/sh — hello\n".as_bytes()), "`x` is a text file, not a dynamic library");
        assert_eq!(found(b"/* GNU ld script */"), "`x` is a text file, not a dynamic library");
        assert_eq!(found(b"!<arch>\nxyz"), "`x` is a static library, not a dynamic one");
        assert_eq!(found(b"\0asm\x01\0\0\0"), "`x` is a WebAssembly module, not a dynamic library");
        assert_eq!(found(b"\xca\xfe\xba\xbe\0\0\0\x34"), "`x` is a Java class, not a dynamic library");
        assert_eq!(found(b"\xca\xfe\xba\xbe\0\0\0\x02"), "could be a library");
        assert_eq!(found(b"\x89PNG\r\n"), "`x` is not a dynamic library: it is none of ELF, PE and Mach-O");
        assert_eq!(found(b"\x7fEL"), "`x` is not a dynamic library: it is none of ELF, PE and Mach-O");
        assert_eq!(found(b"\x7fELF"), "could be a library");
    }

    #[test]
    fn a_head_that_ends_inside_a_character_is_still_text() {
        assert!(is_text(b"gr\xc3"));
        assert!(!is_text(b"gr\xc3x"));
        assert!(!is_text(b"\xff\xfe"));
    }

    #[test]
    fn names_are_whole_names() {
        let strings = b"\0signal\0sigaction\0cut";
        assert!(is_named(strings, 1, "signal"));
        assert!(!is_named(strings, 1, "sig"));
        assert!(!is_named(strings, 18, "cut"));
        assert!(!is_named(strings, u64::MAX, "signal"));
        assert_eq!(c_string(strings, 8).as_deref(), Some("sigaction"));
        assert_eq!(c_string(strings, 18), None);
        assert_eq!(c_string(strings, 99), None);
    }
}
