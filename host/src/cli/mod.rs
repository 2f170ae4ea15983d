//! The command line. One file per verb; each verb is one call of the API, except those that are the host.
//!
//! stdout is data, stderr is talk. A verb gives its exit code or a `Failure`; printing that is done once,
//! at the end of [`main`].

mod args;
mod callers;
mod client;
mod context;
mod events;
mod exit;
mod failure;
mod foreground;
mod input;
mod inspect;
mod invoke;
mod list;
mod load;
mod logging;
mod printer;
mod probe;
mod retained;
mod run;
mod send;
mod show;
mod start;
mod stop;
mod swap;
mod table;
mod text;
mod unload;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use self::{
    args::{Cli, Verb},
    client::Client,
    context::Context,
    exit::Exit,
    failure::Failure,
    printer::Printer,
};

/// Parses the command line, runs it, prints what went wrong, and gives the exit code.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return args::explain(&error, &words).into(),
    };
    logging::start(cli.global.verbosity());
    let context = Context::new(&cli.global);
    let runtime = match callers::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return context.printer.finish(Err(Failure::io("start the runtime", &error))).into(),
    };
    let result = runtime.block_on(run(cli.verb, &context));
    // A call that never returns must not keep a client or an ended host.
    runtime.shutdown_background();
    context.printer.finish(result).into()
}

async fn run(verb: Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Run(verb) => verb.run(context).await,
        Verb::Load(verb) => verb.run(context).await,
        Verb::List(verb) => verb.run(context).await,
        Verb::Show(verb) => verb.run(context).await,
        Verb::Start(verb) => verb.run(context).await,
        Verb::Stop(verb) => verb.run(context).await,
        Verb::Unload(verb) => verb.run(context).await,
        Verb::Swap(verb) => verb.run(context).await,
        Verb::Rollback(verb) => verb.run(context).await,
        Verb::Probe(verb) => verb.run(context).await,
        Verb::Invoke(verb) => verb.run(context).await,
        Verb::Events(verb) => verb.run(context).await,
        Verb::Send(verb) => verb.run(context).await,
        Verb::Inspect(verb) => verb.run(context),
        Verb::Retained(verb) => verb.run(context).await,
    }
}
