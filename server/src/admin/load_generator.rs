//! The calls that load generators of other pageservers make before they ask for pages. The shapes are theirs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::AdminState;
use super::errors::{ApiError, ErrorBody};
use crate::catalog;
use crate::relations::ForkSize;

/// Which keys of a branch exist.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Keyspace {
    /// Ranges of keys, 36 hex digits each, the end not included: every block of every relation and nothing else.
    keys: Vec<[String; 2]>,
    /// Always empty: relations are never sparse.
    sparse_keys: Vec<[String; 2]>,
    /// Where this is so.
    at_lsn: String,
}

/// All tenants.
#[utoipa::path(get, path = "/v1/tenant", tag = "load generators", responses((status = 200, body = Vec<Object>)))]
pub(super) async fn tenants(State(state): State<Arc<AdminState>>) -> Result<Json<Value>, ApiError> {
    let tenants = state.server.catalog.tenants().await?;
    let views = tenants
        .iter()
        .map(|tenant| tenant_view(&tenant.id().to_string()));
    Ok(Json(views.collect()))
}

/// One tenant and its branches.
#[utoipa::path(get, path = "/v1/tenant/{tenant}", tag = "load generators",
    params(("tenant" = String, Path, description = "id or name")),
    responses((status = 200, body = Object), (status = 404, body = ErrorBody)))]
pub(super) async fn tenant(
    State(state): State<Arc<AdminState>>,
    Path(tenant): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let tenant = state.server.catalog.find_tenant(&tenant).await?;
    let branches = state.server.catalog.branches(&tenant).await?;
    let timelines: Vec<String> = branches
        .iter()
        .filter(|branch| branch.name.is_some())
        .map(|branch| branch.id.to_string())
        .collect();
    let mut view = tenant_view(&tenant.id().to_string());
    view["walredo"] = json!({ "last_redo_at": null, "process": null });
    view["timelines"] = timelines.into();
    Ok(Json(view))
}

fn tenant_view(id: &str) -> Value {
    json!({
        "id": id,
        "state": { "slug": "Active" },
        "current_physical_size": null,
        "attachment_status": { "slug": "attached" },
        "generation": 1,
    })
}

/// One branch.
#[utoipa::path(get, path = "/v1/tenant/{tenant}/timeline/{timeline}", tag = "load generators",
    params(("tenant" = String, Path, description = "id or name"), ("timeline" = String, Path, description = "id or name")),
    responses((status = 200, body = Object), (status = 404, body = ErrorBody)))]
pub(super) async fn timeline(
    State(state): State<Arc<AdminState>>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let (tenant, branch) = catalog::find(&state.server.catalog, &tenant, &timeline).await?;
    let span = state
        .server
        .branch_span(tenant, branch)
        .await
        .ok_or_else(ApiError::stopping)??;
    let (forks, _) = state
        .server
        .relations(tenant, branch)
        .await
        .ok_or_else(ApiError::stopping)??;
    let blocks: u64 = forks.iter().map(|fork| u64::from(fork.blocks)).sum();
    let major = state
        .server
        .postgres_major(tenant, branch)
        .await
        .ok_or_else(ApiError::stopping)??;
    let last = span.last_lsn.to_string();
    Ok(Json(json!({
        "tenant_id": tenant.to_string(),
        "timeline_id": branch.to_string(),
        "last_record_lsn": last,
        "disk_consistent_lsn": last,
        "remote_consistent_lsn": last,
        "remote_consistent_lsn_visible": last,
        "initdb_lsn": span.readable_from.to_string(),
        "current_logical_size": blocks * 8192,
        "current_logical_size_is_accurate": true,
        "directory_entries_counts": {},
        "pitr_history_size": 0,
        "within_ancestor_pitr": false,
        "pg_version": major,
        "state": "Active",
        "walreceiver_status": "",
    })))
}

/// Which keys a branch has.
#[utoipa::path(get, path = "/v1/tenant/{tenant}/timeline/{timeline}/keyspace", tag = "load generators",
    params(("tenant" = String, Path, description = "id or name"), ("timeline" = String, Path, description = "id or name")),
    responses((status = 200, body = Keyspace), (status = 404, body = ErrorBody)))]
pub(super) async fn keyspace(
    State(state): State<Arc<AdminState>>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Result<Json<Keyspace>, ApiError> {
    let (tenant, branch) = catalog::find(&state.server.catalog, &tenant, &timeline).await?;
    let (forks, at) = state
        .server
        .relations(tenant, branch)
        .await
        .ok_or_else(ApiError::stopping)??;
    let filled = forks.iter().filter(|fork| fork.blocks > 0);
    Ok(Json(Keyspace {
        keys: filled
            .map(|fork| [key(fork, 0), key(fork, fork.blocks)])
            .collect(),
        sparse_keys: Vec::new(),
        at_lsn: at.to_string(),
    }))
}

fn key(fork: &ForkSize, block: u32) -> String {
    format!(
        "00{:08X}{:08X}{:08X}{:02X}{block:08X}",
        fork.relation.tablespace,
        fork.relation.database,
        fork.relation.number,
        fork.fork.number(),
    )
}

/// Accepted and ignored: there is one way to do IO.
#[utoipa::path(put, path = "/v1/io_engine", tag = "load generators", request_body = String,
    responses((status = 200, description = "null")))]
pub(super) async fn io_engine(_engine: Json<String>) -> Json<()> {
    Json(())
}

/// Accepted and ignored: IO is direct.
#[utoipa::path(put, path = "/v1/io_mode", tag = "load generators", request_body = String,
    responses((status = 200, description = "null")))]
pub(super) async fn io_mode(_mode: Json<String>) -> Json<()> {
    Json(())
}

#[cfg(test)]
mod tests {
    use postgres::key::{Fork, Relation};

    use super::*;

    #[test]
    fn keys_are_eighteen_bytes_in_upper_case() {
        let fork = ForkSize {
            relation: Relation {
                tablespace: 1663,
                database: 5,
                number: 0xabcd,
            },
            fork: Fork::VisibilityMap,
            blocks: 9,
        };
        assert_eq!(key(&fork, 9), "000000067F000000050000ABCD0200000009");
    }
}
