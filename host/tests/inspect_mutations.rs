//! No bytes, however bent, make the inspection panic, and what it accepts is well formed.
#![cfg(target_os = "linux")]

mod support;

use std::{path::Path, sync::OnceLock};

use oxide_host::{InspectedFile, LoadPolicy, ModuleFile, StagingDir, inspect};
use proptest::{collection::vec, prelude::*};
use support::{craft, description, plugin};
use tempfile::TempDir;

/// One way of bending a file.
#[derive(Clone, Debug)]
enum Bend {
    Flip(usize, u8),
    /// A little-endian value where a length or an offset may be.
    Number(usize, u8, u64),
    Cut(usize),
    /// A piece copied over another place.
    Splice {
        from: usize,
        to: usize,
        length: usize,
    },
    Remove {
        at: usize,
        length: usize,
    },
}

/// Offsets: often in the headers at the start, where they do most, or near the end, where ELF's sections are.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..0x400, 2 => any::<usize>(), 1 => (0usize..0x1000).prop_map(|it| usize::MAX - it)]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(u64::from(u32::MAX)),
        Just(1 << 31),
        0u64..0x10000,
        any::<u64>(),
    ]
}

fn bend() -> impl Strategy<Value = Bend> {
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, to)| Bend::Flip(at, to)),
        6 => (place(), prop_oneof![Just(2u8), Just(4), Just(8)], number())
            .prop_map(|(at, width, value)| Bend::Number(at, width, value)),
        1 => any::<usize>().prop_map(Bend::Cut),
        2 => (place(), place(), 1usize..512).prop_map(|(from, to, length)| Bend::Splice { from, to, length }),
        1 => (place(), 1usize..64).prop_map(|(at, length)| Bend::Remove { at, length }),
    ]
}

impl Bend {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let size = bytes.len();
        if size < 16 {
            return;
        }
        // Places near `usize::MAX` count from the end.
        let within = |at: usize| {
            if at > usize::MAX - 0x1000 { size - 1 - (usize::MAX - at) % size } else { at % size }
        };
        match *self {
            Self::Flip(at, to) => bytes[within(at)] ^= to,
            Self::Number(at, width, value) => {
                let at = within(at) & !1;
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_le_bytes()).take(width.into()) {
                    *byte = new;
                }
            }
            Self::Cut(at) => bytes.truncate(at % size),
            Self::Splice { from, to, length } => {
                let (from, to) = (within(from), within(to));
                let length = length.min(size - from).min(size - to);
                bytes.copy_within(from..from + length, to);
            }
            Self::Remove { at, length } => {
                let at = within(at);
                bytes.drain(at..(at + length).min(size));
            }
        }
    }
}

/// What is bent: a real ELF plugin, its description alone, and libraries of the other formats.
fn originals() -> &'static [Vec<u8>] {
    static ORIGINALS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ORIGINALS.get_or_init(|| {
        let described = description();
        let macho = craft::macho(7, Some(&described));
        let both = craft::universal(&[(7, macho.clone()), (12, craft::macho(12, Some(&described)))]);
        vec![plugin().to_vec(), craft::pe(Some(&described)), macho, both]
    })
}

/// Guests that are bent: a core module, and a component with parts of its own.
fn guests() -> &'static [Vec<u8>] {
    static GUESTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let core = r#"(module
            (import "env" "log" (func (param i32 i32)))
            (memory (export "memory") 1)
            (table (export "calls") 2 funcref)
            (func $f (export "oxide_invoke") (param i32) (result i32) (local.get 0))
            (elem (i32.const 0) $f) (data (i32.const 8) "some data")
            (@custom "notes" "for nobody"))"#;
        let component = r#"(component
            (import "oxide:module/bus@0.1.0" (instance (export "publish" (func (param "topic" string)))))
            (component (import "inner" (func)) (core module (import "hidden" "f" (func))))
            (core module $m (func (export "run")) (memory (export "memory") 1))
            (core instance $i (instantiate $m))
            (func $run (canon lift (core func $i "run")))
            (export "start" (func $run)))"#;
        [core, component].map(|text| wat::parse_str(text).expect("it is right")).to_vec()
    })
}

/// A file that is copied first, and read piece by piece, is judged as one of which every byte was read.
fn check_taken(path: &Path, bytes: &[u8]) -> Result<(), TestCaseError> {
    static STAGING: OnceLock<(TempDir, StagingDir)> = OnceLock::new();
    let (_, staging) = STAGING.get_or_init(|| {
        let folder = tempfile::tempdir().expect("room for copies");
        let staging = StagingDir::open(Some(folder.path())).expect("copies may lie there");
        (folder, staging)
    });
    match (InspectedFile::read(path), InspectedFile::take(path, staging)) {
        (Ok(read), Ok(taken)) => {
            prop_assert_eq!(taken.bytes(), bytes);
            prop_assert_eq!((read.description(), read.facts()), (taken.description(), taken.facts()));
            let [read, taken] = [read, taken].map(|file| file.check_loadable(&LoadPolicy::default()));
            prop_assert_eq!(read, taken);
        }
        (Err(read), Err(taken)) => prop_assert_eq!(read, taken),
        (read, taken) => prop_assert!(false, "{read:?}, but {taken:?}"),
    }
    Ok(())
}

/// Whatever was accepted can be shown and judged.
fn check(name: &str, bytes: &[u8]) -> Result<(), TestCaseError> {
    let path = support::file(name, bytes);
    if let Ok(file) = InspectedFile::read(&path) {
        prop_assert_eq!(file.bytes(), bytes);
        let said = file.description();
        prop_assert_eq!(said.abi.0, 1);
        prop_assert!(matches!(said.panic.as_str(), "unwind" | "abort"));
        prop_assert!(said.capabilities.iter().all(|one| !one.is_empty() && !one.contains(',')));
        for text in [&said.package, &said.target, &said.rustc, &said.package_version] {
            prop_assert!(!text.contains('\0'));
        }
        let _ = file.check_loadable(&LoadPolicy::default());
    }
    check_taken(&path, bytes)?;
    if let Ok(ModuleFile::Guest(guest)) = ModuleFile::read(&path) {
        prop_assert_eq!(guest.bytes(), bytes);
        prop_assert_eq!(guest.facts().size, bytes.len() as u64);
        prop_assert!(InspectedFile::read(&path).is_err());
    }
    let inspection = inspect(&path);
    prop_assert_eq!(inspection.plugin, inspection.refused.is_none());
    prop_assert!(!inspection.plugin || inspection.about.is_some() != inspection.guest.is_some());
    for (_, value) in inspection.rows() {
        prop_assert!(!value.contains(char::is_control), "{value:?}");
    }
    if let Some(refused) = &inspection.refused {
        for line in [&refused.message, &refused.hint] {
            prop_assert!(
                !line.contains(char::is_control) && !line.ends_with('.') && !line.is_empty(),
                "{line:?}"
            );
        }
        prop_assert!(refused.message.starts_with(&format!("`{name}` ")), "{}", refused.message);
    }
    let json = serde_json::to_string(&inspection).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let again = serde_json::from_str(&json).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(inspection, again);
    Ok(())
}

fn cases(default: u32) -> ProptestConfig {
    // `PROPTEST_CASES` asks for a longer run.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// What libraries and guests begin with, and nothing.
const MARKS: &[&[u8]] = &[
    b"\x7fELF\x02\x01\x01",
    b"\x7fELF\x01\x02\x01",
    b"MZ",
    b"\xcf\xfa\xed\xfe",
    b"\xfe\xed\xfa\xce",
    b"\xca\xfe\xba\xbe\0\0\0\x02",
    b"\0asm\x01\0\0\0",
    b"\0asm\x0d\0\x01\0",
    b"",
];

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn bent_libraries(which in 0usize..4, bends in vec(bend(), 1..12)) {
        let mut bytes = originals()[which].clone();
        bends.iter().for_each(|bend| bend.apply(&mut bytes));
        check("bent.so", &bytes)?;
    }

    #[test]
    fn bent_guests(which in 0usize..2, bends in vec(bend(), 1..8)) {
        let mut bytes = guests()[which].clone();
        bends.iter().for_each(|bend| bend.apply(&mut bytes));
        check("bent.wasm", &bytes)?;
    }

    #[test]
    fn bent_descriptions(bends in vec(bend(), 1..6)) {
        let mut bytes = description();
        bends.iter().for_each(|bend| bend.apply(&mut bytes));
        bytes.truncate(support::ROOM);
        check("described.so", &support::plugin_describing(&bytes))?;
    }

    #[test]
    fn any_bytes_behind_any_mark(
        mark in proptest::sample::select(MARKS),
        rest in vec(any::<u8>(), 0..2000),
    ) {
        check("any.so", &[mark, rest.as_slice()].concat())?;
    }
}
