//! Mach-O: Apple's libraries, single and universal.

use object::{
    Endianness, Object, ObjectSection, ObjectSegment, macho,
    read::macho::{FatArch, MachHeader, MachOFatFile, MachOFile, Nlist},
};
use oxide_plugin_api::ffi::describe::MACHO_SECTION;

use super::{
    Fault, LinkFacts,
    facts::{ENTRY, is_base_macho},
    image::{Carried, Image, is_named, text_at},
    machine::{Format, Machine, arch_name},
};

/// Takes the part of a universal file that this host would load, or else the first, named after all of them.
pub(super) fn examine_universal<Fat: FatArch>(data: &[u8]) -> Result<Image<'_>, Fault> {
    let fat = MachOFatFile::<Fat>::parse(data)?;
    let mut first = None;
    let mut archs: Vec<&str> = Vec::new();
    for part in fat.arches() {
        let bytes = part.data(data)?;
        let image = match bytes {
            [0xfe, 0xed, 0xfa, 0xce, ..] | [0xce, 0xfa, 0xed, 0xfe, ..] => {
                examine::<macho::MachHeader32<_>>(bytes)
            }
            [0xfe, 0xed, 0xfa, 0xcf, ..] | [0xcf, 0xfa, 0xed, 0xfe, ..] => {
                examine::<macho::MachHeader64<_>>(bytes)
            }
            _ => Err(Fault::not_a_library("is a universal file of something else than dynamic libraries")),
        }?;
        if image.machine.is_host() {
            return Ok(image);
        }
        archs.push(arch_name(part.architecture()));
        first.get_or_insert(image);
    }
    let mut image = first.ok_or_else(|| Fault::damaged("is a universal file without parts"))?;
    image.machine.arch = archs.join(" and ").into();
    Ok(image)
}

/// Recognises a library and finds its description.
pub(super) fn examine<Mach>(data: &[u8]) -> Result<Image<'_>, Fault>
where
    Mach: MachHeader<Endian = Endianness>,
{
    let header = Mach::parse(data, 0)?;
    let endian = header.endian()?;
    match header.filetype(endian) {
        macho::MH_DYLIB | macho::MH_BUNDLE => {}
        macho::MH_EXECUTE => return Err(Fault::not_a_library("is a Mach-O program, not a dynamic library")),
        macho::MH_OBJECT => {
            return Err(Fault::not_a_library("is a Mach-O object file, not a dynamic library"));
        }
        macho::MH_DSYM => {
            return Err(Fault::not_a_library("holds the debug information of a library, not the library"));
        }
        _ => return Err(Fault::not_a_library("is a Mach-O file of another type than a dynamic library")),
    }
    let file = MachOFile::<Mach>::parse(data)?;
    let length = data.len() as u64;
    for segment in file.segments() {
        let (offset, size) = segment.file_range();
        let end = offset.saturating_add(size);
        if end > length {
            return Err(Fault::damaged(format_args!(
                "ends early: its segments reach up to byte {end}, the file has {length}"
            )));
        }
    }
    let machine = Machine {
        format: Format::MachO,
        arch: arch_name(file.architecture()).into(),
        bits: if file.is_64() { 64 } else { 32 },
        little_endian: file.is_little_endian(),
        os: Some("macos"),
    };
    let mut carried = None;
    for section in file.sections() {
        if section.name_bytes()? == MACHO_SECTION.as_bytes() && in_data_segment(&section) {
            carried = Some(Carried { section: section.data()?, facts: facts(&file) });
            break;
        }
    }
    Ok(Image { machine, carried })
}

/// The linker may move constants from `__DATA` to `__DATA_CONST`.
fn in_data_segment<'data>(section: &impl ObjectSection<'data>) -> bool {
    matches!(section.segment_name_bytes(), Ok(Some(name)) if name.starts_with(b"__DATA"))
}

fn facts<'data, Mach>(file: &MachOFile<'data, Mach>) -> Result<LinkFacts, Fault>
where
    Mach: MachHeader<Endian = Endianness>,
{
    let endian = file.endian();
    let data = file.data();
    let mut facts = LinkFacts::default();
    for library in file.import_libraries()? {
        facts.need(String::from_utf8_lossy(library?.name()).into_owned(), is_base_macho);
    }
    let (mut strings, mut trie): (&[u8], &[u8]) = (&[], &[]);
    let mut commands = file.macho_load_commands()?;
    while let Some(command) = commands.next()? {
        if let Some(symtab) = command.symtab()? {
            strings = range(data, symtab.stroff.get(endian), symtab.strsize.get(endian))?;
        } else if let Some(exports) = command.dyld_exports_trie()? {
            trie = range(data, exports.dataoff.get(endian), exports.datasize.get(endian))?;
        } else if let Some(info) = command.dyld_info()? {
            trie = range(data, info.export_off.get(endian), info.export_size.get(endian))?;
        }
    }
    for symbol in file.macho_symbol_table().symbols() {
        let kind = symbol.n_type();
        if kind.is_stab() || !kind.is_ext() || kind.is_pext() {
            continue;
        }
        // Every name of C has a `_` in front.
        let Some(at) = u64::from(symbol.n_strx(endian)).checked_add(1) else { continue };
        if symbol.is_undefined() {
            facts.import(text_at(strings, at));
        } else {
            facts.exports_entry |= is_named(strings, at, ENTRY);
        }
    }
    facts.exports_entry |= exports(trie, format!("_{ENTRY}").as_bytes());
    Ok(facts)
}

fn range(data: &[u8], offset: u32, size: u32) -> Result<&[u8], Fault> {
    let range = usize::try_from(offset)
        .ok()
        .zip(usize::try_from(size).ok())
        .and_then(|(offset, size)| data.get(offset..offset.checked_add(size)?));
    range.ok_or_else(|| Fault::damaged("has symbols that lie outside of the file"))
}

/// Looks one name up in the trie of exports, as dyld does: down one path, never through the whole trie, which in
/// a file made for it has more paths than anyone can walk.
fn exports(trie: &[u8], name: &[u8]) -> bool {
    lookup(trie, name).unwrap_or(false)
}

fn lookup(trie: &[u8], name: &[u8]) -> Option<bool> {
    let mut wanted = name;
    let mut node = trie;
    // Every edge takes at least one byte of the name, so this ends.
    loop {
        let (terminal, rest) = uleb128(node)?;
        if wanted.is_empty() {
            return Some(terminal > 0);
        }
        let rest = rest.get(usize::try_from(terminal).ok()?..)?;
        let (count, mut edges) = rest.split_first()?;
        let mut next = None;
        for _ in 0..*count {
            // No edge that matches is longer than what is wanted.
            let reach = edges.get(..wanted.len().checked_add(1)?).unwrap_or(edges);
            let matching = reach.iter().position(|byte| *byte == 0).and_then(|end| reach.get(..end));
            let end = edges.iter().position(|byte| *byte == 0)?;
            let (offset, rest) = uleb128(edges.get(end.checked_add(1)?..)?)?;
            edges = rest;
            if let Some(left) =
                matching.filter(|edge| !edge.is_empty()).and_then(|edge| wanted.strip_prefix(edge))
            {
                next = Some((left, offset));
                break;
            }
        }
        let (left, offset) = next?;
        wanted = left;
        node = trie.get(usize::try_from(offset).ok()?..)?;
    }
}

fn uleb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let shift = u32::try_from(index).ok()?.checked_mul(7)?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index.checked_add(1)?..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with the edges `_a` → 9 and `_ab` is reached through it.
    const TRIE: &[u8] = &[
        0, 1, b'_', b'a', 0, 6, // root: no export, one edge to byte 6
        2, 0, 0, 1, b'b', 0, 13, // `_a`: two bytes of export, one edge to byte 13
        2, 0, 0, 0, // `_ab`: an export, no edges
    ];

    #[test]
    fn the_trie_is_walked_along_one_name() {
        assert!(exports(TRIE, b"_a"));
        assert!(exports(TRIE, b"_ab"));
        assert!(!exports(TRIE, b"_"));
        assert!(!exports(TRIE, b"_abc"));
        assert!(!exports(TRIE, b"_b"));
        assert!(!exports(&[], b"_a"));
    }

    #[test]
    fn a_trie_that_goes_in_circles_ends() {
        let circle = [0, 1, b'_', 0, 0];
        assert!(!exports(&circle, b"____________"));
        let empty_edge = [0, 1, 0, 0];
        assert!(!exports(&empty_edge, b"_a"));
    }

    #[test]
    fn numbers_without_end_are_no_numbers() {
        assert_eq!(uleb128(&[0xe5, 0x8e, 0x26, 7]), Some((624_485, &[7][..])));
        assert_eq!(uleb128(&[0x80; 20]), None);
        assert_eq!(uleb128(&[]), None);
    }
}
