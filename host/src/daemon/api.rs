//! The routes and what each does: one call of the façade.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use bytes::Bytes;
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::{oneshot, watch};

use super::{
    ErrorReport, Health, LoadReport, LoadRequest, SwapRequest,
    answer::{Answer, Fault, json},
    dry_run, events,
    extract::{Body, JsonBody, Params, Segments},
    journal::Journal,
    messages,
    metrics::{self, Counters},
    openapi,
};
use crate::{
    error::KernelError,
    host::Host,
    intake,
    manager::{LoadOptions, Probation, SwapOptions},
};

/// The largest body: a call's payload may have 64 MiB and more.
const BODY_LIMIT: usize = 256 << 20;

/// What the handlers share.
pub(super) struct App {
    pub(super) host: Host,
    pub(super) journal: Journal,
    pub(super) calls: Counters,
    /// Turns true when the host has ended and streams should too.
    pub(super) ended: watch::Receiver<bool>,
}

type Route = (Method, &'static str, MethodRouter<Arc<App>>);

/// All routes. A test holds `openapi.json` against this list.
pub(super) fn routes() -> Vec<Route> {
    vec![
        (Method::GET, "/v1/health", get(health)),
        (Method::GET, "/v1/modules", get(list)),
        (Method::POST, "/v1/modules", post(load)),
        (Method::GET, "/v1/modules/{id}", get(show)),
        (Method::DELETE, "/v1/modules/{id}", delete(unload)),
        (Method::POST, "/v1/modules/{id}/start", post(start)),
        (Method::POST, "/v1/modules/{id}/stop", post(stop)),
        (Method::POST, "/v1/modules/{id}/swap", post(swap)),
        (Method::POST, "/v1/modules/{id}/rollback", post(rollback)),
        (Method::POST, "/v1/modules/{id}/invoke/{method}", post(invoke)),
        (Method::GET, "/v1/retained", get(retained)),
        (Method::GET, "/v1/inspect", get(inspect)),
        (Method::GET, "/v1/events", get(events::events)),
        (Method::POST, "/v1/messages", post(messages::send)),
        (Method::GET, "/v1/openapi.json", get(openapi::openapi)),
        (Method::GET, "/metrics", get(metrics::metrics)),
    ]
}

pub(super) fn router(app: Arc<App>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, handler)| router.route(path, handler))
        // A method may be called anything, nothing included; `{method}` takes at least one character.
        .route("/v1/modules/{id}/invoke/", post(invoke_nameless))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(app)
}

async fn unknown_route(uri: Uri) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "unknown_route", format!("this API has nothing at `{}`", uri.path()))
        .hint("GET /v1/openapi.json describes every call")
}

async fn unknown_method(method: Method, uri: Uri) -> Fault {
    let message = format!("`{}` does not take the method {method}", uri.path());
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "unknown_route", message)
        .hint("GET /v1/openapi.json describes every call")
}

async fn health() -> Response {
    let health = Health { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() };
    json(StatusCode::OK, &health)
}

async fn list(State(app): State<Arc<App>>) -> Response {
    json(StatusCode::OK, &app.host.list().await)
}

async fn show(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Answer {
    Ok(json(StatusCode::OK, &app.host.show(&id).await?))
}

async fn start(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Answer {
    app.host.start(&id).await?;
    Ok(json(StatusCode::OK, &app.host.show(&id).await?))
}

async fn stop(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Answer {
    app.host.stop(&id).await?;
    Ok(json(StatusCode::OK, &app.host.show(&id).await?))
}

async fn unload(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Answer {
    Ok(json(StatusCode::OK, &app.host.unload(&id).await?))
}

async fn retained(State(app): State<Arc<App>>) -> Response {
    json(StatusCode::OK, &app.host.retained())
}

async fn load(State(app): State<Arc<App>>, JsonBody(request): JsonBody<LoadRequest>) -> Answer {
    let LoadRequest { path, paths, id, config, start } = request;
    let (paths, one) = match (path, paths) {
        (Some(path), None) => (vec![path], true),
        (None, Some(paths)) if !paths.is_empty() => (paths, false),
        _ => return Err(Fault::bad_request("give one `path`, or several as `paths`")),
    };
    if id.is_some() && paths.len() > 1 {
        return Err(Fault::bad_request("an `id` is for one file, and there are several"));
    }
    paths.iter().try_for_each(|path| absolute(path))?;
    let mut options = LoadOptions::new().config(config).start(start.unwrap_or(true));
    options.id = id;

    let mut loaded = Vec::new();
    let mut faults = Vec::new();
    for path in paths {
        match app.host.load_with(&path, options.clone()).await {
            Ok(module) => loaded.push(module),
            Err(error) => {
                let mut fault = Fault::from(error);
                fault.report.path = Some(path);
                faults.push(fault);
            }
        }
    }
    match faults.first() {
        None if one => Ok(json(StatusCode::CREATED, &loaded[0])),
        None => Ok(json(StatusCode::CREATED, &loaded)),
        Some(_) if one => Err(faults.remove(0)),
        Some(first) => {
            let status = first.status;
            let errors: Vec<ErrorReport> = faults.into_iter().map(|fault| *fault.report).collect();
            Ok(json(status, &LoadReport { error: errors[0].clone(), errors, loaded }))
        }
    }
}

async fn swap(
    State(app): State<Arc<App>>,
    Segments(id): Segments<String>,
    JsonBody(request): JsonBody<SwapRequest>,
) -> Answer {
    let SwapRequest { path, config, force, probation_millis, probation_errors, dry_run } = request;
    absolute(&path)?;
    let force = force.unwrap_or(false);
    if dry_run.unwrap_or(false) {
        return Ok(json(StatusCode::OK, &dry_run::dry_run(&app.host, &id, &path, force, config).await?));
    }
    let mut options = SwapOptions::new().force(force);
    options.config = config;
    options.probation = match (probation_millis, probation_errors) {
        (Some(millis), errors) => {
            let probation = Probation::new(Duration::from_millis(millis));
            Some(errors.map_or(probation, |errors| probation.errors(errors)))
        }
        (None, Some(_)) => {
            return Err(Fault::bad_request("`probation_errors` is for a probation: give `probation_millis`"));
        }
        (None, None) => None,
    };
    Ok(json(StatusCode::OK, &app.host.swap_with(&id, &path, options).await?))
}

async fn rollback(State(app): State<Arc<App>>, Segments(id): Segments<String>) -> Answer {
    Ok(json(StatusCode::OK, &app.host.rollback(&id).await?))
}

/// The host's working directory is not the caller's.
fn absolute(path: &Path) -> Answer<()> {
    if path.is_absolute() {
        return Ok(());
    }
    let message = format!("`{}` is not an absolute path", path.display());
    Err(Fault::bad_request(message).hint("the host's working directory is not the caller's"))
}

async fn invoke(
    State(app): State<Arc<App>>,
    Segments((id, method)): Segments<(String, String)>,
    Body(payload): Body,
) -> Answer {
    answer_call(&app, id, method, payload).await
}

async fn invoke_nameless(
    State(app): State<Arc<App>>,
    Segments(id): Segments<String>,
    Body(payload): Body,
) -> Answer {
    answer_call(&app, id, String::new(), payload).await
}

async fn answer_call(app: &App, id: String, method: String, payload: Bytes) -> Answer {
    let reply = call(app.host.clone(), id, method, payload).await;
    let counter = if reply.is_ok() { &app.calls.answered } else { &app.calls.failed };
    counter.fetch_add(1, Ordering::Relaxed);
    Ok(([(CONTENT_TYPE, "application/octet-stream")], Bytes::from(reply?)).into_response())
}

/// Makes a call on a thread of its own. A method that blocks, or never returns, costs that thread: not one
/// of the few that answer all other requests.
async fn call(host: Host, id: String, method: String, payload: Bytes) -> Result<Vec<u8>, KernelError> {
    // Dropped with this future, when the caller hangs up: then the call is cancelled too.
    let (_caller, hung_up) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Handle::current();
    let thread = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                reply = host.invoke(&id, &method, Vec::from(payload)) => Some(reply),
                _ = hung_up => None,
            }
        })
    });
    match thread.await {
        Ok(Some(reply)) => Ok(reply?.into_vec()),
        Ok(None) => Err(KernelError::ShuttingDown),
        Err(error) => Err(KernelError::Setup(format!("the call could not be made: {error}"))),
    }
}

#[derive(Deserialize)]
struct InspectQuery {
    path: PathBuf,
}

async fn inspect(Params(query): Params<InspectQuery>) -> Answer {
    absolute(&query.path)?;
    match tokio::task::spawn_blocking(move || intake::inspect(&query.path)).await {
        Ok(inspection) => Ok(json(StatusCode::OK, &inspection)),
        Err(error) => Err(KernelError::Setup(format!("the file could not be inspected: {error}")).into()),
    }
}
