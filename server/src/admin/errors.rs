//! What goes wrong in a handler, as an HTTP answer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use engine::catalog::CatalogError;
use engine::store::probe::ProbeError;
use engine::{ErrorKind, ReadError};

use crate::branch_maker::MakeError;
use crate::catalog::{self, CatalogErrorKind};
use crate::times::TimeError;

/// An error as JSON.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    msg: String,
}

/// A status and its reason.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    msg: String,
}

impl ApiError {
    pub(crate) fn not_found(msg: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::NOT_FOUND,
            msg: msg.into(),
        }
    }

    pub(crate) fn unavailable(msg: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            msg: msg.into(),
        }
    }

    pub(crate) fn bad_request(msg: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            msg: msg.into(),
        }
    }

    pub(crate) fn stopping() -> ApiError {
        ApiError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            msg: "the server is shutting down".to_owned(),
        }
    }
}

impl From<CatalogError> for ApiError {
    fn from(e: CatalogError) -> Self {
        let status = match catalog::kind(&e) {
            CatalogErrorKind::NotFound => StatusCode::NOT_FOUND,
            CatalogErrorKind::Refused => StatusCode::CONFLICT,
            CatalogErrorKind::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
            CatalogErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        let msg = e.to_string();
        ApiError { status, msg }
    }
}

impl From<ReadError> for ApiError {
    fn from(e: ReadError) -> Self {
        let status = match e.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Gone => StatusCode::GONE,
            ErrorKind::NotYet | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Refused => StatusCode::CONFLICT,
        };
        let msg = e.to_string();
        ApiError { status, msg }
    }
}

impl From<TimeError> for ApiError {
    fn from(e: TimeError) -> Self {
        match e {
            TimeError::Read(e) => e.into(),
            outside => ApiError {
                status: StatusCode::CONFLICT,
                msg: outside.to_string(),
            },
        }
    }
}

impl From<ProbeError> for ApiError {
    fn from(e: ProbeError) -> Self {
        let status = match &e {
            ProbeError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            ProbeError::NotConditional { .. } => StatusCode::CONFLICT,
        };
        let msg = e.to_string();
        ApiError { status, msg }
    }
}

impl From<MakeError> for ApiError {
    fn from(e: MakeError) -> Self {
        match e {
            MakeError::Catalog(e) => e.into(),
            MakeError::Parent(e) => e.into(),
            MakeError::Time(e) => e.into(),
            MakeError::Probe(e) => e.into(),
            MakeError::Stopping => ApiError::stopping(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { msg: self.msg })).into_response()
    }
}
