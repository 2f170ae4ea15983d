//! Private copies in use: whoever still has one keeps it as it is, and nothing is left of them.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Seek, Write},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
};

use oxide_host::{Host, LoadOptions};
use oxide_tests::{build::Way, child, child::folder, eventually, plugin};
use serde_json::json;

/// A copy that is mapped: its file's number, and where it lies.
type Copy = (u64, PathBuf);

fn staging() -> PathBuf {
    folder().join("staging")
}

/// A host whose files all lie in the child's folder.
fn host() -> Host {
    Host::builder().staging_dir(staging()).build().unwrap()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap().block_on(test);
}

/// Whatever of the staging folder is in the process's map.
fn mapped() -> BTreeSet<Copy> {
    let (maps, staging) = (fs::read_to_string("/proc/self/maps").unwrap(), staging());
    let copy = |line: &str| {
        let path = &line[line.find(&*staging.to_string_lossy())?..];
        Some((line.split_whitespace().nth(4)?.parse().ok()?, path.into()))
    };
    maps.lines().filter_map(copy).collect()
}

/// The number of a file in the staging folder that this process has open and that never had a name: one made ahead.
fn made_ahead() -> Option<u64> {
    let staging = staging();
    let mut files = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let handle = entry.unwrap().path();
        let file = fs::read_link(&handle).ok()?;
        // Linux names them after their numbers.
        let is_one = file.starts_with(&staging) && file.file_name()?.to_string_lossy().starts_with('#');
        is_one.then(|| fs::metadata(handle).unwrap().ino())
    });
    let one = files.next();
    assert_eq!(files.next(), None, "there is at most one");
    one
}

/// Whether files are made ahead where `folder` lies.
fn can_make_ahead(folder: &Path) -> bool {
    /// Of ext4 and tmpfs, in `linux/magic.h`.
    const KNOWN: [u64; 2] = [0xef53, 0x0102_1994];
    KNOWN.contains(&u64::try_from(rustix::fs::statfs(folder).unwrap().f_type).unwrap())
}

/// Loads a plugin, looks that its copy is exact and alone, and gives it.
async fn load(host: &Host, path: &Path) -> Copy {
    let id = host.load(path).await.unwrap().id;
    let mut copies = mapped().into_iter();
    let copy = copies.next().expect("it is mapped");
    assert_eq!(copies.next(), None);
    assert!(fs::read(&copy.1).unwrap() == fs::read(path).unwrap(), "the copy is exact");
    assert_eq!(fs::metadata(&copy.1).unwrap().mode() & 0o777, 0o400);
    assert_eq!(fs::metadata(&copy.1).unwrap().ino(), copy.0);
    assert_eq!(id, ID);
    copy
}

/// What the plugins here call themselves.
const ID: &str = "echo";

async fn unload(host: &Host) {
    let receipt = host.unload(ID).await.unwrap();
    assert!(receipt.unmapped, "{receipt:?}");
    assert_eq!(mapped(), BTreeSet::new());
}

fn builds() -> [PathBuf; 2] {
    ["echo", "echo2"].map(plugin)
}

#[test]
fn a_copy_goes_with_its_library() {
    child(&["echo", "echo2"]).run(|| {
        run(async {
            let (host, builds) = (host(), builds());
            for build in builds.iter().cycle().take(10) {
                let (_, path) = load(&host, build).await;
                assert_eq!(host.invoke(ID, "echo", vec![7; 9]).await.unwrap().as_ref(), [7; 9]);
                unload(&host).await;
                eventually("it is gone", || !path.exists()).await;
            }
        });
    });
}

#[test]
fn what_somebody_still_has_stays_as_it_is() {
    child(&["echo", "echo2"]).run(|| {
        run(async {
            let (host, builds) = (host(), builds());
            let mut held = Vec::new();
            for _ in 0..10 {
                let (number, path) = load(&host, &builds[0]).await;
                held.push((number, File::open(&path).unwrap()));
                unload(&host).await;
                for _ in 0..3 {
                    let (number, _) = load(&host, &builds[1]).await;
                    assert!(held.iter().all(|(held, _)| *held != number), "it is being read");
                    unload(&host).await;
                }
            }
            let expected = fs::read(&builds[0]).unwrap();
            for (_, mut file) in held {
                let mut bytes = Vec::new();
                file.rewind().unwrap();
                file.read_to_end(&mut bytes).unwrap();
                assert!(bytes == expected, "it is as it was");
            }
        });
    });
}

/// Without what makes a build for tests larger than what files are made ahead for.
const STRIPPED: Way = Way {
    folder: "linked",
    cargo: &["--config=profile.dev.debug=false", "--config=profile.dev.strip=true"],
    every: "",
};

#[test]
fn a_copy_lies_in_a_new_file_that_was_made_ahead() {
    let build = STRIPPED.build("echo", "stripped", &[]);
    child(&["echo", "echo2"]).run(|| {
        run(async {
            let host = host();
            if !can_make_ahead(&staging()) {
                return println!("skipped: on this file system no files are made ahead");
            }
            let (bytes, path) = (fs::read(&build).unwrap(), folder().join("libecho.so"));
            let (mut seen, mut held) = (BTreeSet::new(), Vec::new());
            // Builds that are longer and shorter than the one before.
            for longer in [0, 5000, 100, 9000, 0, 0] {
                let ahead = made_ahead();
                fs::write(&path, [&bytes[..], &vec![7; longer]].concat()).unwrap();
                let (number, copy) = load(&host, &path).await;
                assert_eq!(ahead.is_none(), seen.is_empty(), "the first has none");
                assert!(ahead.is_none_or(|ahead| ahead == number), "it lies in the file made ahead");
                assert_eq!(fs::metadata(&copy).unwrap().nlink(), 1);
                // Held, so that its number can't be another's.
                seen.insert(number);
                held.push(File::open(copy).unwrap());
                eventually("the next is made ahead", || made_ahead().is_some()).await;
                assert!(made_ahead().is_some_and(|ahead| !seen.contains(&ahead)), "a new one");
                unload(&host).await;
            }
            assert_eq!(seen.len(), 6);
            host.shutdown().await;
            drop(host);
            eventually("the last is gone", || made_ahead().is_none()).await;
        });
    });
}

#[test]
fn what_was_made_ahead_goes_with_its_host_though_a_library_stays() {
    let build = STRIPPED.build("misbehaving", "stripped", &[]);
    child(&[]).run(|| {
        run(async {
            let host = host();
            if !can_make_ahead(&staging()) {
                return println!("skipped: on this file system no files are made ahead");
            }
            let options = LoadOptions::new().id(ID).config(json!({ "stop": ["fail"] }));
            host.load_with(&build, options).await.unwrap();
            eventually("the next is made ahead", || made_ahead().is_some()).await;
            assert!(!host.unload(ID).await.unwrap().unmapped);
            drop(host);
            eventually("it is gone", || made_ahead().is_none()).await;
            assert_eq!(mapped().len(), 1);
        });
    });
}

/// The start and the bytes of a library's code, as it is mapped.
#[allow(unsafe_code, reason = "reads code where it lies")]
fn code(of: &Path) -> &'static [u8] {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("r-x") && line.ends_with(&*of.to_string_lossy()));
    let (range, _) = line.expect("it has code").split_once(' ').unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).unwrap());
    // SAFETY: mapped and readable; only a forked child looks at it after the library has been closed here.
    unsafe { std::slice::from_raw_parts(start as *const u8, end - start) }
}

#[test]
#[allow(unsafe_code, reason = "forks without a new program, as some plugins' own workers do")]
fn a_forked_child_keeps_the_code_that_it_was_forked_with() {
    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(child: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(status: i32) -> !;
    }

    child(&["echo", "echo2"]).run(|| {
        run(async {
            let (host, builds) = (host(), builds());
            let (_, path) = load(&host, &builds[0]).await;
            let code = code(&path);
            let expected = code.to_vec();
            let (mut parent, mut child) = UnixStream::pair().unwrap();
            // SAFETY: the child does nothing but read, compare and end.
            let forked = unsafe { fork() };
            if forked == 0 {
                let told = child.read_exact(&mut [0]).is_ok();
                // SAFETY: ends this process, in which there is nothing else.
                unsafe { _exit(i32::from(!told || code != expected)) }
            }
            assert!(forked > 0);
            unload(&host).await;
            for _ in 0..5 {
                load(&host, &builds[1]).await;
                unload(&host).await;
            }
            parent.write_all(&[1]).unwrap();
            let mut status = -1;
            // SAFETY: the child is ours, and the place for its status, too.
            assert_eq!(unsafe { waitpid(forked, &raw mut status, 0) }, forked);
            assert_eq!(status, 0, "the child has the code that it had");
        });
    });
}

#[test]
fn nothing_is_left_of_a_host_that_is_gone() {
    child(&["echo", "echo2"]).run(|| {
        run(async {
            let host = host();
            for _ in 0..3 {
                load(&host, &builds()[0]).await;
                unload(&host).await;
            }
            host.shutdown().await;
            drop(host);
            let left = || fs::read_dir(staging()).map_or(0, Iterator::count);
            eventually("its folder is gone", || left() == 0).await;
        });
    });
}
