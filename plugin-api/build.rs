//! Notes what a plugin is built with: compiler, target, and the text of this crate's sources. They go into its embedded
//! description.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> io::Result<()> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned());
    println!("cargo:rustc-env=OXIDE_RUSTC={version}");
    println!("cargo:rustc-env=OXIDE_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=OXIDE_SOURCE={:032x}", fingerprint(Path::new("src"))?);
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-env-changed=RUSTC");
    Ok(())
}

/// FNV-1a of 128 bits (Fowler, Noll, Vo) over every source file's name, length and bytes, in the order of their names. The
/// standard library's hasher may become another one.
fn fingerprint(folder: &Path) -> io::Result<u128> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for file in files {
        let text = fs::read(&file)?;
        let name =
            file.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        for byte in name.bytes().chain((text.len() as u64).to_le_bytes()).chain(text) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    Ok(hash)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
