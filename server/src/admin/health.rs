//! Liveness and readiness, for whoever restarts or routes to the server.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::AdminState;

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "alive")))]
pub(super) async fn livez() -> &'static str {
    "alive\n"
}

/// Whether pages are served: all cores listen, and the server is not shutting down.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "ready"),
    (status = 503, description = "shutting down"),
))]
pub(super) async fn readyz(State(state): State<Arc<AdminState>>) -> (StatusCode, &'static str) {
    if state.server.pages.stopping() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
