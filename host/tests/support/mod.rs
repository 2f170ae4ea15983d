//! Libraries to inspect: some that rustc builds here and now, some made by hand for other systems.
#![allow(dead_code, reason = "every test binary uses a part of it")]

pub(crate) mod craft;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use oxide_plugin_api::ffi::describe::{ABI_VERSION, MAGIC, RUSTC, SOURCE, TARGET};

/// How much room a patched description has in [`plugin`].
pub(crate) const ROOM: usize = 4096;

/// The pairs of a description that nobody could object to.
pub(crate) fn pairs() -> Vec<(&'static str, String)> {
    [
        ("api", "0.1.0"),
        ("rustc", RUSTC),
        ("target", TARGET),
        ("panic", "unwind"),
        ("package", "echo"),
        ("package_version", "1.2.3"),
        ("description", "Says it again"),
        ("kind", "native"),
        ("capabilities", "bus, net"),
        ("allocator", "oxide"),
    ]
    .map(|(key, value)| (key, value.to_owned()))
    .to_vec()
}

/// [`pairs`] with one value changed.
pub(crate) fn pairs_with(key: &str, value: &str) -> Vec<(&'static str, String)> {
    let mut pairs = pairs();
    pairs.iter_mut().filter(|pair| pair.0 == key).for_each(|pair| pair.1 = value.to_owned());
    pairs
}

/// A description written by hand, so that the reader is not tested against its own idea of the format.
pub(crate) fn describe(abi: (u16, u16), pairs: &[(&str, String)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in pairs {
        for text in [key, value.as_str()] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&abi.0.to_le_bytes());
    bytes.extend_from_slice(&abi.1.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&body);
    bytes
}

/// The description of [`pairs`].
pub(crate) fn description() -> Vec<u8> {
    describe(ABI_VERSION, &pairs())
}

/// A folder for this process's libraries. Statics are not dropped, so each process clears what dead ones left; its own
/// name keeps a test's child process from clearing the folder that its parent still writes to.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
        let dead = |entry: &fs::DirEntry| !Path::new("/proc").join(entry.file_name()).exists();
        for entry in fs::read_dir(&all).into_iter().flatten().flatten().filter(dead) {
            let _ = fs::remove_dir_all(entry.path());
        }
        let own = all.join(std::process::id().to_string());
        let _ = fs::remove_dir_all(&own);
        fs::create_dir_all(&own).unwrap();
        own
    })
}

/// Builds a cdylib and returns its bytes.
pub(crate) fn build(name: &str, source: &str, flags: &[&str]) -> Vec<u8> {
    let file = folder().join(format!("{name}.rs"));
    fs::write(&file, source).unwrap();
    let library = folder().join(format!("lib{name}.so"));
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2024", "--crate-type=cdylib", "--crate-name", name, "-Cdebuginfo=0", "-o"])
        .arg(&library)
        .args(flags)
        .arg(&file)
        // What build.rs gives the real crate.
        .envs([
            ("OXIDE_RUSTC", RUSTC),
            ("OXIDE_SOURCE", SOURCE),
            ("OXIDE_TARGET", TARGET),
            ("CARGO_PKG_VERSION", "0.1.0"),
        ])
        .env("RUSTC_BOOTSTRAP", "1")
        .output()
        .expect("rustc can be started");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    fs::read(library).unwrap()
}

/// The source of something that looks like a plugin from outside.
pub(crate) fn source(extra: &str) -> String {
    fs::write(folder().join("description.bin"), {
        let mut bytes = description();
        bytes.resize(ROOM, 0);
        bytes
    })
    .unwrap();
    format!(
        "#[used]\n#[unsafe(link_section = \".oxide\")]\n\
         static DESCRIPTION: [u8; {ROOM}] = *include_bytes!(\"description.bin\");\n\
         #[unsafe(no_mangle)]\npub extern \"C\" fn _1as_0lib_1header_0root_bmodule_bloader() {{}}\n{extra}\n"
    )
}

/// A library that looks like a plugin, with room for other descriptions.
pub(crate) fn plugin() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("plugin", &source(""), &[]))
}

/// [`plugin`] with another description.
pub(crate) fn plugin_describing(description: &[u8]) -> Vec<u8> {
    let mut bytes = plugin().to_vec();
    let at = find(&bytes, &MAGIC);
    let mut room = description.to_vec();
    assert!(room.len() <= ROOM);
    room.resize(ROOM, 0);
    bytes[at..at + ROOM].copy_from_slice(&room);
    bytes
}

/// Where `needle` is in `bytes`, for the first time.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).expect("it is in there")
}

/// Writes bytes under a name that messages will show.
pub(crate) fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A text without what differs between machines.
pub(crate) fn normalised(text: &str) -> String {
    let host =
        format!("{} {}", std::env::consts::ARCH, if cfg!(target_os = "linux") { "Linux" } else { "other" });
    text.replace(TARGET, "[TARGET]")
        .replace(&format!("this host runs ELF libraries for {host}"), "this host runs [HOST]")
        .replace(&format!("`{RUSTC}`"), "`[RUSTC]`")
        .replace(RUSTC, "[RUSTC]")
        .replace(&*folder().to_string_lossy(), "[FOLDER]")
}
