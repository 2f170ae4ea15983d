//! A plugin with a C library linked into it. Each method but `leak` has the C part do what the
//! C library calls so, or nearly so.
#![allow(unsafe_code, reason = "calls a C library, as this plugin is there to do")]

use std::ffi::{CString, c_char, c_int};

use oxide_plugin_api::prelude::*;

unsafe extern "C" {
    fn c_part_thread(path: *const c_char) -> c_int;
    fn c_part_key(path: *const c_char) -> c_int;
    fn c_part_leak(bytes: *const c_char) -> c_int;
    fn c_part_at_exit(nothing: *const c_char) -> c_int;
    fn c_part_at_quick_exit(nothing: *const c_char) -> c_int;
    fn c_part_at_fork(nothing: *const c_char) -> c_int;
}

/// The module.
#[derive(Default)]
struct CInside;

impl Module for CInside {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "c-inside".into(),
            name: "C inside".into(),
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
            "thread" => c_part_thread,
            "key" => c_part_key,
            "leak" => c_part_leak,
            "at_exit" => c_part_at_exit,
            "at_quick_exit" => c_part_at_quick_exit,
            "at_fork" => c_part_at_fork,
            other => return Err(Error::unknown_method(other)),
        };
        let argument = CString::new(payload.as_bytes())?;
        // SAFETY: the C part wants a string, which it copies if it keeps it.
        match unsafe { function(argument.as_ptr()) } {
            0 => Ok(Payload::empty()),
            error => Err(Error::new(format!("the C part answers {error}"))),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(CInside);
