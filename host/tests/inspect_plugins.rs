//! What is understood of a plugin, and what of it decides over its unload.
#![cfg(target_os = "linux")]

mod support;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, time::Duration};

use oxide_host::{InspectedFile, Inspection, LoadPolicy, RefusalReason, inspect, report::Holder};
use oxide_plugin_api::{ModuleKind, ffi::describe::ABI_VERSION};
use support::{craft, describe, file, normalised, pairs, pairs_with, plugin, plugin_describing};

/// A plugin whose description the real macro code wrote, in the real section.
fn really_described(section: &str) -> Vec<u8> {
    let writer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api/src/ffi/describe.rs");
    let source = format!(
        "#![allow(dead_code)]\n#[path = {writer:?}]\nmod describe;\nuse describe::*;\n\
         const PAIRS: &[(&str, &str)] = &[(keys::API, API_VERSION), (keys::RUSTC, RUSTC), (keys::TARGET, TARGET),\n\
         (keys::PANIC, \"unwind\"), (keys::PACKAGE, \"real\"), (keys::PACKAGE_VERSION, \"0.3.0\"),\n\
         (keys::DESCRIPTION, \"\"), (keys::KIND, \"wasm\"), (keys::CAPABILITIES, \"\"), (keys::ALLOCATOR, \"none\")];\n\
         #[used]\n#[unsafe(link_section = \"{section}\")]\n\
         static DESCRIPTION: Description<{{ body_len(PAIRS) }}> = Description::new(PAIRS);\n\
         #[unsafe(no_mangle)]\npub extern \"C\" fn _1as_0lib_1header_0root_bmodule_bloader() {{}}\n"
    );
    support::build("real", &source, &["-Cstrip=symbols", "-O"])
}

#[test]
fn what_the_macro_writes_is_what_is_read() {
    let path = file("real.so", &really_described(".oxide"));
    let file = InspectedFile::read(&path).unwrap();
    file.check_loadable(&LoadPolicy::default()).unwrap();
    let said = file.description();
    assert_eq!(said.abi, ABI_VERSION);
    assert_eq!((said.package.as_str(), said.package_version.as_str()), ("real", "0.3.0"));
    assert_eq!((said.kind, said.allocator.as_str()), (ModuleKind::Wasm, "none"));
    assert!(said.capabilities.is_empty() && said.description.is_empty());
    assert_eq!(file.bytes(), std::fs::read(&path).unwrap());
    assert_eq!(file.path(), path);
}

#[test]
fn the_json_of_a_plugin_and_of_a_refusal() {
    let mut plugin = inspect(file("echo.so", plugin()));
    // What rustc and the linker make of an empty library is theirs to change.
    let about = plugin.about.as_mut().unwrap();
    about.needed.retain(|name| name == "libc.so.6");
    about.retained_by.iter_mut().for_each(|one| (one.count, one.detail) = (1, "imports `signal`".to_owned()));
    let refused = inspect(file("no.so", b"text"));
    let mut text = String::new();
    for inspection in [&plugin, &refused] {
        text.push_str(&normalised(&serde_json::to_string_pretty(inspection).unwrap()));
        text.push('\n');
        let again: Inspection = serde_json::from_str(&serde_json::to_string(inspection).unwrap()).unwrap();
        assert_eq!(&again, inspection);
    }
    for (label, value) in plugin.rows() {
        text.push_str(&normalised(&format!("{label:>14}  {value}\n")));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_refused_plugin_still_says_what_it_is() {
    let abort = describe((1, 0), &pairs_with("panic", "abort"));
    let inspection = inspect(file("abort.so", &plugin_describing(&abort)));
    assert!(!inspection.plugin);
    assert_eq!(inspection.refused.unwrap().reason, RefusalReason::PanicAbort);
    assert_eq!(inspection.about.unwrap().package, "echo");
}

#[test]
fn a_later_minor_version_and_unknown_keys_are_welcome() {
    let mut later = pairs();
    later.insert(0, ("colour", "blue".to_owned()));
    assert!(inspect(file("later.so", &plugin_describing(&describe((1, 9), &later)))).plugin);
}

#[test]
fn text_from_a_file_reaches_no_terminal_raw() {
    let rude = pairs_with("description", "\u{1b}[2Jgone\r\nand \u{202e}back");
    let inspection = inspect(file("rude.so", &plugin_describing(&describe((1, 0), &rude))));
    assert!(inspection.plugin);
    for (_, value) in inspection.rows() {
        assert!(!value.contains(char::is_control) && !value.contains('\u{202e}'), "{value:?}");
    }
}

#[test]
fn a_path_that_is_not_utf8_has_an_answer_and_json() {
    let path = support::folder().join(OsStr::from_bytes(b"caf\xe9.so"));
    let inspection = inspect(&path);
    assert_eq!(inspection.refused.as_ref().unwrap().reason, RefusalReason::NotFound);
    serde_json::to_string(&inspection).unwrap();
}

#[test]
fn imports_that_nobody_counts_are_told() {
    let busy = support::source(
        "struct Loud(std::cell::Cell<u8>);\nimpl Drop for Loud { fn drop(&mut self) { println!(\"{}\", self.0.get()) } }\n\
         thread_local! { static LOUD: Loud = Loud(std::cell::Cell::new(1)); }\n\
         #[unsafe(no_mangle)] pub extern \"C\" fn run() {\n\
         std::thread::spawn(|| LOUD.with(|it| it.0.set(2))).join().unwrap() }",
    );
    let path = file("busy.so", &support::build("busy", &busy, &["-Clink-arg=-Wl,-z,nodelete"]));
    let inspection = inspect(&path);
    assert!(inspection.plugin, "{inspection:?}");
    let holders: Vec<Holder> = inspection.about.unwrap().retained_by.iter().map(|one| one.holder).collect();
    assert_eq!(holders, [Holder::ForeignImport, Holder::Loader]);
    let facts = InspectedFile::read(&path).unwrap().facts().clone();
    assert!(facts.nodelete && !facts.unique_symbols);
    for name in ["pthread_create", "__cxa_thread_atexit_impl"] {
        assert!(facts.foreign_imports.iter().any(|known| known == name), "{name} in {facts:?}");
    }
}

#[test]
fn a_unique_symbol_is_seen() {
    use object::{Endianness, elf, read::elf::ElfFile64};
    let mut bytes = plugin().to_vec();
    let at = {
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).unwrap();
        let symbols = file.elf_dynamic_symbol_table();
        let name = b"_1as_0lib_1header_0root_bmodule_bloader";
        let (index, _) = symbols
            .enumerate()
            .find(|(_, symbol)| symbols.symbol_name(Endianness::Little, symbol).is_ok_and(|it| it == name))
            .unwrap();
        let section = file.elf_section_table().section(symbols.section()).unwrap();
        section.sh_offset.get(Endianness::Little) as usize + index.0 * size_of::<elf::Sym64<Endianness>>()
    };
    // `st_info`: the binding is its upper half.
    bytes[at + 4] = (10 << 4) | (bytes[at + 4] & 0xf);
    let facts = InspectedFile::read(&file("unique.so", &bytes)).unwrap().facts().clone();
    assert!(facts.unique_symbols && facts.exports_entry, "{facts:?}");
    assert_eq!(facts.retained_by().last().unwrap().holder, Holder::Loader);
}

#[test]
fn the_libraries_of_other_systems_are_understood_too() {
    let theirs = describe((1, 0), &pairs_with("target", "x86_64-pc-windows-msvc"));
    let dll = InspectedFile::read(&file("echo.dll", &craft::pe(Some(&theirs)))).unwrap();
    assert_eq!(dll.description().package, "echo");
    assert_eq!(dll.facts().needed, ["KERNEL32.dll", "libwinpthread-1.dll"]);
    assert_eq!(dll.facts().foreign_libraries, ["libwinpthread-1.dll"]);
    assert_eq!(dll.facts().foreign_imports, ["pthread_create"]);
    assert!(dll.facts().exports_entry);

    for part in [craft::macho(12, Some(&theirs)), craft::universal(&[(12, craft::macho(12, Some(&theirs)))])]
    {
        let dylib = InspectedFile::read(&file("echo.dylib", &part)).unwrap();
        assert_eq!(dylib.description().target, "x86_64-pc-windows-msvc");
        assert_eq!(dylib.facts().foreign_libraries, ["@rpath/libhelper.dylib"]);
        assert_eq!(dylib.facts().foreign_imports, ["pthread_create"]);
        assert!(dylib.facts().exports_entry);
    }
}

#[test]
fn a_named_pipe_keeps_nobody_waiting() {
    let path = support::folder().join("pipe.so");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(inspect(&path)).unwrap());
    let inspection = receiver.recv_timeout(Duration::from_secs(10)).expect("an answer");
    let refused = inspection.refused.unwrap();
    assert_eq!(refused.reason, RefusalReason::NotAFile);
    assert_eq!(refused.message, "`pipe.so` is a named pipe, not a file");
}

#[test]
fn a_huge_file_is_refused_without_being_read() {
    let path = support::folder().join("huge.so");
    let huge = std::fs::File::create(&path).unwrap();
    huge.set_len(1 << 40).unwrap();
    assert_eq!(inspect(&path).refused.unwrap().reason, RefusalReason::NotALibrary);
    std::fs::write(&path, plugin()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(inspect(&path).refused.unwrap().reason, RefusalReason::Unreadable);
}
