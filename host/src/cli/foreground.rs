//! Being the host, in the foreground, until SIGINT or SIGTERM.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use oxide_plugin_api::ModuleState;
use tokio::sync::oneshot;

use super::{
    Context, Exit, Failure, Printer, callers, input, load::say_loaded, logging, unload::say_receipt,
};
use crate::{
    daemon::{Claim, Daemon, Endpoint, ErrorReport, LoadReport, Signals, SocketError},
    host::{Host, HostBuilder},
    manager::LoadOptions,
    report::{ModuleInfo, Receipt, Retained},
    sys,
};

/// What goes to stdout, with `--json`, when the first modules are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    None,
    Object,
    Array,
}

/// Names the engine for WASM guests, whatever the configuration says.
const WASM_ENGINE: &str = "OXIDE_WASM_ENGINE";

/// What is to be loaded first.
pub(super) type Wanted = Vec<(PathBuf, LoadOptions)>;

/// Takes the socket's path.
pub(super) fn claim(endpoint: Endpoint) -> Result<Claim, SocketError> {
    Claim::acquire(endpoint)
}

/// Serves until a signal comes, then unloads everything. A host that was asked for modules and could load
/// none of them does not stay.
pub(super) async fn serve(
    context: &Context,
    claim: Claim,
    mut builder: HostBuilder,
    wanted: Wanted,
    form: Report,
) -> Result<Exit, Failure> {
    let printer = &context.printer;
    // Before the socket is there, so that no signal finds one that is then left behind.
    let mut signals = Signals::catch().map_err(|error| Failure::io("catch signals", &error))?;
    let claim = Arc::new(claim);
    if let Some(engine) = env::var_os(WASM_ENGINE).filter(|engine| !engine.is_empty()) {
        builder = builder.wasm_engine(input::absolute(Path::new(&engine))?);
    }
    let host = builder.build()?;
    host.on_kernel_thread(logging::prepare_thread);
    callers::make_ready().await;
    let daemon = Daemon::bind(host.clone(), claim.clone()).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(daemon.serve(async {
        // Also when the sender is gone.
        let _ = stopped.await;
    }));
    printer.say(format_args!("listening on {}", claim.path().display()));

    let result = tokio::select! {
        result = until_told(printer, claim.path(), &host, wanted, form) => result,
        signal = signals.next() => {
            printer.say(format_args!("{signal}: unloading everything; once more ends it at once"));
            Ok(Exit::Done)
        }
    };
    for module in host.list().await {
        if matches!(module.state, ModuleState::Starting | ModuleState::Stopping) {
            printer
                .say(format_args!("waiting for {}, which is {}, to its deadline", module.id, module.state));
        }
    }
    drop(stop);
    let receipts = tokio::select! {
        receipts = &mut serving => receipts.unwrap_or_default(),
        signal = signals.next() => {
            printer.say(format_args!("{signal} once more: ending without unloading"));
            claim.release();
            host.remove_copies();
            leave(Exit::Failed)
        }
    };
    say_summary(printer, &receipts, &host.retained());
    host.remove_copies();
    // Finalisers must not run under the threads of a plugin that is still mapped, nor under a hook of one that
    // was being loaded when the signal came.
    leave(printer.finish(result))
}

/// Loads what is wanted, then stays: only a signal, or having nothing to stay for, ends it.
async fn until_told(
    printer: &Printer,
    socket: &Path,
    host: &Host,
    wanted: Wanted,
    form: Report,
) -> Result<Exit, Failure> {
    let asked = !wanted.is_empty();
    let (loaded, failures) = load_all(printer, socket, host, wanted, form).await;
    let errors: Vec<ErrorReport> = failures.iter().map(|failure| (*failure.report).clone()).collect();
    match (form, errors.first()) {
        _ if !printer.json() => {}
        (Report::Object, None) => printer.value(&loaded[0])?,
        (Report::Array, None) => printer.value(&loaded)?,
        (Report::Array, Some(first)) => {
            printer.value(&LoadReport { error: first.clone(), errors, loaded: loaded.clone() })?;
        }
        _ => {}
    }
    // Somebody else may have found this host and loaded something into it meanwhile.
    if asked && loaded.is_empty() && host.list().await.is_empty() {
        let printed = !printer.json() || form == Report::Array;
        if let Some(first) = failures.into_iter().next() {
            return Err(Failure { printed, ..first });
        }
    }
    std::future::pending().await
}

async fn load_all(
    printer: &Printer,
    socket: &Path,
    host: &Host,
    wanted: Wanted,
    form: Report,
) -> (Vec<ModuleInfo>, Vec<Failure>) {
    let mut loaded = Vec::new();
    let mut failures = Vec::new();
    for (path, options) in wanted {
        match host.load_with(&path, options).await {
            Ok(module) => {
                say_loaded(printer, socket, &module);
                loaded.push(module);
            }
            Err(error) => {
                let mut failure = Failure::from(error);
                failure.report.path = Some(path);
                // With JSON it is part of what goes to stdout; `run` has nothing to say there.
                if !printer.json() || form == Report::None {
                    printer.complain(&failure.report);
                }
                failures.push(failure);
            }
        }
    }
    (loaded, failures)
}

fn say_summary(printer: &Printer, receipts: &[Receipt], retained: &[Retained]) {
    for receipt in receipts {
        say_receipt(printer, receipt);
    }
    // Those that were unloaded before, and are not among the receipts.
    let is_among =
        |one: &&Retained| !receipts.iter().any(|r| r.id == one.id && r.generation == one.generation);
    for earlier in retained.iter().filter(is_among) {
        printer.say(format_args!(
            "{} (generation {}), unloaded earlier, stayed mapped until now",
            earlier.id, earlier.generation
        ));
    }
    let kept = receipts.iter().filter(|receipt| !receipt.unmapped).count();
    printer.say(match (receipts.len(), kept) {
        (0, _) => "ended; there was nothing to unload".to_owned(),
        (count, 0) => format!("ended; {count} unloaded"),
        (count, kept) => format!("ended; {count} unloaded, of which {kept} stayed mapped until now"),
    });
}

/// Ends the process as it stands, with everything said.
fn leave(exit: Exit) -> ! {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    sys::exit_now(exit.code().into())
}
