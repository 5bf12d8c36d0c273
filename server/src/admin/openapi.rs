//! The list of routes, and the document that describes them.

use std::sync::Arc;

use axum::Json;
use axum::routing::{MethodRouter, get, post, put};
use utoipa::OpenApi;

use super::{AdminState, branches, following, health, load_generator, metrics, status, tenants};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "pageserver admin API",
        description = "Health, metrics, tenants and branches of one pageserver."
    ),
    paths(
        health::livez,
        health::readyz,
        metrics::metrics,
        status::status,
        tenants::list,
        tenants::branches,
        tenants::branch,
        following::list,
        following::reload,
        branches::create,
        branches::delete,
        branches::rename,
        branches::protect,
        branches::unprotect,
        branches::reset,
        branches::restore,
        load_generator::tenants,
        load_generator::tenant,
        load_generator::timeline,
        load_generator::keyspace,
        load_generator::io_engine,
        load_generator::io_mode,
        document,
    )
)]
struct Document;

/// One path and who answers it.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) handler: MethodRouter<Arc<AdminState>>,
}

/// Every route there is.
pub(super) fn routes() -> Vec<Route> {
    let route = |path, handler| Route { path, handler };
    vec![
        route("/livez", get(health::livez)),
        route("/readyz", get(health::readyz)),
        route("/metrics", get(metrics::metrics)),
        route("/openapi.json", get(document)),
        route("/v1/status", get(status::status)),
        route("/v1/tenants", get(tenants::list)),
        route(
            "/v1/tenants/{tenant}/branches",
            get(tenants::branches).post(branches::create),
        ),
        route(
            "/v1/tenants/{tenant}/branches/{branch}",
            get(tenants::branch).delete(branches::delete),
        ),
        route(
            "/v1/tenants/{tenant}/branches/{branch}/rename",
            post(branches::rename),
        ),
        route(
            "/v1/tenants/{tenant}/branches/{branch}/protect",
            post(branches::protect),
        ),
        route(
            "/v1/tenants/{tenant}/branches/{branch}/unprotect",
            post(branches::unprotect),
        ),
        route(
            "/v1/tenants/{tenant}/branches/{branch}/reset",
            post(branches::reset),
        ),
        route(
            "/v1/tenants/{tenant}/branches/{branch}/restore",
            post(branches::restore),
        ),
        route("/v1/following", get(following::list)),
        route("/v1/following/reload", post(following::reload)),
        route("/v1/tenant", get(load_generator::tenants)),
        route("/v1/tenant/{tenant}", get(load_generator::tenant)),
        route(
            "/v1/tenant/{tenant}/timeline/{timeline}",
            get(load_generator::timeline),
        ),
        route(
            "/v1/tenant/{tenant}/timeline/{timeline}/keyspace",
            get(load_generator::keyspace),
        ),
        route("/v1/io_engine", put(load_generator::io_engine)),
        route("/v1/io_mode", put(load_generator::io_mode)),
    ]
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, body = Object)))]
async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_documented_and_nothing_else() {
        let document = Document::openapi();
        let documented: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        let served: BTreeSet<&str> = routes().iter().map(|route| route.path).collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn every_operation_says_what_it_answers() {
        let document = serde_json::to_value(Document::openapi()).expect("JSON");
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                assert!(operation["responses"]["200"].is_object(), "{method} {path}");
                let summary = operation["summary"].as_str().unwrap_or_default();
                assert!(!summary.is_empty(), "{method} {path} has no summary");
            }
        }
    }
}
