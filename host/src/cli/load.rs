//! `load`: into the running host, or by becoming the host.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::Method;
use oxide_plugin_api::ModuleState;

use super::{
    Client, Context, Exit, Failure, Printer,
    client::{error_of, parse, to_json},
    context::command_for,
    foreground, input,
    text::shell_word,
    unload::holder,
};
use crate::{
    config::Config,
    daemon::{Claim, Endpoint, ErrorReport, LoadReport, LoadRequest, SocketError},
    error::KernelError,
    intake::{LoadPolicy, ModuleFile},
    manager::LoadOptions,
    report::ModuleInfo,
};

/// What `load` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// The plugins' files, and those of WASM guests
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Manage it under this id, in place of its own; for one file
    #[arg(long)]
    id: Option<String>,
    /// What the module's `configure` gets
    #[arg(long, value_name = "JSON|@FILE", allow_hyphen_values = true)]
    config: Option<String>,
    /// Load it, but do not start it
    #[arg(long)]
    no_start: bool,
}

impl Load {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if self.id.is_some() && self.paths.len() > 1 {
            let message = format!("--id is for one file, and there are {}", self.paths.len());
            return Err(Failure::usage(message).hint("load them one after the other"));
        }
        let config = input::json("--config", self.config.as_deref())?;
        let paths: Vec<PathBuf> =
            self.paths.iter().map(|path| input::absolute(path)).collect::<Result<_, _>>()?;
        let request =
            LoadRequest { paths: Some(paths), path: None, id: self.id, config, start: Some(!self.no_start) };
        let endpoint = context.endpoint(None);
        match place(&endpoint).await? {
            Place::Running(host) => load_into(&context.printer, &endpoint, host, request).await,
            Place::Free(claim) => become_host(context, *claim, request).await,
        }
    }
}

/// Where a module can be loaded.
enum Place {
    Running(Client),
    Free(Box<Claim>),
}

/// Finds the running host, or takes its place. Another `load` may be doing the same: then whoever comes
/// second waits until the first one answers.
async fn place(endpoint: &Endpoint) -> Result<Place, Failure> {
    for _ in 0..50 {
        match Client::connect(endpoint).await {
            Ok(client) => return Ok(Place::Running(client)),
            Err(failure) if failure.exit == Exit::NoHost => {}
            Err(failure) => return Err(failure),
        }
        match foreground::claim(endpoint.clone()) {
            Err(SocketError::HostRunning { .. }) => tokio::time::sleep(Duration::from_millis(100)).await,
            claim => return Ok(Place::Free(Box::new(claim?))),
        }
    }
    let path = endpoint.path().display();
    Err(Failure::new(ErrorReport::new(
        "host_running",
        format!("the host on `{path}` is starting or ending, and does not answer"),
    )))
}

async fn load_into(
    printer: &Printer,
    endpoint: &Endpoint,
    mut host: Client,
    request: LoadRequest,
) -> Result<Exit, Failure> {
    let say = |module| say_loaded(printer, endpoint.path(), module);
    let several = request.paths.as_ref().is_some_and(|paths| paths.len() > 1);
    let (status, bytes) = host.exchange(Method::POST, "/v1/modules", to_json(&request)?).await?;
    if status.is_success() {
        let modules: Vec<ModuleInfo> = parse(&bytes)?;
        modules.iter().for_each(say);
        match &modules[..] {
            [module] if printer.json() && !several => printer.value(module)?,
            modules if printer.json() => printer.value(&modules)?,
            _ => {}
        }
        return Ok(Exit::Done);
    }
    let failure = error_of(status, &bytes);
    match parse::<LoadReport>(&bytes) {
        // Of one file there is one error, in the form that all errors have.
        Ok(report) if several => {
            report.loaded.iter().for_each(say);
            if printer.json() {
                printer.value(&report)?;
            } else {
                report.errors.iter().for_each(|error| printer.complain(error));
            }
            Err(failure.printed())
        }
        _ => Err(failure),
    }
}

async fn become_host(context: &Context, claim: Claim, request: LoadRequest) -> Result<Exit, Failure> {
    let mut options = LoadOptions::new().config(request.config).start(request.start.unwrap_or(true));
    options.id = request.id;
    let paths = request.paths.unwrap_or_default();
    let report = if paths.len() > 1 { foreground::Report::Array } else { foreground::Report::Object };
    if let [path] = paths.as_slice() {
        // What no host would take is told before one is begun for it.
        let looked = ModuleFile::read(path).and_then(|file| file.check_loadable(&LoadPolicy::default()));
        if let Err(refusal) = looked {
            let mut failure = Failure::from(KernelError::from(refusal));
            failure.report.path = Some(path.clone());
            return Err(failure);
        }
    }
    let wanted = paths.into_iter().map(|path| (path, options.clone())).collect();
    context.printer.say("no host is running, so this is the host now; Ctrl-C ends it");
    foreground::serve(context, claim, Config::default().builder(), wanted, report).await
}

/// Says that a module was loaded, and how to call it through the host on `socket`.
pub(super) fn say_loaded(printer: &Printer, socket: &Path, module: &ModuleInfo) {
    let ModuleInfo { id, version, generation, state, .. } = module;
    printer.say(format_args!("loaded {id} {version} (generation {generation}), {state}"));
    for retention in &module.retained_by {
        printer.say(format_args!("  its library will stay mapped after an unload: {}", holder(retention)));
    }
    if *state == ModuleState::Running {
        printer.say(format_args!("try: {} invoke {} METHOD [TEXT]", command_for(socket), shell_word(id)));
    }
}
