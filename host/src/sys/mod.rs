//! STAND-IN, replaced when the branches are merged.

/// Leaves the process without running finalisers.
pub(crate) fn exit_now(code: i32) -> ! {
    std::process::exit(code)
}
