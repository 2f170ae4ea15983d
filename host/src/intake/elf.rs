//! ELF: the description's section, and what the dynamic section asks of the loader.

use object::{
    Architecture, Endianness, ReadRef, SectionIndex, elf,
    read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym, SymbolTable},
};
use oxide_plugin_api::ffi::describe::SECTION;

use super::{
    Fault, LinkFacts, RefusalReason,
    facts::{ENTRY, is_base_elf},
    image::{Carried, Image, c_string, is_named, text_at},
    machine::{Format, Machine, arch_name},
};

/// Recognises a library and finds its description.
pub(super) fn examine<'data, Elf, Data>(data: Data) -> Result<Image<'data>, Fault>
where
    Elf: FileHeader<Endian = Endianness>,
    Data: ReadRef<'data>,
{
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    match header.e_type(endian) {
        elf::ET_DYN => {}
        elf::ET_EXEC => return Err(Fault::not_a_library("is an ELF program, not a dynamic library")),
        elf::ET_REL => return Err(Fault::not_a_library("is an ELF object file, not a dynamic library")),
        elf::ET_CORE => return Err(Fault::not_a_library("is a core dump, not a dynamic library")),
        _ => return Err(Fault::not_a_library("is an ELF file of an unknown type, not a dynamic library")),
    }
    let file = File::parse(header, endian, data)?;
    let dynamic = Dynamic::read(&file);
    if dynamic.as_ref().is_ok_and(|dynamic| dynamic.flags_1.contains(elf::DF_1_PIE)) {
        return Err(Fault::not_a_library("is an ELF program, not a dynamic library"));
    }
    let section = description(&file)?;
    check_length(&file)?;
    let machine = Machine {
        format: Format::Elf,
        arch: arch_name(architecture(header, endian)).into(),
        bits: if header.is_class_64() { 64 } else { 32 },
        little_endian: header.is_little_endian(),
        os: system(header.e_ident().os_abi),
    };
    let carried = section.map(|section| Carried { section, facts: dynamic.and_then(|it| it.facts(&file)) });
    Ok(Image { machine, carried })
}

/// What of a file is looked at. Not its symbols for debuggers, which may be most of it.
struct File<'data, Elf: FileHeader, Data: ReadRef<'data>> {
    header: &'data Elf,
    endian: Elf::Endian,
    data: Data,
    segments: &'data [Elf::ProgramHeader],
    sections: SectionTable<'data, Elf, Data>,
    symbols: SymbolTable<'data, Elf, Data>,
}

impl<'data, Elf: FileHeader, Data: ReadRef<'data>> File<'data, Elf, Data> {
    fn parse(header: &'data Elf, endian: Elf::Endian, data: Data) -> Result<Self, Fault> {
        let sections = header.sections(endian, data)?;
        Ok(Self {
            header,
            endian,
            data,
            segments: header.program_headers(endian, data)?,
            symbols: sections.symbols(endian, data, elf::SHT_DYNSYM)?,
            sections,
        })
    }
}

fn architecture<Elf: FileHeader>(header: &Elf, endian: Elf::Endian) -> Architecture {
    match (header.e_machine(endian), header.is_class_64()) {
        (elf::EM_X86_64, true) => Architecture::X86_64,
        (elf::EM_X86_64, false) => Architecture::X86_64_X32,
        (elf::EM_386, _) => Architecture::I386,
        (elf::EM_AARCH64, true) => Architecture::Aarch64,
        (elf::EM_AARCH64, false) => Architecture::Aarch64_Ilp32,
        (elf::EM_ARM, _) => Architecture::Arm,
        (elf::EM_RISCV, true) => Architecture::Riscv64,
        (elf::EM_RISCV, false) => Architecture::Riscv32,
        (elf::EM_LOONGARCH, true) => Architecture::LoongArch64,
        (elf::EM_PPC64, _) => Architecture::PowerPc64,
        (elf::EM_PPC, _) => Architecture::PowerPc,
        (elf::EM_S390, true) => Architecture::S390x,
        (elf::EM_MIPS, true) => Architecture::Mips64,
        (elf::EM_MIPS, false) => Architecture::Mips,
        (elf::EM_SPARCV9, true) => Architecture::Sparc64,
        (elf::EM_SPARC, false) => Architecture::Sparc,
        (elf::EM_68K, false) => Architecture::M68k,
        (elf::EM_HEXAGON, _) => Architecture::Hexagon,
        _ => Architecture::Unknown,
    }
}

/// The system that the header names; Linux libraries mostly name none.
fn system(os_abi: elf::OsAbi) -> Option<&'static str> {
    match os_abi {
        elf::ELFOSABI_GNU => Some("linux"),
        elf::ELFOSABI_FREEBSD => Some("freebsd"),
        elf::ELFOSABI_NETBSD => Some("netbsd"),
        elf::ELFOSABI_OPENBSD => Some("openbsd"),
        elf::ELFOSABI_SOLARIS => Some("solaris"),
        _ => None,
    }
}

/// The bytes of the description's section.
fn description<'data, Elf: FileHeader, Data: ReadRef<'data>>(
    file: &File<'data, Elf, Data>,
) -> Result<Option<&'data [u8]>, Fault> {
    let (endian, data) = (file.endian, file.data);
    let table = file.sections;
    if table.is_empty() {
        return Ok(None);
    }
    let index = file.header.shstrndx(endian, data)?;
    let names =
        table.section(SectionIndex(usize::try_from(index).unwrap_or(usize::MAX)))?.data(endian, data)?;
    let mut found = table.iter().filter(|one| is_named(names, one.sh_name(endian).into(), SECTION));
    let (Some(section), more) = (found.next(), found.next()) else { return Ok(None) };
    if more.is_some() {
        return Err(Fault::damaged(format_args!("has more than one section `{SECTION}`")));
    }
    if section.sh_type(endian) == elf::SHT_NOBITS {
        // What `objcopy --only-keep-debug` leaves: sections without their bytes.
        return Err(Fault::not_a_library("holds the debug information of a library, not the library"));
    }
    Ok(Some(section.data(endian, data)?))
}

/// The loader maps whole segments: a library whose segments go on where its file has ended would die with
/// SIGBUS at the first touch.
fn check_length<'data, Elf: FileHeader, Data: ReadRef<'data>>(
    file: &File<'data, Elf, Data>,
) -> Result<(), Fault> {
    let length = file.data.len().unwrap_or(0);
    let segments = file.segments.iter().filter(|one| one.p_type(file.endian) == elf::PT_LOAD);
    for segment in segments {
        let (offset, size) = segment.file_range(file.endian);
        let end = offset.saturating_add(size);
        if end > length {
            return Err(Fault::damaged(format_args!(
                "ends early: its segments reach up to byte {end}, the file has {length}"
            )));
        }
    }
    Ok(())
}

/// The dynamic section as the loader sees it: found through the segments, since the section headers are only for
/// tools.
struct Dynamic<'data> {
    flags: elf::DynamicFlags,
    flags_1: elf::DynamicFlags1,
    strings: &'data [u8],
    symbols_at: Option<u64>,
    /// Offsets into the strings.
    needed: Vec<u64>,
    search_paths: Vec<u64>,
}

impl<'data> Dynamic<'data> {
    fn read<Elf: FileHeader, Data: ReadRef<'data>>(file: &File<'data, Elf, Data>) -> Result<Self, Fault> {
        let (endian, data) = (file.endian, file.data);
        let mut this = Self {
            flags: elf::DynamicFlags(0),
            flags_1: elf::DynamicFlags1(0),
            strings: &[],
            symbols_at: None,
            needed: Vec::new(),
            search_paths: Vec::new(),
        };
        // Of several the loader takes the last.
        let segments = file.segments.iter().rev();
        let Some(entries) =
            segments.map(|one| one.dynamic(endian, data)).find_map(Result::transpose).transpose()?
        else {
            return Err(Fault::damaged("has no dynamic segment"));
        };
        let (mut strings_at, mut strings_size) = (None, None);
        for entry in entries {
            let value: u64 = entry.d_val(endian).into();
            match entry.d_tag(endian) {
                elf::DT_NULL => break,
                elf::DT_STRTAB => strings_at = Some(value),
                elf::DT_STRSZ => strings_size = Some(value),
                elf::DT_SYMTAB => this.symbols_at = Some(value),
                // A filter loads the library that it filters.
                elf::DT_NEEDED | elf::DT_FILTER | elf::DT_AUXILIARY => this.needed.push(value),
                elf::DT_RPATH | elf::DT_RUNPATH => this.search_paths.push(value),
                elf::DT_FLAGS => this.flags = elf::DynamicFlags(value),
                elf::DT_FLAGS_1 => this.flags_1 = elf::DynamicFlags1(value),
                _ => {}
            }
        }
        if let (Some(at), Some(size)) = (strings_at, strings_size) {
            this.strings = loaded(file, at, size).ok_or_else(|| {
                Fault::damaged("has a dynamic section whose strings lie outside of the file")
            })?;
        }
        Ok(this)
    }

    fn facts<Elf: FileHeader, Data: ReadRef<'data>>(
        self,
        file: &File<'data, Elf, Data>,
    ) -> Result<LinkFacts, Fault> {
        let endian = file.endian;
        let mut facts = LinkFacts {
            nodelete: self.flags_1.contains(elf::DF_1_NODELETE),
            no_open: self.flags_1.contains(elf::DF_1_NOOPEN),
            static_tls: self.flags.contains(elf::DF_STATIC_TLS),
            tls_size: file
                .segments
                .iter()
                .filter(|one| one.p_type(endian) == elf::PT_TLS)
                .map(|one| one.p_memsz(endian).into())
                .max()
                .unwrap_or(0),
            ..LinkFacts::default()
        };
        for at in &self.needed {
            facts.need(self.string(*at)?, is_base_elf);
        }
        for at in &self.search_paths {
            facts.search_paths.push(self.string(*at)?);
        }
        self.check_symbols(file)?;
        for symbol in file.symbols.iter() {
            let name_at = u64::from(symbol.st_name(endian));
            if symbol.is_undefined(endian) {
                facts.import(text_at(self.strings, name_at));
                continue;
            }
            match symbol.st_bind() {
                elf::STB_GNU_UNIQUE => facts.unique_symbols = true,
                elf::STB_GLOBAL | elf::STB_WEAK => {}
                _ => continue,
            }
            let visible = matches!(symbol.st_visibility(), elf::STV_DEFAULT | elf::STV_PROTECTED);
            facts.exports_entry |= visible && is_named(self.strings, name_at, ENTRY);
        }
        Ok(facts)
    }

    /// The symbols are read through the section headers, which alone know how many there are; they must be the
    /// ones that the loader will use.
    fn check_symbols<Elf: FileHeader, Data: ReadRef<'data>>(
        &self,
        file: &File<'data, Elf, Data>,
    ) -> Result<(), Fault> {
        let table = file.symbols;
        if table.is_empty() {
            return Ok(());
        }
        let section = file.sections.section(table.section())?;
        if self.symbols_at == Some(section.sh_addr(file.endian).into()) {
            return Ok(());
        }
        Err(Fault::damaged(
            "contradicts itself: its section headers and its dynamic section name different symbols",
        ))
    }

    fn string(&self, at: u64) -> Result<String, Fault> {
        c_string(self.strings, at).ok_or_else(|| {
            Fault::new(
                RefusalReason::Damaged,
                "has a dynamic section that names a library by text outside of its strings",
                "build it again, without tools that rewrite the dynamic section",
            )
        })
    }
}

/// The bytes of the file that are mapped at this address.
fn loaded<'data, Elf: FileHeader, Data: ReadRef<'data>>(
    file: &File<'data, Elf, Data>,
    at: u64,
    size: u64,
) -> Option<&'data [u8]> {
    let endian = file.endian;
    file.segments.iter().filter(|one| one.p_type(endian) == elf::PT_LOAD).find_map(|one| {
        let (start, length) = one.file_range(endian);
        // Not the whole segment, of which these are a small part.
        let offset = at.checked_sub(one.p_vaddr(endian).into())?;
        if offset.checked_add(size)? > length {
            return None;
        }
        file.data.read_bytes_at(start.checked_add(offset)?, size).ok()
    })
}
