//! Compiled code is kept. A guest that was compiled is put into the cache anew, beside what is there, and so under another
//! inode: an entry that keeps its own was used.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use wasm_runtime_tests::{Given, House};

/// A folder that a cache may be made in, and the cache's path.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("deep/cache");
    (folder, cache)
}

/// The cache's only file.
fn entry(cache: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn inode(cache: &Path) -> u64 {
    fs::metadata(entry(cache)).unwrap().ino()
}

/// Loads, calls and unloads a guest.
async fn round(guest: &str, cache: &Path) {
    let house = House::new();
    house.load("guest", &Given::guest(guest).cache(cache)).await;
    match guest {
        "hello" => assert_eq!(house.call("guest", "hello", "you").await, "hello, you!"),
        _ => assert_eq!(house.call("guest", "upper", "you").await, "YOU"),
    }
    house.gone("guest").await;
}

#[tokio::test]
async fn the_second_load_does_not_compile() {
    for guest in ["hello", "echo"] {
        let (_folder, cache) = place();
        round(guest, &cache).await;
        let first = inode(&cache);
        round(guest, &cache).await;
        assert_eq!(inode(&cache), first);
    }
}

#[tokio::test]
async fn nobody_else_may_reach_into_it() {
    let (_folder, cache) = place();
    round("hello", &cache).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache), 0o700);
    assert_eq!(mode(&entry(&cache)), 0o600);
}

#[tokio::test]
async fn a_folder_that_others_may_write_to_is_not_used() {
    let (_folder, cache) = place();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o770)).unwrap();
    round("hello", &cache).await;
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
    // Nor is an entry read there that was put there.
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
    round("hello", &cache).await;
    let kept = entry(&cache);
    fs::write(&kept, b"never read").unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o707)).unwrap();
    round("hello", &cache).await;
    assert_eq!(fs::read(&kept).unwrap(), b"never read");
}

#[tokio::test]
async fn what_cannot_be_a_folder_costs_the_cache_and_not_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    round("hello", &file).await;
    round("hello", &file.join("below")).await;
}

/// Damages the entry, and sees it replaced by a whole one.
async fn is_replaced(what: &str, damage: impl FnOnce(&Path, Vec<u8>)) {
    let (_folder, cache) = place();
    round("hello", &cache).await;
    let kept = entry(&cache);
    let whole = fs::read(&kept).unwrap();
    damage(&kept, whole.clone());
    let damaged = fs::read(&kept).unwrap();
    round("hello", &cache).await;
    assert_ne!(fs::read(entry(&cache)).unwrap(), damaged, "{what}: it is still there");
    let replaced = inode(&cache);
    round("hello", &cache).await;
    assert_eq!(inode(&cache), replaced, "{what}: what replaced it is not used");
}

/// The beginning of an entry: what it is, what it was made from, and the digest of the code.
const HEAD: usize = 8 + 32 + 32;

#[tokio::test]
async fn a_damaged_entry_is_thrown_away_and_compiled_again() {
    is_replaced("empty", |path, _| fs::write(path, b"").unwrap()).await;
    is_replaced("cut short", |path, whole| fs::write(path, &whole[..whole.len() - 1]).unwrap()).await;
    is_replaced("cut in the head", |path, whole| fs::write(path, &whole[..HEAD - 1]).unwrap()).await;
    is_replaced("longer", |path, whole| fs::write(path, [&whole[..], b"\0"].concat()).unwrap()).await;
    is_replaced("one bit in the code", |path, mut whole| {
        let middle = HEAD + (whole.len() - HEAD) / 2;
        whole[middle] ^= 1;
        fs::write(path, whole).unwrap();
    })
    .await;
    is_replaced("of another format", |path, mut whole| {
        whole[7] = b'0';
        fs::write(path, whole).unwrap();
    })
    .await;
}

#[tokio::test]
async fn code_of_another_engine_is_thrown_away_by_wasmtime() {
    is_replaced("not wasmtime's", |path, whole| {
        // All in order, but for the code itself.
        let code = b"whatever this is".to_vec();
        let head = [&whole[..8 + 32], Sha256::digest(&code).as_slice()].concat();
        fs::write(path, [head, code].concat()).unwrap();
    })
    .await;
}

#[tokio::test]
async fn code_of_another_guest_is_not_used() {
    let (_folder, cache) = place();
    let (_other, others) = place();
    round("hello", &cache).await;
    round("echo", &others).await;
    fs::write(entry(&cache), fs::read(entry(&others)).unwrap()).unwrap();
    round("hello", &cache).await;
    assert_ne!(fs::read(entry(&cache)).unwrap(), fs::read(entry(&others)).unwrap());
}

#[tokio::test]
async fn an_entry_that_others_may_write_is_not_used() {
    let (_folder, cache) = place();
    round("hello", &cache).await;
    fs::set_permissions(entry(&cache), fs::Permissions::from_mode(0o622)).unwrap();
    round("hello", &cache).await;
    // It was removed, and another one written.
    assert_eq!(fs::metadata(entry(&cache)).unwrap().mode() & 0o777, 0o600);
}
