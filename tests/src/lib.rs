//! What the tests over compiled plugins share: the plugins, hosts to load them into, and ways to wait.

pub mod build;
pub mod child;
pub mod guest;
pub mod house;
pub mod misbehave;
pub mod swaps;
pub mod wait;

use std::{error::Error, path::Path, time::Duration};

use oxide_host::{HostBuilder, error::KernelError};

pub use build::{file, plugin};
pub use child::child;
pub use guest::Guest;
pub use house::House;
pub use misbehave::{Flag, load_misbehaving, misbehaving, ordered};
pub use wait::{block_on, eventually, in_time, next_event, until};

/// The folder of the workspace.
///
/// # Panics
/// When this crate was taken out of it.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' crate lies in the workspace")
}

/// A deadline for hooks that never end.
pub const SHORT: Duration = Duration::from_millis(200);

/// Sets up a host that waits for nothing for long. For tests in which every late thing never ends, so that
/// their verdict does not hang on who is quicker.
pub fn impatient() -> HostBuilder {
    oxide_host::Host::builder().stop_timeout(SHORT).drain_timeout(SHORT)
}

/// An error as people see it: message, causes and hint, without what differs from machine to machine.
pub fn told(error: &KernelError) -> String {
    let mut text = format!("error[{}]: {error}", error.code());
    if let KernelError::HookFailed { chain, .. } = error {
        for cause in chain {
            text.push_str(&format!("\ncaused by: {cause}"));
        }
    }
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!("\ncaused by: {cause}"));
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    without_lines(&text.replace(&*workspace().to_string_lossy(), "<workspace>"))
}

/// Puts `LINE` in place of the line number after each `.rs:`.
fn without_lines(text: &str) -> String {
    let mut parts = text.split(".rs:");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        whole.push_str(".rs:LINE");
        whole.push_str(part.trim_start_matches(|character: char| character.is_ascii_digit()));
    }
    whole
}

#[cfg(test)]
mod tests {
    #[test]
    fn line_numbers_are_left_out() {
        assert_eq!(super::without_lines("at a/b.rs:12 and c.rs:3"), "at a/b.rs:LINE and c.rs:LINE");
        assert_eq!(super::without_lines("none"), "none");
    }
}
