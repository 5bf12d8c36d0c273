//! The admin HTTP service: health, metrics, status, tenants and branches, and the calls that load generators make. Runs on
//! a tokio thread of its own, off the cores that serve pages; on loopback, or behind a token and TLS.

mod branches;
mod errors;
mod exposition;
mod following;
mod health;
mod load_generator;
mod metrics;
mod openapi;
mod serve;
mod status;
mod tenants;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub use serve::{AdminError, AdminService};

use crate::running::RunningServer;

/// What every handler gets.
pub(crate) struct AdminState {
    pub(crate) server: Arc<RunningServer>,
    pub(crate) token: Option<Zeroizing<String>>,
    pub(crate) body_bytes_max: usize,
}

/// The service's routes: all of them, and each in the OpenAPI document (a test compares).
fn router(state: Arc<AdminState>) -> Router {
    openapi::routes()
        .into_iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, route.handler)
        })
        .fallback(async || errors::ApiError::not_found("no such path: see /openapi.json"))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .with_state(state)
}

/// Reads the body of every request whole, asked for or not (some clients send one with GET, and a connection whose body
/// was left unread goes out of step), bounded; then checks the token. Liveness and readiness need none.
async fn guard(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, state.body_bytes_max).await else {
        let refusal = (
            StatusCode::PAYLOAD_TOO_LARGE,
            "request body too long or broken off\n",
        );
        return ([(header::CONNECTION, "close")], refusal).into_response();
    };
    let open = matches!(parts.uri.path(), "/livez" | "/readyz");
    if !open && !authorized(&state, parts.headers.get(header::AUTHORIZATION)) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, "token needed\n").into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn authorized(state: &AdminState, header: Option<&header::HeaderValue>) -> bool {
    let Some(token) = &state.token else {
        return true;
    };
    let sent = header.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    sent.is_some_and(|sent| bool::from(sent.ct_eq(token.as_bytes())))
}
