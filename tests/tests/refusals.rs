//! A file that this host cannot run is refused before any of its code runs, with what was found, what was
//! expected and what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use oxide_host::{Host, RefusalReason};
use oxide_tests::{
    build::{self, panic_abort},
    file,
    misbehave::{Changed, changed},
    plugin, told, workspace,
};

/// What `load` says to the file, after having seen that nothing came of it.
async fn refused(path: impl AsRef<Path>, reason: RefusalReason) -> String {
    let host = Host::new().unwrap();
    let error = host.load(&path).await.unwrap_err();
    assert_eq!(error.refusal(), Some(reason), "{error}");
    assert!(host.list().await.is_empty());
    told(&error)
}

/// The bytes of the echo plugin.
fn echo() -> Vec<u8> {
    fs::read(plugin("echo")).unwrap()
}

/// The echo plugin with every `from` made a `to` of the same length.
fn echo_with(from: &[u8], to: &[u8]) -> Changed {
    assert_eq!(from.len(), to.len());
    let mut bytes = echo();
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    changed("echo", &bytes)
}

#[tokio::test]
async fn what_is_no_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("libempty.so"), "").unwrap();
    fs::write(path("libtext.so"), "hello\n").unwrap();
    fs::create_dir(path("libfolder.so")).unwrap();
    let tellings = [
        refused(path("libmissing.so"), RefusalReason::NotFound).await,
        refused(path("libfolder.so"), RefusalReason::NotAFile).await,
        refused(path("libempty.so"), RefusalReason::NotALibrary).await,
        refused(path("libtext.so"), RefusalReason::NotALibrary).await,
    ];
    insta::assert_snapshot!(tellings.join("\n\n"), @r#"
    error[not_found]: `libmissing.so` does not exist
    hint: check the path

    error[not_a_file]: `libfolder.so` is a folder, not a file
    hint: name the plugin's library file itself

    error[not_a_library]: `libempty.so` is empty
    hint: copy it again, or build it again; it may still be being written

    error[not_a_library]: `libtext.so` is a text file, not a dynamic library
    hint: name the dynamic library that cargo built from a crate with `crate-type = ["cdylib"]`: here its name ends in `.so`
    "#);
}

#[tokio::test]
async fn a_library_that_is_damaged_is_refused_wherever_it_was_cut() {
    let bytes = echo();
    for cut in [64, 100, 4096, bytes.len() / 2, bytes.len() - 4096, bytes.len() - 64] {
        let host = Host::new().unwrap();
        let error = host.load(changed("cut", &bytes[..cut])).await.unwrap_err();
        assert!(error.refusal().is_some(), "cut at {cut}: {error}");
    }
}

#[tokio::test]
async fn a_library_that_is_no_plugin_is_refused() {
    let telling = refused(echo_with(b".oxide\0", b".oxidf\0"), RefusalReason::NoDescription).await;
    insta::assert_snapshot!(telling, @r#"
    error[no_description]: `libecho.so` is a dynamic library, but not a plugin: it carries no description
    hint: depend on oxide-plugin-api and write `export_module!(Type)` in the root of the cdylib
    "#);
    let telling = refused(
        echo_with(b"_1as_0lib_1header_0root_bmodule_bloader\0", b"_1as_0lib_1header_0root_bmodule_bloadeR\0"),
        RefusalReason::Damaged,
    )
    .await;
    insta::assert_snapshot!(telling, @r#"
    error[damaged]: `libecho.so` has a description but does not export the entry point of a plugin
    hint: build it as a cdylib with `export_module!` in its root, and keep its dynamic symbols: no version script may hide them
    "#);
}

#[tokio::test]
async fn a_plugin_for_another_machine_is_refused() {
    let mut bytes = echo();
    assert_eq!(&bytes[..4], b"\x7fELF");
    // e_machine: RISC-V.
    bytes[18..20].copy_from_slice(&243_u16.to_le_bytes());
    insta::assert_snapshot!(refused(changed("echo", &bytes), RefusalReason::WrongTarget).await, @r#"
    error[wrong_target]: `libecho.so` is an ELF library for riscv64, this host runs ELF libraries for x86_64 Linux
    hint: build it for this host (`cargo build --target x86_64-unknown-linux-gnu`), or load it into a host of its own target
    "#);
}

#[tokio::test]
async fn a_plugin_of_another_abi_major_is_refused() {
    let magic = b"oxide-plugin\0\x1a\r\n";
    let (from, to) = ([magic.as_slice(), &[1, 0]].concat(), [magic.as_slice(), &[2, 0]].concat());
    insta::assert_snapshot!(refused(echo_with(&from, &to), RefusalReason::AbiMismatch).await, @r#"
    error[abi_mismatch]: `libecho.so` was built for plugin ABI 2.0, this host speaks 1.0
    hint: load it into a host of plugin ABI 2, or build it on an oxide-plugin-api of ABI 1
    "#);
}

#[tokio::test]
async fn a_plugin_that_would_abort_on_a_panic_is_refused() {
    insta::assert_snapshot!(refused(panic_abort(), RefusalReason::PanicAbort).await, @r#"
    error[panic_abort]: `libpanic_abort.so` was built with `panic = "abort"`, so any panic in it would end the host
    hint: remove `panic = "abort"` from its profile in Cargo.toml and build it again
    "#);
}

/// A workspace with the echo plugin and a plugin-api that was changed without a new version.
fn other_layout() -> PathBuf {
    let folder = build::target().join("other-layout");
    copy(&workspace().join("plugin-api"), &folder.join("plugin-api"));
    copy(&workspace().join("example-plugins/echo/src"), &folder.join("echo/src"));
    let echo = fs::read_to_string(workspace().join("example-plugins/echo/Cargo.toml")).unwrap();
    write(&folder.join("echo/Cargo.toml"), &echo.replace("name = \"echo\"", "name = \"other-layout\""));
    write(&folder.join("Cargo.lock"), &fs::read_to_string(workspace().join("Cargo.lock")).unwrap());
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let manifest: String = manifest
        .lines()
        .filter(|line| !line.starts_with("default-members"))
        .map(|line| match line.starts_with("members") {
            true => "members = [\"plugin-api\", \"echo\"]\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    write(&folder.join("Cargo.toml"), &manifest);

    let root = folder.join("plugin-api/src/ffi/root.rs");
    let text = fs::read_to_string(workspace().join("plugin-api/src/ffi/root.rs")).unwrap();
    let changed = text.replacen("pub kind: u8,", "pub kind: u32,", 1);
    let changed = changed.replacen("kind: A::KIND,", "kind: A::KIND as u32,", 1);
    assert_ne!(text, changed, "this test changes the type of `PluginRoot::kind`");
    write(&root, &changed);

    let mut cargo = build::cargo();
    cargo.current_dir(&folder).args(["build", "--offline", "--package", "other-layout", "--target-dir"]);
    // Not the others' folder: cargo tells packages apart by where they are within their workspace.
    cargo.arg(folder.join("target"));
    file(&build::run(&mut cargo, &[]), "other-layout")
}

/// Copies a folder, leaving alone what is the same already: cargo goes by the time of a change.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if to.file_name().is_none_or(|name| name != "root.rs") {
            write(&to, &fs::read_to_string(entry.path()).unwrap());
        }
    }
}

fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_plugin_whose_tables_are_laid_out_differently_is_refused() {
    insta::assert_snapshot!(refused(other_layout(), RefusalReason::LayoutMismatch).await, @"
    error[layout_mismatch]: `libother_layout.so` lays out what crosses differently: `kind`: mismatched type (ours u8, theirs u32)
    hint: rebuild the plugin with a released oxide-plugin-api of this host's major version
    ");
}

#[tokio::test]
async fn a_plugin_of_another_abi_stable_is_refused() {
    const MAGIC: &[u8] = b"abi stable library for Rust";
    let echo = echo();
    let at = echo.windows(MAGIC.len()).position(|window| window == MAGIC).unwrap();
    // The magic, in 32 bytes, and a version of two numbers.
    let header = &echo[at..at + 40];
    let changed = |at: usize, to: u8| {
        let mut other = header.to_vec();
        other[at] = to;
        echo_with(header, &other)
    };
    insta::assert_snapshot!(refused(changed(36, 12), RefusalReason::LayoutMismatch).await, @"
    error[layout_mismatch]: `libecho.so` was built with abi_stable 0.12, this host with 0.11
    hint: rebuild the plugin with a released oxide-plugin-api of this host's major version
    ");
    insta::assert_snapshot!(refused(changed(0, b'A'), RefusalReason::LayoutMismatch).await, @"
    error[layout_mismatch]: `libecho.so` has an entry point that is not abi_stable's
    hint: rebuild the plugin with a released oxide-plugin-api of this host's major version
    ");
}

#[tokio::test]
async fn a_library_of_the_system_is_refused_without_being_opened() {
    let Some(libm) =
        ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"]
            .into_iter()
            .find(|path| Path::new(path).is_file())
    else {
        println!("skipped: no libm found");
        return;
    };
    refused(libm, RefusalReason::NoDescription).await;
}
