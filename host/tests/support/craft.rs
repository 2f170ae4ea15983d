//! PE and Mach-O libraries by hand: the smallest that have everything which is looked at.

/// A PE library for x86_64 whose offsets in the file are its addresses.
///
/// It imports from `KERNEL32.dll` and `libwinpthread-1.dll` and exports the entry point.
pub(crate) fn pe(description: Option<&[u8]>) -> Vec<u8> {
    const SECTIONS: usize = 0x148;
    let mut file = vec![0; 0x600];
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &0x40u32.to_le_bytes());
    put(&mut file, 0x40, b"PE\0\0");
    put(&mut file, 0x44, &0x8664u16.to_le_bytes());
    put(&mut file, 0x46, &(1 + u16::from(description.is_some())).to_le_bytes());
    put(&mut file, 0x54, &240u16.to_le_bytes());
    put(&mut file, 0x56, &0x2022u16.to_le_bytes()); // a DLL
    let optional = 0x58;
    put(&mut file, optional, &0x20bu16.to_le_bytes());
    put(&mut file, optional + 24, &0x1_8000_0000u64.to_le_bytes());
    put(&mut file, optional + 32, &0x200u32.to_le_bytes());
    put(&mut file, optional + 36, &0x200u32.to_le_bytes());
    put(&mut file, optional + 108, &16u32.to_le_bytes());
    // The export and import directories.
    put(&mut file, optional + 112, &pair(0x200, 0x100));
    put(&mut file, optional + 120, &pair(0x300, 60));
    section(&mut file, SECTIONS, b".rdata", 0x200, 0x400);

    // One export: its address, its name, its ordinal.
    for (at, value) in [(0x20c, 0x260), (0x210, 1), (0x214, 1), (0x218, 1), (0x21c, 0x240), (0x220, 0x244)] {
        put(&mut file, at, &u32::to_le_bytes(value));
    }
    put(&mut file, 0x224, &0x248u32.to_le_bytes());
    put(&mut file, 0x240, &0x500u32.to_le_bytes());
    put(&mut file, 0x244, &0x270u32.to_le_bytes());
    put(&mut file, 0x260, b"echo.dll\0");
    put(&mut file, 0x270, b"_1as_0lib_1header_0root_bmodule_bloader\0");

    // Two import descriptors: thunks at, 0, 0, name at, thunks at.
    for (at, name, thunks) in [(0x300, 0x380, 0x3c0), (0x314, 0x390, 0x3d0)] {
        for (field, value) in [(0, thunks), (12, name), (16, thunks)] {
            put(&mut file, at + field, &u32::to_le_bytes(value));
        }
    }
    put(&mut file, 0x380, b"KERNEL32.dll\0");
    put(&mut file, 0x390, b"libwinpthread-1.dll\0");
    put(&mut file, 0x3c0, &0x3e0u64.to_le_bytes());
    put(&mut file, 0x3d0, &0x3f0u64.to_le_bytes());
    put(&mut file, 0x3e0, b"\0\0Sleep\0");
    put(&mut file, 0x3f0, b"\0\0pthread_create\0");

    if let Some(description) = description {
        section(&mut file, SECTIONS + 40, b".oxide", 0x600, description.len());
        file.extend_from_slice(description);
        file.resize(file.len().next_multiple_of(0x200), 0);
    }
    file
}

fn section(file: &mut [u8], at: usize, name: &[u8], offset: u32, size: usize) {
    let size = u32::try_from(size).unwrap();
    put(file, at, name);
    put(file, at + 8, &pair(size, offset));
    put(file, at + 16, &pair(size.next_multiple_of(0x200), offset));
    put(file, at + 36, &0x4000_0040u32.to_le_bytes());
}

/// A Mach-O library for x86_64 (`cpu` 7) or aarch64 (`cpu` 12) that imports `pthread_create` and exports the entry
/// point.
pub(crate) fn macho(cpu: u32, description: Option<&[u8]>) -> Vec<u8> {
    let mut commands: Vec<Vec<u8>> = Vec::new();
    let body = description.unwrap_or(b"nothing");
    let name: &[u8] = if description.is_some() { b"__oxide" } else { b"__const" };
    let start = 0x400usize;
    let mut strings = b"\0_pthread_create\0".to_vec();
    let entry = strings.len();
    strings.extend_from_slice(b"__1as_0lib_1header_0root_bmodule_bloader\0");
    let symbols = start + body.len().next_multiple_of(8);
    let strings_at = symbols + 32;
    let end = strings_at + strings.len();

    let mut segment = Vec::new();
    words(&mut segment, &[0x19, 72 + 80]);
    segment.extend_from_slice(&padded::<16>(b"__DATA"));
    longs(&mut segment, &[0, 0x4000, 0, end as u64]);
    words(&mut segment, &[3, 3, 1, 0]);
    segment.extend_from_slice(&padded::<16>(name));
    segment.extend_from_slice(&padded::<16>(b"__DATA"));
    longs(&mut segment, &[start as u64, body.len() as u64]);
    words(&mut segment, &[start as u32, 3, 0, 0, 0, 0, 0, 0]);
    commands.push(segment);
    for library in ["/usr/lib/libSystem.B.dylib", "@rpath/libhelper.dylib"] {
        let mut dylib = Vec::new();
        let size = (24 + library.len() + 1).next_multiple_of(8);
        words(&mut dylib, &[0xc, size as u32, 24, 0, 0, 0]);
        dylib.extend_from_slice(library.as_bytes());
        dylib.resize(size, 0);
        commands.push(dylib);
    }
    let mut symtab = Vec::new();
    words(&mut symtab, &[2, 24, symbols as u32, 2, strings_at as u32, strings.len() as u32]);
    commands.push(symtab);

    let size: usize = commands.iter().map(Vec::len).sum();
    let mut file = Vec::new();
    words(&mut file, &[0xfeed_facf, 0x0100_0000 | cpu, 3, 6, commands.len() as u32, size as u32, 0, 0]);
    commands.into_iter().for_each(|command| file.extend(command));
    file.resize(start, 0);
    file.extend_from_slice(body);
    file.resize(symbols, 0);
    for (name, kind, section) in [(1, 1u8, 0u8), (entry as u32, 0xf, 1)] {
        words(&mut file, &[name]);
        file.extend_from_slice(&[kind, section, 0, 0]);
        longs(&mut file, &[0]);
    }
    file.extend_from_slice(&strings);
    file
}

/// A universal file of these libraries.
pub(crate) fn universal(parts: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = 0xcafe_babe_u32.to_be_bytes().to_vec();
    file.extend_from_slice(&(parts.len() as u32).to_be_bytes());
    let mut at = 0x1000;
    for (cpu, bytes) in parts {
        for word in [0x0100_0000 | cpu, 3, at, bytes.len() as u32, 12] {
            file.extend_from_slice(&word.to_be_bytes());
        }
        at += (bytes.len() as u32).next_multiple_of(0x1000);
    }
    for (_, bytes) in parts {
        file.resize(file.len().next_multiple_of(0x1000), 0);
        file.extend_from_slice(bytes);
    }
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    put(&mut bytes, 0, &first.to_le_bytes());
    put(&mut bytes, 4, &second.to_le_bytes());
    bytes
}

fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    put(&mut bytes, 0, text);
    bytes
}

fn words(to: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| to.extend_from_slice(&word.to_le_bytes()));
}

fn longs(to: &mut Vec<u8>, longs: &[u64]) {
    longs.iter().for_each(|long| to.extend_from_slice(&long.to_le_bytes()));
}
