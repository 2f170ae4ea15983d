//! The panic guard on every entry, and the panic hook that keeps a message without symbolising.
//!
//! std's own hook would map and cache the plugin's symbols at each panic when `RUST_BACKTRACE` is set,
//! about 35 MB a load that never come back.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
    ptr::{self, NonNull},
};

thread_local! {
    // Neither has a destructor: a thread-local of the plugin's that has one pins its library.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static NOTE: Cell<*mut Note> = const { Cell::new(ptr::null_mut()) };
}

/// A panic, as the hook saw it.
struct Note {
    text: String,
    place: Option<(String, u32)>,
}

impl Note {
    fn told(self) -> String {
        match self.place {
            Some((file, line)) => format!("{}, at {file}:{line}", self.text),
            None => self.text,
        }
    }
}

/// Runs `body`. A panic in it becomes its message and place; so does one in the drop of a panic's payload.
pub(crate) fn guard<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    DEPTH.set(DEPTH.get() + 1);
    let caught = catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    caught.map_err(describe)
}

fn describe(payload: Box<dyn Any + Send>) -> String {
    let text = text_of(&*payload);
    // The note is of the panic that this thread began last. One that was begun elsewhere and goes on here
    // (`resume_unwind`) has none, and must not get that of one which the plugin caught itself.
    let message = match take_note() {
        Some(note) if note.text == text => note.told(),
        _ => text,
    };
    // A payload's own destructor may panic, and so may the payload of that one: then it is left alone.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        drop(take_note());
        std::mem::forget(second);
    }
    message
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

fn take_note() -> Option<Note> {
    let note = NonNull::new(NOTE.replace(ptr::null_mut()))?;
    // SAFETY: `keep_note` leaked this box on this thread, and it has just been taken out of the cell.
    Some(*unsafe { Box::from_raw(note.as_ptr()) })
}

fn keep_note(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|place| (place.file().to_owned(), place.line()));
    let note = Note { text: text_of(info.payload()), place };
    if DEPTH.get() == 0 {
        // A thread of the plugin's own: nobody will catch this and tell.
        let thread = std::thread::current();
        crate::log::report_panic(thread.name().unwrap_or("a thread of the plugin"), &note.told());
        return;
    }
    drop(take_note());
    NOTE.set(Box::into_raw(Box::new(note)));
}

/// Puts the hook in place. Called once, before any other code of the plugin's.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(keep_note));
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Spiteful;

    impl Drop for Spiteful {
        fn drop(&mut self) {
            std::panic::panic_any(Spiteful2);
        }
    }

    struct Spiteful2;

    impl Drop for Spiteful2 {
        fn drop(&mut self) {
            panic!("the payload's payload");
        }
    }

    #[test]
    fn a_payload_whose_drop_panics_is_caught_too() {
        assert_eq!(guard(|| 7), Ok(7));
        assert!(guard(|| panic!("no {}", "luck")).unwrap_err().starts_with("no luck"));
        let message = guard(|| std::panic::panic_any(Spiteful)).unwrap_err();
        assert!(message.starts_with("a panic without a message"), "{message}");
    }

    #[test]
    fn a_panic_that_goes_on_from_elsewhere_has_its_own_message_not_that_of_one_caught_before() {
        install_hook();
        let caught = guard(|| catch_unwind(|| panic!("caught by the plugin itself")).is_err());
        assert_eq!(caught, Ok(true));
        let message =
            guard(|| std::panic::resume_unwind(Box::new("brought from another thread"))).unwrap_err();
        assert!(message.starts_with("brought from another thread"), "{message}");
    }
}
