//! The log of a host, on stderr.

use std::io;

use tracing_subscriber::EnvFilter;

/// Has the calling thread register what writing the log needs in thread-locals. Registering it with the first entry, it
/// would have to wait while a library is being opened or closed.
pub(super) fn prepare_thread() {
    let nowhere = tracing_subscriber::fmt().with_writer(io::sink).finish();
    tracing::subscriber::with_default(nowhere, || tracing::error!("written nowhere"));
}

/// Starts it. `RUST_LOG` decides what is shown, unless the command line asks for more or less.
pub(super) fn start(verbosity: i8) {
    let level = match verbosity {
        ..0 => "error",
        0 => "warn,oxide_host=info,oxide_plugin_api=info",
        1 => "info,oxide_host=debug,oxide_plugin_api=debug",
        2 => "debug",
        _ => "trace",
    };
    let filter = match std::env::var("RUST_LOG") {
        Ok(wanted) if verbosity == 0 => EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(level)),
        _ => EnvFilter::new(level),
    };
    let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    // Fails only if there is a subscriber already, and then that one does it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .try_init();
}
