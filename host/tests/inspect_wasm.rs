//! What is understood of a WASM guest's file, and how one that is not whole is refused.

use std::{fmt::Write, fs, path::PathBuf};

use oxide_host::{Inspection, ModuleFile, RefusalReason, WasmFacts, WasmFormat, inspect};
use tempfile::TempDir;

const CORE: &str = r#"
    (module
      (import "env" "log" (func (param i32 i32)))
      (import "env" "shared" (memory 1))
      (global (export "version") i32 (i32.const 3))
      (table (export "calls") 2 funcref)
      (func (export "oxide_invoke") (param i32 i32 i32 i32) (result i64) (i64.const 0))
      (@custom "notes" "for nobody"))
"#;

const COMPONENT: &str = r#"
    (component
      (import "oxide:module/bus@0.1.0" (instance (export "publish" (func (param "topic" string)))))
      (component (import "inner" (func)) (core module (import "hidden" "f" (func))))
      (core module $m (func (export "run")) (memory (export "memory") 1))
      (core instance $i (instantiate $m))
      (func $run (canon lift (core func $i "run")))
      (export "start" (func $run)))
"#;

/// Files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn assemble(&self, name: &str, text: &str) -> PathBuf {
        self.write(name, &wat::parse_str(text).unwrap())
    }

    fn facts(&self, text: &str) -> WasmFacts {
        match ModuleFile::read(&self.assemble("guest.wasm", text)).unwrap() {
            ModuleFile::Guest(guest) => guest.facts().clone(),
            ModuleFile::Plugin(file) => panic!("{file:?}"),
        }
    }

    /// What `inspect` says of these bytes, as a terminal would show it.
    fn refusal(&self, name: &str, bytes: &[u8]) -> String {
        let refused = inspect(self.write(name, bytes)).refused.expect("it is refused");
        format!("{}: {}\nhint: {}", refused.reason.as_str(), refused.message, refused.hint)
    }
}

fn listed(items: &[oxide_host::WasmItem]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[test]
fn a_core_module_tells_its_imports_and_exports() {
    let facts = Files::new().facts(CORE);
    assert_eq!(facts.format, WasmFormat::Core);
    assert_eq!(listed(&facts.imports), ["func env.log", "memory env.shared"]);
    assert_eq!(listed(&facts.exports), ["global version", "table calls", "func oxide_invoke"]);
}

#[test]
fn a_component_tells_its_own_and_not_those_of_its_parts() {
    let facts = Files::new().facts(COMPONENT);
    assert_eq!(facts.format, WasmFormat::Component);
    assert_eq!(listed(&facts.imports), ["instance oxide:module/bus@0.1.0"]);
    assert_eq!(listed(&facts.exports), ["func start"]);
}

#[test]
fn the_json_of_a_guest() {
    let files = Files::new();
    let path = files.assemble("hello.wasm", CORE);
    let mut inspection = inspect(&path);
    assert_eq!(inspection.path, path.to_string_lossy());
    inspection.path = "hello.wasm".to_owned();
    let json = serde_json::to_string_pretty(&inspection).unwrap();
    assert_eq!(serde_json::from_str::<Inspection>(&json).unwrap(), inspection);
    let rows: String = inspection.rows().iter().fold(String::new(), |mut rows, (label, value)| {
        writeln!(rows, "{label:>7}  {value}").unwrap();
        rows
    });
    insta::assert_snapshot!(format!("{json}\n{rows}"));
}

#[test]
fn of_very_many_exports_the_first_are_listed_and_the_others_counted() {
    let exports: String = (0..1234).fold(String::new(), |mut all, number| {
        write!(all, "(export \"e{number}\" (func 0))").unwrap();
        all
    });
    let facts = Files::new().facts(&format!("(module (func) {exports})"));
    assert_eq!((facts.exports.len(), facts.more_exports), (1000, 234));
    assert_eq!((facts.imports.len(), facts.more_imports), (0, 0));
    assert_eq!(facts.exports[999].name, "e999");
}

#[test]
fn names_cannot_steer_a_terminal() {
    let files = Files::new();
    let text = "(module (func (export \"a\\1b[2J\\0ab\")))";
    let inspection = inspect(files.assemble("rude.wasm", text));
    assert_eq!(inspection.guest.as_ref().unwrap().wasm.exports[0].name, "a\u{1b}[2J\nb");
    let exports = inspection.rows().into_iter().find(|(label, _)| *label == "exports").unwrap();
    assert_eq!(exports.1, "func a\\u{1b}[2J\\nb");
}

#[test]
fn what_is_no_whole_guest_is_refused_with_the_reason() {
    let files = Files::new();
    let core = wat::parse_str(CORE).unwrap();
    let mut answers = String::new();
    let mut add = |what: &str, bytes: &[u8]| {
        writeln!(answers, "# {what}\n{}\n", files.refusal("guest.wasm", bytes)).unwrap();
    };
    add("half a header", &core[..6]);
    add("a version that nobody knows", b"\0asm\x02\0\0\0");
    add("a component of an old draft", b"\0asm\x0c\0\x01\0");
    add("cut in the middle of a section", &core[..core.len() - 40]);
    add("a section that is longer than the file", b"\0asm\x01\0\0\0\x01\x7f\x00");
    add("a section of an unknown kind", b"\0asm\x01\0\0\0\x55\x01\0");
    add("sections out of order", b"\0asm\x01\0\0\0\x03\x01\0\x01\x01\0");
    add("an export without a name's end", b"\0asm\x01\0\0\0\x07\x03\x01\x30a");
    add("a function section without its code", b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0");
    add("text", b"  (module (func))");
    add("a component's text", b"(component)");
    add("neither", b"\0asn\x01\0\0\0");
    insta::assert_snapshot!(answers);
}

#[test]
fn a_guest_that_ends_early_is_damaged_or_a_shorter_guest() {
    let files = Files::new();
    for text in [CORE, COMPONENT] {
        let whole = wat::parse_str(text).unwrap();
        let mut damaged = 0;
        for left in 4..whole.len() {
            let inspection = inspect(files.write("cut.wasm", &whole[..left]));
            match inspection.refused {
                Some(refused) => {
                    assert_eq!(refused.reason, RefusalReason::Damaged, "{refused:?}");
                    damaged += 1;
                }
                // Cut between two sections, there is nothing that tells.
                None => assert_eq!(inspection.guest.unwrap().wasm.size, left as u64),
            }
        }
        assert!(damaged * 10 > whole.len() * 8, "{damaged} of {}", whole.len());
    }
}

#[test]
fn modules_inside_of_modules_end_somewhere() {
    let nested = |depth: usize| {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        for _ in 0..depth {
            let mut outer = b"\0asm\x0d\0\x01\0\x04".to_vec();
            let mut length = bytes.len();
            while length >= 0x80 {
                outer.push(length as u8 | 0x80);
                length >>= 7;
            }
            outer.push(length as u8);
            outer.extend(bytes);
            bytes = outer;
        }
        bytes
    };
    let files = Files::new();
    assert!(inspect(files.write("deep.wasm", &nested(100))).plugin);
    insta::assert_snapshot!(files.refusal("deep.wasm", &nested(101)), @r"
    damaged: `deep.wasm` holds more than 100 modules and components, one inside the other
    hint: build it without so many layers
    ");
    assert!(!inspect(files.write("deep.wasm", &nested(2_000))).plugin);
}

#[test]
fn what_is_read_is_what_is_kept() {
    let files = Files::new();
    // A small one, and one that is read in another way.
    for padding in [10, 6 << 20] {
        let mut bytes = wat::parse_str(CORE).unwrap();
        let filler = format!("(module (@custom \"filler\" \"{}\"))", "x".repeat(padding));
        bytes.extend(&wat::parse_str(filler).unwrap()[8..]);
        let path = files.write("guest.wasm", &bytes);
        let guest = ModuleFile::read(&path).unwrap();
        fs::write(&path, b"something else").unwrap();
        assert!(guest.bytes() == bytes);
    }
}
