//! Keeps ARCHITECTURE.md true: which room may know which, and what is absent from each. Reads the sources of
//! `host/src` as text.
//!
//! Unit tests (`mod tests` at the end of a file, and files called `tests`) may know more and are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The rooms from the top down, and what each knows. An arrow that is not here must not be drawn, and one that
/// is no longer drawn is taken out of here.
const ROOMS: [(&str, &[&str]); 14] = [
    ("cli", &["config", "daemon", "error", "host", "intake", "manager", "report", "sys"]),
    ("config", &["daemon", "host", "manager"]),
    ("daemon", &["bus", "error", "host", "intake", "manager", "report"]),
    ("host", &["bus", "error", "intake", "kernel", "life", "manager", "report"]),
    ("manager", &["boundary", "bus", "error", "intake", "kernel", "life", "module", "report"]),
    ("life", &["boundary", "bus", "error", "intake", "kernel", "module", "report", "sys"]),
    ("module", &["bus", "error", "manager"]),
    ("boundary", &["error", "intake", "sys"]),
    ("bus", &["error", "kernel"]),
    ("intake", &["error", "report", "sys"]),
    ("error", &["intake", "report"]),
    ("kernel", &[]),
    ("report", &[]),
    ("sys", &[]),
];

/// The arrows that point up, with what each is for. No other may join them.
const UP: [(&str, &str, &str); 2] = [
    ("module", "manager", "offers `ModuleManager` beside the traits; uses nothing of it"),
    ("error", "intake", "an error may be a refusal, whose type is intake's"),
];

/// Words of code, and the only places where each may stand: rooms, or files.
const WORDS: [(&str, &[&str], &str); 13] = [
    ("unsafe", &["boundary", "sys"], "unsafe code lives in two rooms"),
    (
        "extern",
        &["boundary", "sys/elsewhere.rs", "sys/signals.rs", "sys/threads.rs"],
        "what crosses is the boundary's, or the C library's",
    ),
    ("FfiBytes", &["boundary"], "what crosses is the boundary's"),
    ("FfiFuture", &["boundary"], "what crosses is the boundary's"),
    ("FfiOutcome", &["boundary"], "what crosses is the boundary's"),
    ("libloading", &["boundary/library.rs"], "one file opens libraries"),
    ("CheckedLibrary", &["boundary", "life/undertaker.rs", "manager/load.rs"], "one file closes them"),
    ("libc", &["sys"], "system calls that std lacks are in one room"),
    (
        "MessageBus",
        &["bus", "daemon", "host.rs", "life/object.rs", "manager", "module.rs"],
        "few know the bus",
    ),
    (
        "runtime",
        &["cli", "daemon", "kernel", "life/flush.rs", "life/object.rs", "manager", "intake/staging_base.rs"],
        "few know of a runtime, and kernel has its own (intake means the user's runtime directory)",
    ),
    ("try_current", &["manager", "life/flush.rs"], "and few ask which it is"),
    ("println", &["cli/printer.rs"], "stdout is data, and one file writes it"),
    ("eprintln", &["cli/printer.rs", "main.rs"], "stderr is talk, and one file writes it"),
];

/// What a room does not know, in words of its code.
const ABSENT: [(&str, &[&str], &str); 5] = [
    (
        "intake",
        &["async", "await", "tokio", "Command", "spawn"],
        "intake/ runs nothing and waits for nothing",
    ),
    ("boundary", &["runtime", "Runtime", "MessageBus", "spawn_blocking"], "it knows no runtime, no bus"),
    ("bus", &["runtime", "Runtime", "spawn"], "bus/ depends on nobody's runtime"),
    ("sys", &["tokio", "async", "await"], "sys/ waits for nothing"),
    ("report", &["async", "tokio"], "report.rs is data"),
];

/// The longest that a file may be.
const LONGEST: usize = 450;

/// One source file without its comments, strings and unit tests.
struct Source {
    /// Relative to `host/src`, with `/`.
    path: String,
    room: String,
    lines: usize,
    code: String,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, base: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, base, found);
                continue;
            }
            let name = path.strip_prefix(base).unwrap().to_str().unwrap().replace('\\', "/");
            if !name.ends_with(".rs") || name.split(['/', '.']).any(|part| part == "tests") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = bare(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
            let room = name.split(['/', '.']).next().unwrap().to_owned();
            found.push(Source { path: name, room, lines: text.lines().count(), code, text });
        }
    }
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&base, &base, &mut found);
    assert!(found.len() > 50, "the sources are where they were");
    found
}

/// The code without comments and without what stands in strings.
fn bare(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = raw_string(rest) {
            raw
        } else if c == '"' {
            string(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\''") {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2).max(3)
        } else {
            0
        };
        if skipped > 0 {
            code.push(' ');
            rest = &rest[skipped..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// The length of the string that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw string that `text` begins with, if it does.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?.chars().take_while(|c| *c == '#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(1 + hashes + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()))
}

/// The words of a piece of code.
fn words(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect()
}

/// What a file names of the crate's root: the first parts of `crate::…` and of `super::…` that leads there.
fn named(source: &Source) -> BTreeSet<String> {
    let depth = source.path.split('/').count() - usize::from(source.path.ends_with("/mod.rs"));
    let to_root = "super::".repeat(depth);
    let mut named = BTreeSet::new();
    for start in ["crate::", &to_root] {
        for (at, _) in source.code.match_indices(start) {
            let before = source.code[..at].chars().next_back();
            // `oxide_plugin_api::…`, or one of several `super::` in a row.
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                continue;
            }
            named.extend(first_parts(&source.code[at + start.len()..]));
        }
    }
    named
}

/// The first part of a path, or of each path of a group.
fn first_parts(code: &str) -> Vec<String> {
    let Some(group) = code.strip_prefix('{') else {
        return vec![code.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()];
    };
    let mut parts = Vec::new();
    let (mut depth, mut part, mut done) = (0, String::new(), false);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                done = false;
            }
            _ if depth > 0 || done => {}
            c if c.is_alphanumeric() || c == '_' => part.push(c),
            c if c.is_whitespace() => done = !part.is_empty(),
            _ => done = true,
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty() && part != "self");
    parts
}

fn allowed_in(source: &Source, places: &[&str]) -> bool {
    places.iter().any(|place| *place == source.path || *place == source.room)
}

#[test]
fn each_room_knows_only_the_rooms_that_it_may_know() {
    let known: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| source.room != "lib" && source.room != "main") {
        assert!(known.contains(&*source.room), "{}: a room that ARCHITECTURE.md does not know", source.path);
        let arrows = drawn.entry(source.room.clone()).or_default();
        for target in named(source) {
            assert!(
                known.contains(&*target),
                "{}: `crate::{target}` is not a room; name the room that it is in",
                source.path
            );
            arrows.insert(target);
        }
        arrows.remove(&source.room);
    }
    for (room, may) in ROOMS {
        let may: BTreeSet<String> = may.iter().map(|&room| room.to_owned()).collect();
        let drawn = &drawn[room];
        assert_eq!(drawn.difference(&may).collect::<Vec<_>>(), [""; 0], "{room} must not know these");
        assert_eq!(may.difference(drawn).collect::<Vec<_>>(), [""; 0], "{room} no longer knows these");
    }
}

#[test]
fn arrows_point_down() {
    let height = |room: &str| ROOMS.iter().position(|(name, _)| *name == room).expect(room);
    let up: Vec<(&str, &str)> = ROOMS
        .iter()
        .flat_map(|(room, knows)| knows.iter().map(move |target| (*room, *target)))
        .filter(|(room, target)| height(target) <= height(room))
        .collect();
    let expected: Vec<(&str, &str)> = UP.iter().map(|(room, target, _)| (*room, *target)).collect();
    assert_eq!(up, expected);
}

#[test]
fn what_belongs_in_one_place_stands_nowhere_else() {
    let mut strays = Vec::new();
    // The root only names what the rooms offer.
    for source in sources().iter().filter(|source| source.room != "lib") {
        let words = words(&source.code);
        for (word, places, why) in WORDS {
            if words.contains(word) && !allowed_in(source, places) {
                strays.push(format!("{}: `{word}`: {why}; it may stand in {places:?}", source.path));
            }
        }
    }
    assert!(strays.is_empty(), "{strays:#?}");
}

#[test]
fn what_a_room_does_not_know_is_absent_from_it() {
    let mut strays = Vec::new();
    for source in sources() {
        let words = words(&source.code);
        for (_, absent, why) in ABSENT.iter().filter(|(room, ..)| *room == source.room) {
            let found = absent.iter().filter(|word| words.contains(**word));
            strays.extend(found.map(|word| format!("{}: `{word}`: {why}", source.path)));
        }
    }
    assert!(strays.is_empty(), "{strays:#?}");
}

#[test]
fn unsafe_code_is_allowed_by_two_rooms_which_say_why() {
    for source in sources() {
        let allows = source.code.contains("allow(unsafe_code");
        let is_door = matches!(&*source.path, "boundary/mod.rs" | "sys/mod.rs");
        assert_eq!(allows, is_door, "{}", source.path);
        if is_door {
            assert!(source.text.contains("#![allow(unsafe_code, reason = \""), "{}: no reason", source.path);
        }
    }
}

#[test]
fn no_file_is_a_warehouse() {
    for source in sources() {
        assert!(
            source.lines <= LONGEST,
            "{} has {} lines, the limit is {LONGEST}",
            source.path,
            source.lines
        );
    }
}

#[test]
fn the_tests_that_defend_the_invariants_exist() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(workspace.join("ARCHITECTURE.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains(".rs`: "));
    let (mut missing, mut found) = (Vec::new(), 0);
    for row in rows {
        // In a row stand `file.rs`: name, name; `file.rs`: name.
        let mut file = (String::new(), String::new());
        for (at, piece) in row.split('`').enumerate() {
            if at % 2 == 1 {
                if piece.ends_with(".rs") {
                    let text = fs::read_to_string(workspace.join(piece)).unwrap_or_default();
                    file = (piece.to_owned(), text);
                }
                continue;
            }
            for name in words(piece).into_iter().filter(|word| word.contains('_')) {
                found += 1;
                if !file.1.contains(&format!("fn {name}(")) {
                    missing.push(format!("{}: {name}", file.0));
                }
            }
        }
    }
    assert!(found > 30, "the table is where it was");
    assert!(missing.is_empty(), "ARCHITECTURE.md names tests that are not there: {missing:#?}");
}

#[test]
fn the_code_is_read_as_it_is_meant() {
    let code = r###"use crate::{a::{b, c}, d, e::f as g}; // crate::comment
        let s = "crate::string \" unsafe"; let r = r#"crate::raw " here"#; let c = '"'; other::crate::no();
        super::super::up::x(); pub(crate) use crate::h;"###;
    let source = Source {
        path: "room/file.rs".into(),
        room: "room".into(),
        lines: 0,
        code: bare(code),
        text: String::new(),
    };
    let expected = ["a", "d", "e", "h", "up"].map(str::to_owned);
    assert_eq!(named(&source), BTreeSet::from(expected));
    assert!(!words(&source.code).contains("unsafe"));
}
