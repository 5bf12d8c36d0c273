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
    (status = 503, description = "shutting down, or a core or store thread was lost"),
))]
pub(super) async fn readyz(State(state): State<Arc<AdminState>>) -> (StatusCode, &'static str) {
    let server = &state.server;
    readiness(server.pages.stopping(), server.engine.has_lost_thread())
}

/// A core that is gone serves none of its partitions, a store thread no miss: who routes here should stop, even before the process ends.
fn readiness(stopping: bool, lost_thread: bool) -> (StatusCode, &'static str) {
    match (stopping, lost_thread) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "a thread was lost\n"),
        (false, false) => (StatusCode::OK, "ready\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_server_that_stays_is_ready() {
        assert_eq!(readiness(false, false).0, StatusCode::OK);
        for (stopping, lost_thread) in [(true, false), (false, true), (true, true)] {
            let (status, _) = readiness(stopping, lost_thread);
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
