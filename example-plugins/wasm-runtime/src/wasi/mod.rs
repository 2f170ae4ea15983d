//! WASI 0.2 for components that were granted something: folders, variables, hosts by name.

mod names;
mod output;

use oxide_plugin_api::{Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

use crate::{config::Allow, store::Data};

/// What an instance has of WASI; nothing where nothing was granted.
pub(crate) struct State(Option<Granted>);

struct Granted {
    context: WasiCtx,
    table: ResourceTable,
    hosts: Vec<String>,
}

/// The tokio runtime that WASI's waiting is done on. Its threads end when this is dropped.
pub(crate) struct Reactor(Option<Runtime>);

impl State {
    /// # Errors
    /// When a granted folder cannot be opened.
    pub(crate) fn new(allow: &Allow) -> Result<Self> {
        if !allow.any() {
            return Ok(Self(None));
        }
        let mut context = WasiCtx::builder();
        context.stdout(output::Lines::new(output::STDOUT)).stderr(output::Lines::new(output::STDERR));
        for (name, value) in allow.env.iter().flatten() {
            context.env(name, value);
        }
        for folder in allow.dirs.iter().flatten() {
            let permissions = if folder.write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            context.preopened_dir(&folder.host, &folder.guest, permissions).map_err(|error| {
                Error::new(error.root_cause()).context(format_args!(
                    "the folder {} of `wasm.allow.dirs` cannot be opened",
                    folder.host.display()
                ))
            })?;
        }
        let hosts = allow.network.clone().unwrap_or_default();
        context.allow_tcp(!hosts.is_empty()).allow_udp(false).allow_ip_name_lookup(!hosts.is_empty());
        names::restrict(&mut context, hosts.clone());
        Ok(Self(Some(Granted { context: context.build(), table: ResourceTable::new(), hosts })))
    }

    fn granted(&mut self) -> &mut Granted {
        self.0.as_mut().expect("WASI is linked where something was granted, and nowhere else")
    }
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let granted = self.wasi.granted();
        WasiCtxView { ctx: &mut granted.context, table: &mut granted.table }
    }
}

/// Offers WASI's interfaces.
///
/// # Errors
/// When wasmtime has no memory for it.
pub(crate) fn offer(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    names::offer(linker)
}

impl Reactor {
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn new(allow: &Allow) -> Result<Self> {
        if !allow.any() {
            return Ok(Self(None));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("oxide-wasi")
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// To be entered around all that may use WASI: without it, wasmtime would start a runtime that never ends.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

/// How long reading or writing of files that has begun may take at the end.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

impl Drop for Reactor {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
    }
}
