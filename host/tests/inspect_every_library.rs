//! Every library on this machine gets an answer, and none of them is taken for a plugin.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use oxide_host::{RefusalReason, inspect};

#[test]
fn every_library_here_is_answered_and_none_is_a_plugin() {
    let mut roots: Vec<PathBuf> = ["/usr/lib", "/lib", "/usr/local/lib"].map(PathBuf::from).to_vec();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    roots
        .extend(std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or(home.map(|home| home.join(".rustup"))));
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    roots.iter().for_each(|root| collect(root, &mut seen, &mut files));
    assert!(!files.is_empty(), "this machine has libraries");

    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for path in &files {
        let start = Instant::now();
        let inspection = inspect(path);
        slowest = slowest.max(start.elapsed());
        let refused = inspection.refused.unwrap_or_else(|| panic!("{} is no plugin", path.display()));
        assert!(!refused.message.contains('\n') && !refused.hint.contains('\n'), "{refused:?}");
        // What the system itself loads is not damaged, whatever we make of it.
        assert_ne!(refused.reason, RefusalReason::Damaged, "{}: {}", path.display(), refused.message);
        *reasons.entry(refused.reason.as_str()).or_default() += 1;
    }
    println!("{} libraries: {reasons:?}, the slowest in {slowest:?}", files.len());
}

/// Regular files with `.so` in their names, each inode once, not following links.
fn collect(folder: &Path, seen: &mut HashSet<(u64, u64)>, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            if seen.insert((metadata.dev(), metadata.ino())) {
                collect(&path, seen, files);
            }
        } else if metadata.is_file()
            && entry.file_name().to_string_lossy().contains(".so")
            && seen.insert((metadata.dev(), metadata.ino()))
        {
            files.push(path);
        }
    }
}
