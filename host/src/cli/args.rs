//! What the command line looks like.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, error::ErrorKind};

use super::{
    Exit, Failure, Printer,
    events::Events,
    inspect::Inspect,
    invoke::Invoke,
    list::List,
    load::Load,
    probe::Probe,
    retained::Retained,
    run::Run,
    send::Send,
    show::Show,
    start::Start,
    stop::Stop,
    swap::{Rollback, Swap},
    unload::Unload,
};

/// Runs native plugins: loads, calls and unloads modules that other people compiled.
#[derive(Debug, Parser)]
#[command(name = "oxide-host", version, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 the plugin was refused, 4 no such module, \
                        5 no host is running")]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Default, Args)]
pub(super) struct Global {
    /// The host's socket [env: OXIDE_SOCKET] [default: in the user's runtime directory]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Print JSON on stdout, errors included
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Say more on stderr; twice for more still
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    quiet: bool,
}

impl Global {
    /// -1 for quiet, then up.
    pub(super) fn verbosity(&self) -> i8 {
        if self.quiet { -1 } else { self.verbose.min(3).cast_signed() }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Be the host, in the foreground, until SIGINT or SIGTERM; then unload everything
    Run(Run),
    /// Load plugins into the running host; with none running, become the host
    Load(Load),
    /// List the modules
    List(List),
    /// Show one module
    Show(Show),
    /// Start a module
    Start(Start),
    /// Stop a module
    Stop(Stop),
    /// Unload a module, and say what became of it
    Unload(Unload),
    /// Replace a module by another build while its callers keep calling
    Swap(Swap),
    /// Swap a module back to the build before the present one
    Rollback(Rollback),
    /// Call a module; the reply's bytes go to stdout, and nothing else
    Invoke(Invoke),
    /// Print the last messages of the bus, or follow it
    Events(Events),
    /// Send a command or an event over the bus
    Send(Send),
    /// Describe plugin files without running any of them; needs no host
    Inspect(Inspect),
    /// List what is still mapped after an unload, and why
    Retained(Retained),
    /// Try a build out, as a host asks for it on stdin
    #[command(hide = true)]
    Probe(Probe),
}

/// Prints help, or what is wrong with the command line, and gives the exit code.
pub(super) fn explain(error: &clap::Error, words: &[OsString]) -> Exit {
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // There is no parsed command line that could say whether JSON was asked for.
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    if json && !help {
        return Printer::new(true, 0).finish(Err(Failure::usage(summary(error)).hint(HELP)));
    }
    // Nobody is left to tell when even this cannot be printed.
    let _ = error.print();
    if help { Exit::Done } else { Exit::Usage }
}

const HELP: &str = "`oxide-host help` and `oxide-host help VERB` say what there is";

/// Clap's message without its usage and tips, in one line.
fn summary(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "the verb is missing".to_owned();
    }
    let rendered = error.render().to_string();
    let lines = rendered.lines().take_while(|line| !line.is_empty());
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let text = words.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_every_verb_takes_may_stand_before_or_after_it() {
        for line in ["oxide-host --json --socket /s -v list", "oxide-host list --json --socket /s -v"] {
            let cli = parse(line).expect(line);
            assert_eq!(cli.global.socket.as_deref(), Some("/s".as_ref()), "{line}");
            assert!(cli.global.json, "{line}");
            assert_eq!(cli.global.verbosity(), 1, "{line}");
        }
        assert_eq!(parse("oxide-host -q list").expect("quiet").global.verbosity(), -1);
        assert!(parse("oxide-host -q -v list").is_err());
    }

    #[test]
    fn a_usage_error_is_one_line() {
        insta::assert_snapshot!(summary(&parse("oxide-host").expect_err("no verb")), @"the verb is missing");
        insta::assert_snapshot!(summary(&parse("oxide-host lits").expect_err("no such verb")), @"unrecognized subcommand 'lits'");
        insta::assert_snapshot!(summary(&parse("oxide-host load").expect_err("no path")), @"the following required arguments were not provided: <PATH>...");
        insta::assert_snapshot!(summary(&parse("oxide-host list --yes").expect_err("no such flag")), @"unexpected argument '--yes' found");
    }
}
