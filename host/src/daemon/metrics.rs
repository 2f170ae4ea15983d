//! `GET /metrics`: the text format of Prometheus, version 0.0.4.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use oxide_plugin_api::ModuleState;

use super::api::App;

/// What is counted while the host serves.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
}

const STATES: [ModuleState; 6] = [
    ModuleState::Loaded,
    ModuleState::Starting,
    ModuleState::Running,
    ModuleState::Stopping,
    ModuleState::Stopped,
    ModuleState::Failed,
];

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let modules = app.host.list().await;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let by_state = STATES.map(|state| {
        let count = modules.iter().filter(|module| module.state == state).count();
        (format!("{{state=\"{state}\"}}"), count as u64)
    });
    family("oxide_modules", "gauge", "Modules under management, by state.", &by_state);
    let calls = [
        ("{outcome=\"answered\"}".to_owned(), app.calls.answered.load(Ordering::Relaxed)),
        ("{outcome=\"failed\"}".to_owned(), app.calls.failed.load(Ordering::Relaxed)),
    ];
    family("oxide_invocations_total", "counter", "Calls made through this API, by outcome.", &calls);
    let retained = app.host.retained().len() as u64;
    family(
        "oxide_retained",
        "gauge",
        "Generations still mapped after their unload.",
        &[(String::new(), retained)],
    );
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("oxide_host_info", "gauge", "The host's version.", &[(version, 1)]);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
