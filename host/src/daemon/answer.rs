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
    pub(super) report: Box<ErrorReport>,
}

impl Fault {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, report: Box::new(ErrorReport::new(code, message)) }
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
        Self { status: status(&error), report: Box::new(ErrorReport::from(&error)) }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        json(self.status, &ErrorBody { error: *self.report })
    }
}

/// A value as the body. One that cannot be written (a path that is no Unicode) is an error like others.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => (status, [(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => {
            let report = Box::new(ErrorReport::of("unwritable", &error));
            Fault { status: StatusCode::INTERNAL_SERVER_ERROR, report }.into_response()
        }
    }
}

fn status(error: &KernelError) -> StatusCode {
    match error {
        // What became of the swap is in the body; the status is that of its cause.
        KernelError::SwapFailed { source, .. } => status(source),
        KernelError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        KernelError::UnknownModule(_) | KernelError::UnknownMethod { .. } => StatusCode::NOT_FOUND,
        KernelError::DuplicateModule(_)
        | KernelError::IllegalTransition { .. }
        | KernelError::NotRunning { .. }
        | KernelError::SelfWait { .. }
        | KernelError::HookStuck { .. }
        | KernelError::CallsInside { .. }
        | KernelError::SameBuild { .. }
        | KernelError::OtherModule { .. }
        | KernelError::NoPreviousBuild(_)
        | KernelError::Superseded { .. }
        | KernelError::TooManyRetained { .. }
        | KernelError::StateTooLarge { .. } => StatusCode::CONFLICT,
        KernelError::InvalidId { .. } => StatusCode::BAD_REQUEST,
        KernelError::Denied { .. } => StatusCode::FORBIDDEN,
        KernelError::HookTimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        KernelError::Cancelled { .. }
        | KernelError::TooManyHeld { .. }
        | KernelError::HeldTooLong { .. }
        | KernelError::ShuttingDown
        | KernelError::LoaderStuck(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
