//! What went wrong in a guest, in words.

use oxide_plugin_api::Error;
use wasmtime::{Store, Trap, WasmBacktrace};

use crate::store::{Data, TooLong};

/// How many functions of a backtrace are told.
const FRAMES: usize = 4;

/// A broken promise of the guest's that wasmtime knows nothing of.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// Says why a guest's code ended before its time: what, where, and what it had been refused before.
pub(crate) fn error(store: &mut Store<Data>, fault: &wasmtime::Error, stack: usize) -> Error {
    let mut text = reason(fault, stack);
    if let Some(backtrace) = fault.downcast_ref::<WasmBacktrace>() {
        let names: Vec<_> =
            backtrace.frames().iter().filter_map(|frame| frame.func_name()).take(FRAMES).collect();
        if !names.is_empty() {
            text += &format!(", in `{}`", names.join("` called by `"));
        }
    }
    if let Some(refused) = store.data_mut().limiter.take_refused() {
        text += &format!("; before that {refused}");
    }
    Error::new(text)
}

fn reason(fault: &wasmtime::Error, stack: usize) -> String {
    if let Some(too_long) = fault.downcast_ref::<TooLong>() {
        return too_long.to_string();
    }
    if let Some(broken) = fault.downcast_ref::<Broken>() {
        return broken.to_string();
    }
    match fault.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => format!("it used more than {stack} bytes of stack (`wasm.stack`)"),
        Some(Trap::MemoryOutOfBounds) => "it reached outside of its memory".to_owned(),
        Some(Trap::TableOutOfBounds) => "it reached outside of a table".to_owned(),
        Some(Trap::UnreachableCodeReached) => "it gave up (`unreachable`)".to_owned(),
        Some(Trap::IntegerDivisionByZero) => "it divided by zero".to_owned(),
        Some(other) => format!("it trapped: {}", other.to_string().trim_start_matches("wasm trap: ")),
        None => root(fault),
    }
}

/// The innermost cause; what stands before it is a backtrace in many lines.
fn root(fault: &wasmtime::Error) -> String {
    fault.root_cause().to_string()
}

/// wasmtime's error with its causes, where there is no backtrace among them.
pub(crate) fn with_causes(error: &wasmtime::Error) -> Error {
    let mut causes: Vec<_> = error.chain().map(|cause| cause.to_string()).collect();
    causes.dedup();
    Error::new(causes.join(": "))
}
