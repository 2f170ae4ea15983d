//! PE: Windows' libraries.

use object::{
    LittleEndian as LE, Object, ObjectSection,
    pe::{self, ImageDosHeader},
    read::pe::{ImageNtHeaders, PeFile},
};
use oxide_plugin_api::ffi::describe::SECTION;

use super::{
    Fault, LinkFacts,
    facts::{ENTRY, is_base_pe},
    image::{Carried, Image},
    machine::{Format, Machine, arch_name},
};

/// No library has as many imports or exports; a file that says so costs no more time than this.
const MANY: usize = 1 << 20;

/// Recognises a library and finds its description.
pub(super) fn examine<Pe: ImageNtHeaders>(data: &[u8]) -> Result<Image<'_>, Fault> {
    let file = PeFile::<Pe>::parse(data)?;
    let characteristics = file.nt_headers().file_header().characteristics.get(LE);
    if !characteristics.contains(pe::IMAGE_FILE_DLL) {
        return Err(Fault::not_a_library("is a Windows program, not a dynamic library"));
    }
    let length = data.len() as u64;
    for section in file.section_table().iter() {
        let (offset, size) = section.pe_file_range();
        let end = u64::from(offset).saturating_add(u64::from(size));
        if end > length {
            return Err(Fault::damaged(format_args!(
                "ends early: its sections reach up to byte {end}, the file has {length}"
            )));
        }
    }
    let machine = Machine {
        format: Format::Pe,
        arch: arch_name(file.architecture()).into(),
        bits: if file.is_64() { 64 } else { 32 },
        little_endian: true,
        os: Some("windows"),
    };
    let carried = match file.section_by_name(SECTION) {
        Some(section) => Some(Carried { section: section.data()?, facts: facts(&file) }),
        None => None,
    };
    Ok(Image { machine, carried })
}

/// What begins as a DOS program and yet is no PE file.
pub(super) fn not_pe(data: &[u8]) -> Fault {
    let Ok(dos) = ImageDosHeader::parse(data) else {
        return Fault::damaged("ends inside its first header");
    };
    let at = usize::try_from(dos.nt_headers_offset()).unwrap_or(usize::MAX);
    match data.get(at..) {
        // Far enough for the signature, the file header and the optional header's magic.
        Some(headers) if headers.starts_with(b"PE\0\0") && headers.len() < 26 => {
            Fault::damaged("ends inside its headers")
        }
        None if at < 0x1000 => Fault::damaged("ends before its headers"),
        _ => Fault::not_a_library("is a DOS program, not a dynamic library"),
    }
}

fn facts<Pe: ImageNtHeaders>(file: &PeFile<'_, Pe>) -> Result<LinkFacts, Fault> {
    let mut facts = LinkFacts::default();
    for library in file.import_libraries()?.take(MANY) {
        facts.need(String::from_utf8_lossy(library?.name()).into_owned(), is_base_pe);
    }
    for import in file.imports()?.take(MANY) {
        let import = import?;
        if let Some(found) = import.name().into_name() {
            facts.import(found);
        }
    }
    for export in file.exports()?.take(MANY) {
        facts.exports_entry |= export?.name().into_name() == Some(ENTRY.as_bytes());
    }
    Ok(facts)
}
