//! What stays on the thread that comes by: thread-locals, the handle of the thread, a panic.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    thread,
};

use crate::add_line;

/// The system's number of this thread.
fn number() -> i32 {
    // SAFETY: it only asks.
    unsafe { libc::gettid() }
}

/// Says, when it is dropped, on which thread that is.
struct Note(String);

impl Drop for Note {
    fn drop(&mut self) {
        add_line(&self.0, &number().to_string());
    }
}

/// Begins, when it is dropped, another thread-local with a destructor.
struct Link(String, fn(String));

impl Drop for Link {
    fn drop(&mut self) {
        add_line(&self.0, &number().to_string());
        (self.1)(self.0.clone());
    }
}

/// Starts, when it is dropped, a thread that waits for the test.
struct Starter(String);

impl Drop for Starter {
    fn drop(&mut self) {
        crate::threads::perform("thread", &self.0);
    }
}

thread_local! {
    static STARTER: RefCell<Vec<Starter>> = const { RefCell::new(Vec::new()) };
    static NOTE: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
    static FIRST: RefCell<Vec<Link>> = const { RefCell::new(Vec::new()) };
    static SECOND: RefCell<Vec<Link>> = const { RefCell::new(Vec::new()) };
    static THIRD: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
}

fn first(path: String) {
    FIRST.with_borrow_mut(|list| list.push(Link(path, second)));
}

fn second(path: String) {
    SECOND.with_borrow_mut(|list| list.push(Link(path, third)));
}

fn third(path: String) {
    THIRD.with_borrow_mut(|list| list.push(Note(path)));
}

/// A panic's payload whose own destructor panics.
struct Spite;

impl Drop for Spite {
    fn drop(&mut self) {
        panic!("dropped, and spiteful about it");
    }
}

pub(crate) fn perform(verb: &str, argument: &str) -> Option<String> {
    match verb {
        "nothing" => {}
        // One destructor a thread, however often it is called there.
        "local" => NOTE.with_borrow_mut(|notes| {
            if notes.is_empty() {
                notes.push(Note(argument.to_owned()));
            }
        }),
        "local_quiet" => NOTE.with_borrow_mut(|notes| {
            if notes.is_empty() {
                notes.push(Note("/dev/null".to_owned()));
            }
        }),
        "thread_at_the_end" => STARTER.with_borrow_mut(|list| list.push(Starter(argument.to_owned()))),
        "chain" => first(argument.to_owned()),
        "current" => drop(thread::current()),
        "print" => println!("{argument}"),
        "catch" => {
            let caught = panic::catch_unwind(AssertUnwindSafe(|| panic!("{argument}")));
            assert!(caught.is_err());
        }
        "panic" => panic!("panicked as ordered"),
        "spite" => panic::panic_any(Spite),
        _ => return None,
    }
    Some(number().to_string())
}
