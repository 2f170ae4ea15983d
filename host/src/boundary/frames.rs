//! Whose code this thread is running: one frame for each generation entered, innermost first.
//!
//! A call that comes back to a module in the middle of its drain, or a module that waits for its own end,
//! is recognised here. A chain can be carried to another thread together with a message.

use std::{cell::Cell, ptr, sync::Arc};

/// Which generation is entered, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The module's number, the same for all its generations.
    pub(crate) module: u64,
    /// The generation's number, unique in this process.
    pub(crate) generation: u64,
    /// A call, which came in by the calls gate; otherwise a hook or a task.
    pub(crate) is_call: bool,
}

/// Frames to take along to another thread, outermost first.
pub(crate) type Chain = Arc<[Frame]>;

struct Link {
    frame: Frame,
    outer: *const Link,
}

thread_local! {
    static INNERMOST: Cell<*const Link> = const { Cell::new(ptr::null()) };
}

/// Puts the old innermost frame back, also when the body unwinds.
struct Restore(*const Link);

impl Drop for Restore {
    #[inline]
    fn drop(&mut self) {
        INNERMOST.set(self.0);
    }
}

/// Runs `body` with `frame` as the innermost one.
#[inline]
pub(crate) fn within<R>(frame: Frame, body: impl FnOnce() -> R) -> R {
    let outer = INNERMOST.get();
    let link = Link { frame, outer };
    let _restore = Restore(outer);
    INNERMOST.set(&raw const link);
    body()
}

/// Runs `body` with a whole chain put on top of this thread's frames.
pub(crate) fn within_chain<R>(chain: &[Frame], body: impl FnOnce() -> R) -> R {
    match chain {
        [] => body(),
        [first, rest @ ..] => within(*first, || within_chain(rest, body)),
    }
}

/// The innermost frame that `wanted` accepts.
pub(crate) fn find(mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
    let mut link = INNERMOST.get();
    while !link.is_null() {
        // SAFETY: links live on this thread's stack, below the `within` that set them, and are unset
        // before they go.
        let here = unsafe { &*link };
        if wanted(&here.frame) {
            return Some(here.frame);
        }
        link = here.outer;
    }
    None
}

/// This thread's frames, to take along; `None` when there are none.
pub(crate) fn chain() -> Option<Chain> {
    let mut frames = Vec::new();
    find(|frame| {
        frames.push(*frame);
        false
    });
    frames.reverse();
    (!frames.is_empty()).then(|| frames.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_nest_travel_and_are_gone_after_a_panic() {
        let frame = |module| Frame { module, generation: module * 10, is_call: false };
        within(frame(1), || {
            within(frame(2), || {
                assert_eq!(find(|_| true), Some(frame(2)));
                assert_eq!(find(|found| found.module == 1), Some(frame(1)));
                let chain = chain().unwrap();
                std::thread::spawn(move || {
                    assert_eq!(find(|_| true), None);
                    within_chain(&chain, || assert_eq!(find(|_| true), Some(frame(2))));
                })
                .join()
                .unwrap();
            });
            assert!(std::panic::catch_unwind(|| within(frame(3), || panic!("thrown on purpose"))).is_err());
            assert_eq!(find(|_| true), Some(frame(1)));
        });
        assert!(chain().is_none());
    }
}
