//! Every way of not being a plugin has its own answer, in words that are pinned.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::{fmt::Write, os::unix::fs::symlink, path::Path};

use oxide_host::{InspectedFile, LoadPolicy, RefusalReason, inspect, inspect_with};
use support::{craft, describe, file, normalised, pairs, pairs_with, plugin, plugin_describing};

/// What `inspect` says, as a terminal would show it.
fn said(path: &Path) -> String {
    let inspection = inspect(path);
    match inspection.refused {
        Some(refused) => format!("{}: {}\nhint: {}", refused.reason.as_str(), refused.message, refused.hint),
        None => "a plugin".to_owned(),
    }
}

fn reason(path: &Path) -> RefusalReason {
    inspect(path).refused.expect("it is refused").reason
}

/// Headings and answers, normalised, for one snapshot.
#[derive(Default)]
struct Answers(String);

impl Answers {
    fn add(&mut self, what: &str, path: impl AsRef<Path>) {
        let said = normalised(&said(path.as_ref()));
        assert_eq!(said.lines().count(), 2, "a message and a hint, a line each: {said}");
        writeln!(self.0, "# {what}\n{said}\n").unwrap();
    }
}

#[test]
fn what_is_no_plugin_at_all() {
    let mut answers = Answers::default();
    let dir = support::folder();
    answers.add("no such file", dir.join("nowhere.so"));
    answers.add("through a file", file("flat.so", b"x").join("below.so"));
    symlink("gone.so", dir.join("dangling.so")).unwrap();
    answers.add("a link to nothing", dir.join("dangling.so"));
    answers.add("a folder", "/usr");
    answers.add("a device", "/dev/zero");
    std::os::unix::net::UnixListener::bind(dir.join("socket.so")).unwrap();
    answers.add("a socket", dir.join("socket.so"));
    answers.add("a name with control characters", dir.join("a\u{1b}[31mb\n.so"));
    answers.add("an empty file", file("empty.so", b""));
    answers.add("a script", file("script.so", b"#!/bin/sh\nexit 0\n"));
    answers.add("an image", file("image.so", b"\x89PNG\r\n\x1a\n0000"));
    answers.add("a static library", file("static.a", b"!<arch>\n"));
    answers.add("a DOS program", file("dos.exe", &[b"MZ".as_slice(), &[0x77; 200]].concat()));
    let mut program = craft::pe(None);
    program[0x57] = 0;
    answers.add("a Windows program", file("program.exe", &program));
    let mut object = plugin().to_vec();
    object[16] = 1;
    answers.add("an object file", file("object.so", &object));
    let mut old_program = plugin().to_vec();
    old_program[16] = 2;
    answers.add("a program", file("program", &old_program));
    answers.add("a library without a description", file("plain.so", &without_description()));
    insta::assert_snapshot!(answers.0);
}

#[test]
fn what_is_for_another_machine() {
    let mut answers = Answers::default();
    let theirs = support::description();
    for (what, description) in [("without", None), ("with", Some(theirs.as_slice()))] {
        answers.add(&format!("a DLL {what} a description"), file("echo.dll", &craft::pe(description)));
        answers.add(&format!("a dylib {what} one"), file("echo.dylib", &craft::macho(7, description)));
        let both = [(7, craft::macho(7, description)), (12, craft::macho(12, description))];
        answers.add(&format!("a universal dylib {what} one"), file("both.dylib", &craft::universal(&both)));
    }
    let mut arm = plugin().to_vec();
    arm[18..20].copy_from_slice(&[183, 0]);
    answers.add("ELF for another processor", file("arm.so", &arm));
    let mut arm = without_description();
    arm[18..20].copy_from_slice(&[183, 0]);
    answers.add("the same without a description", file("arm-plain.so", &arm));
    let mut freebsd = plugin().to_vec();
    freebsd[7] = 9;
    answers.add("ELF for another system", file("freebsd.so", &freebsd));
    let musl = pairs_with("target", "x86_64-unknown-linux-musl");
    answers.add("another C library", file("musl.so", &plugin_describing(&describe((1, 0), &musl))));
    let rude = pairs_with("target", "evil\u{1b}]0;x\u{7}\n-target");
    answers.add("a rude target", file("rude.so", &plugin_describing(&describe((1, 0), &rude))));
    insta::assert_snapshot!(answers.0);
}

#[test]
fn what_describes_itself_badly() {
    let mut answers = Answers::default();
    let mut add = |what: &str, description: &[u8]| {
        answers.add(what, file("echo.so", &plugin_describing(description)));
    };
    add("an older ABI", &describe((0, 9), &pairs()));
    add("a later ABI", &describe((2, 3), &[]));
    add("panic = abort", &describe((1, 0), &pairs_with("panic", "abort")));
    add("an unknown panic strategy", &describe((1, 0), &pairs_with("panic", "ignore")));
    add("an unknown kind", &describe((1, 0), &pairs_with("kind", "python")));
    add("an unknown kind of a later minor version", &describe((1, 7), &pairs_with("kind", "python")));
    add("no mark", b"something else");
    add("nothing", b"");
    let mut long = support::description();
    long[20..24].copy_from_slice(&9000u32.to_le_bytes());
    add("a body longer than its section", &long);
    long[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    add("a body longer than anything", &long);
    let mut short = support::description();
    short[20] -= 1;
    add("a body that ends inside a value", &short);
    short[20..24].copy_from_slice(&4u32.to_le_bytes());
    add("a key without a value", &short);
    let mut binary = support::description();
    let at = support::find(&binary, b"Says");
    binary[at] = 0xff;
    add("a body that is not text", &binary);
    let mut lacking = pairs();
    lacking.remove(2);
    add("no target", &describe((1, 0), &lacking));
    let mut twice = pairs();
    twice.push(("target", "x".to_owned()));
    add("two targets", &describe((1, 0), &twice));
    add("two descriptions", &[support::description(), support::description()].concat());
    insta::assert_snapshot!(answers.0);
}

#[test]
fn what_cannot_be_opened_safely() {
    let mut answers = Answers::default();
    let mut nameless = plugin().to_vec();
    let at = support::find(&nameless, b"_1as_0lib");
    nameless[at + 1] = b'2';
    answers.add("no entry point", file("nameless.so", &nameless));

    support::build("helper", "#[unsafe(no_mangle)] pub extern \"C\" fn helper() {}", &[]);
    let needs = support::source(
        "unsafe extern \"C\" { fn helper(); }\n\
         #[unsafe(no_mangle)] pub extern \"C\" fn call() { unsafe { helper() } }",
    );
    let folder = support::folder().to_str().unwrap();
    let needy =
        support::build("needy", &needs, &["-L", folder, "-lhelper", "-Clink-arg=-Wl,-rpath,$ORIGIN/deps"]);
    let path = file("needy.so", &needy);
    answers.add("a library from elsewhere", &path);
    assert!(inspect_with(&path, &LoadPolicy::default().allow_foreign_libraries(true)).plugin);
    let facts = InspectedFile::read(&path).unwrap().facts().clone();
    assert_eq!(facts.foreign_libraries, ["libhelper.so"]);
    assert!(facts.needed.contains(&"libc.so.6".to_owned()), "{facts:?}");
    assert_eq!(facts.search_paths, ["$ORIGIN/deps"]);

    let tls = "use std::cell::Cell;\nthread_local! { static BIG: Cell<[u8; 5000]> = const { Cell::new([0; 5000]) }; }\n\
               #[unsafe(no_mangle)] pub extern \"C\" fn touch(at: usize) -> u8 { BIG.with(|big| { \
               let mut all = big.get(); all[at] += 1; big.set(all); all[at] }) }";
    let tls = support::build("tls", &support::source(tls), &["-Ztls-model=initial-exec", "-O"]);
    if cfg!(target_env = "gnu") && std::env::var_os("GLIBC_TUNABLES").is_none() {
        let path = file("tls.so", &tls);
        assert!(InspectedFile::read(&path).unwrap().facts().static_tls);
        assert_eq!(reason(&path), RefusalReason::StaticTls);
        let hint = inspect(&path).refused.unwrap().hint;
        assert!(hint.contains("disable_initial_exec_tls") && hint.contains("local_dynamic_tls"), "{hint}");
    }

    let closed = support::build("closed", &support::source(""), &["-Clink-arg=-Wl,-z,nodlopen"]);
    answers.add("not to be opened", file("closed.so", &closed));
    insta::assert_snapshot!(answers.0);
}

#[test]
fn a_library_that_ends_early_is_damaged_wherever_it_ends() {
    let whole = plugin();
    let mut seen = Vec::new();
    for left in (5..whole.len()).step_by(whole.len() / 97) {
        let path = file("cut.so", &whole[..left]);
        assert_eq!(reason(&path), RefusalReason::Damaged, "cut to {left} of {} bytes", whole.len());
        seen.push(inspect(&path).refused.unwrap().message);
    }
    assert!(seen.iter().all(|message| message.starts_with("`cut.so` ")), "{seen:?}");
}

/// The plugin with its section under another name.
fn without_description() -> Vec<u8> {
    let mut bytes = plugin().to_vec();
    let at = support::find(&bytes, b".oxide\0");
    bytes[at + 1] = b'e';
    bytes
}
