//! What makes a plugin safe to call and to let go of: the panic guard, and what will make its unload real.
#![allow(unsafe_code, reason = "the shim room: stands between the plugin's std and the process")]

pub(crate) mod panic;
