//! A plugin with a part in C++. `note` gives the caller's thread a thread-local with a destructor, which writes a
//! line to the path that is its argument.
#![allow(unsafe_code, reason = "calls a C++ part, as this plugin is there to do")]

use std::ffi::{CString, c_char};

use oxide_plugin_api::prelude::*;

unsafe extern "C" {
    fn cpp_part_note(path: *const c_char);
}

/// The module.
#[derive(Default)]
struct CppInside;

impl Module for CppInside {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "cpp-inside".into(),
            name: "C++ inside".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        match method {
            "note" => {
                let path = CString::new(payload.as_bytes())?;
                // SAFETY: a string, which the C++ part copies.
                unsafe { cpp_part_note(path.as_ptr()) };
                Ok(Payload::empty())
            }
            other => Err(Error::unknown_method(other)),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(CppInside);
