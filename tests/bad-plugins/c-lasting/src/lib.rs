//! A plugin with a part in C that gives the C library functions to call and memory to write to, and never takes them
//! back. Each method is one way of doing so.
#![allow(unsafe_code, reason = "calls a C library, as this plugin is there to do")]

use std::ffi::{CString, c_char, c_int, c_void};

use oxide_plugin_api::prelude::*;

unsafe extern "C" {
    fn c_part_mq_notify(queue: *const c_char) -> c_int;
    fn c_part_aio_read(pipe: *const c_char) -> c_int;
    fn c_part_fopencookie(text: *const c_char) -> c_int;
    fn c_part_own_stack(stack: *mut c_void, size: usize) -> c_int;
}

/// The module.
#[derive(Default)]
struct CLasting;

/// Starts a thread whose stack comes from the plugin's heap.
fn own_stack() -> c_int {
    let stack = vec![0_u128; 16 << 10].leak();
    // SAFETY: the memory is never freed, and nobody else uses it.
    unsafe { c_part_own_stack(stack.as_mut_ptr().cast(), size_of_val(stack)) }
}

impl Module for CLasting {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "c-lasting".into(),
            name: "C lasting".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        let function = match method {
            "mq_notify" => Some(c_part_mq_notify as unsafe extern "C" fn(*const c_char) -> c_int),
            "aio_read" => Some(c_part_aio_read as _),
            "fopencookie" => Some(c_part_fopencookie as _),
            "own_stack" => None,
            other => return Err(Error::unknown_method(other)),
        };
        let argument = CString::new(payload.as_bytes())?;
        // SAFETY: the C part wants a string, which it copies if it keeps it.
        match function.map_or_else(own_stack, |function| unsafe { function(argument.as_ptr()) }) {
            0 => Ok(Payload::empty()),
            error => Err(Error::new(format!("the C part answers {error}"))),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(CLasting);
