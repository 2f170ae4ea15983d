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
    static NOTE: Cell<*mut String> = const { Cell::new(ptr::null_mut()) };
}

/// Runs `body`. A panic in it becomes its message and place; so does one in the drop of a panic's payload.
pub(crate) fn guard<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    DEPTH.set(DEPTH.get() + 1);
    let caught = catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    caught.map_err(describe)
}

fn describe(payload: Box<dyn Any + Send>) -> String {
    let message = take_note().unwrap_or_else(|| text_of(&*payload));
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

fn take_note() -> Option<String> {
    let note = NonNull::new(NOTE.replace(ptr::null_mut()))?;
    // SAFETY: `keep_note` leaked this box on this thread, and it has just been taken out of the cell.
    Some(*unsafe { Box::from_raw(note.as_ptr()) })
}

fn keep_note(info: &PanicHookInfo<'_>) {
    let text = text_of(info.payload());
    let message = match info.location() {
        Some(place) => format!("{text}, at {}:{}", place.file(), place.line()),
        None => text,
    };
    if DEPTH.get() == 0 {
        // A thread of the plugin's own: nobody will catch this and tell.
        let thread = std::thread::current();
        crate::log::report_panic(thread.name().unwrap_or("a thread of the plugin"), &message);
        return;
    }
    drop(take_note());
    NOTE.set(Box::into_raw(Box::new(message)));
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
}
