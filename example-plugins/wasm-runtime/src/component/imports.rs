//! What a component may import: the interfaces of `oxide:module`, and WASI as far as it was granted.

use oxide_plugin_api::{Error, Result};
use wasmtime::{
    Engine,
    component::{Component, HasSelf, Linker},
};

use super::bindings::{
    Module,
    oxide::module::{bus, clock, log, types},
};
use crate::{config::Allow, host, store::Data};

/// Looks whether all that the component imports is there.
///
/// # Errors
/// The first import that is not, with what would have to be granted.
pub(super) fn check(engine: &Engine, component: &Component, allow: &Allow) -> Result<()> {
    for (import, _) in component.component_type().imports(engine) {
        if import.starts_with("oxide:module/") {
            continue;
        }
        let Some(rest) = import.strip_prefix("wasi:") else {
            return Err(Error::new(format_args!(
                "the guest imports `{import}`, which is not there; there are the interfaces of `oxide:module@1.0.0`, \
                 and those of WASI 0.2 where they were granted"
            )));
        };
        if !cfg!(feature = "wasi") {
            return Err(Error::new(format_args!(
                "the guest imports `{import}`, and this engine was built without WASI (its feature `wasi`)"
            )));
        }
        let package = rest.split('/').next().unwrap_or(rest);
        let Some(grant) = grant_for(package) else {
            return Err(Error::new(format_args!(
                "the guest imports `{import}`, which this engine does not have"
            )));
        };
        if !allow.any() {
            return Err(Error::new(format_args!(
                "the guest imports `{import}`, which it was not granted; `{grant}` would grant it"
            )));
        }
    }
    Ok(())
}

/// The key of the configuration that grants a package of WASI. With any of them the others are there too, but
/// empty: what a tool chain's library imports, it imports as a whole.
fn grant_for(package: &str) -> Option<&'static str> {
    match package {
        "filesystem" => Some("wasm.allow.dirs"),
        "sockets" => Some("wasm.allow.network"),
        // An empty table is enough.
        "cli" | "clocks" | "io" | "random" => Some("wasm.allow.env"),
        _ => None,
    }
}

/// Offers what there is.
///
/// # Errors
/// When wasmtime has no memory for it.
pub(super) fn offer(linker: &mut Linker<Data>, allow: &Allow) -> wasmtime::Result<()> {
    Module::add_to_linker::<_, HasSelf<Data>>(linker, |data| data)?;
    #[cfg(feature = "wasi")]
    if allow.any() {
        crate::wasi::offer(linker)?;
    }
    #[cfg(not(feature = "wasi"))]
    let _ = allow;
    Ok(())
}

impl types::Host for Data {}

impl bus::Host for Data {
    async fn publish(
        &mut self,
        module_id: String,
        kind: String,
        payload: String,
    ) -> std::result::Result<(), types::Error> {
        host::publish(self, module_id, kind, &payload).await.map_err(|error| failed(&error))
    }

    async fn request(
        &mut self,
        module_id: String,
        method: String,
        payload: String,
    ) -> std::result::Result<String, types::Error> {
        host::request(self, &module_id, &method, &payload).await.map_err(|error| failed(&error))
    }
}

impl log::Host for Data {
    fn log(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Error => 1,
            log::Level::Warn => 2,
            log::Level::Info => 3,
            log::Level::Debug => 4,
            log::Level::Trace => 5,
        };
        host::log(level, &message);
    }
}

impl clock::Host for Data {
    fn now(&mut self) -> u64 {
        host::now()
    }

    fn monotonic(&mut self) -> u64 {
        host::monotonic(self)
    }
}

fn failed(error: &Error) -> types::Error {
    types::Error::Failed(host::line(error))
}
