//! What the API answers: a value as JSON, or an error in the one shape that errors have.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use hyper::StatusCode;
use serde::Serialize;

use super::{ErrorReport, wire::ErrorBody};
use crate::error::KernelError;

pub(super) type Answer<T = Response> = Result<T, Fault>;

/// An error and its HTTP status.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) report: ErrorReport,
}

impl Fault {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, report: ErrorReport::new(code, message) }
    }

    /// The request makes no sense.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.report.hint = Some(hint.to_owned());
        self
    }
}

impl From<KernelError> for Fault {
    fn from(error: KernelError) -> Self {
        Self { status: status(&error), report: ErrorReport::from(&error) }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        json(self.status, &ErrorBody { error: self.report })
    }
}

/// A value as the body. One that cannot be written (a path that is no Unicode) is an error like others.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => (status, [(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            let report = ErrorReport::of("unwritable", &error);
            Fault { status: StatusCode::INTERNAL_SERVER_ERROR, report }.into_response()
        }
    }
}

fn status(error: &KernelError) -> StatusCode {
    match error {
        KernelError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        KernelError::UnknownModule(_) | KernelError::UnknownMethod { .. } => StatusCode::NOT_FOUND,
        KernelError::DuplicateModule(_)
        | KernelError::IllegalTransition { .. }
        | KernelError::NotRunning { .. }
        | KernelError::SelfWait { .. }
        | KernelError::HookStuck { .. } => StatusCode::CONFLICT,
        KernelError::InvalidId { .. } => StatusCode::BAD_REQUEST,
        KernelError::Denied { .. } => StatusCode::FORBIDDEN,
        KernelError::HookTimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        KernelError::Cancelled { .. } | KernelError::ShuttingDown | KernelError::LoaderStuck(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
