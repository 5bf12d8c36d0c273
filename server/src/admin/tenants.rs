//! Tenants and branches: ours, with names.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::AdminState;
use super::errors::{ApiError, ErrorBody};
use crate::catalog;

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TenantView {
    /// 32 hex digits.
    id: String,
    /// Its name.
    name: String,
}

/// A branch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BranchView {
    /// 32 hex digits.
    id: String,
    /// The name that means it now; null for one that only its children keep.
    name: Option<String>,
    /// The branch that it continues, 32 hex digits.
    parent_id: Option<String>,
    /// Where it left that.
    left_at: Option<String>,
    /// Whether it is protected from being deleted and reset.
    protected: bool,
    /// Last LSN that can be read.
    last_lsn: String,
    /// Bytes of its own layers in the object store.
    layer_bytes: u64,
    /// Bytes of all layers of the branches that it continues.
    shared_bytes: u64,
}

/// A branch with what it holds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BranchDetail {
    /// Of the tenant, 32 hex digits.
    tenant_id: String,
    /// 32 hex digits.
    id: String,
    /// First LSN that can be read.
    readable_from: String,
    /// Last LSN that can be read.
    last_lsn: String,
}

/// All tenants.
#[utoipa::path(get, path = "/v1/tenants", tag = "data", responses((status = 200, body = [TenantView])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
) -> Result<Json<Vec<TenantView>>, ApiError> {
    let tenants = state.server.catalog.tenants().await?;
    let views = tenants.into_iter().map(|tenant| TenantView {
        id: tenant.id().to_string(),
        name: tenant.name().to_owned(),
    });
    Ok(Json(views.collect()))
}

/// All branches of a tenant, by its name or id.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/branches", tag = "data",
    params(("tenant" = String, Path, description = "name or id")),
    responses((status = 200, body = [BranchView]), (status = 404, body = ErrorBody)))]
pub(super) async fn branches(
    State(state): State<Arc<AdminState>>,
    Path(tenant): Path<String>,
) -> Result<Json<Vec<BranchView>>, ApiError> {
    let tenant = state.server.catalog.find_tenant(&tenant).await?;
    let branches = state.server.catalog.branches(&tenant).await?;
    let views = branches.into_iter().map(|branch| BranchView {
        id: branch.id.to_string(),
        name: branch.name,
        parent_id: branch.parent.map(|(parent, _)| parent.to_string()),
        left_at: branch.parent.map(|(_, left_at)| left_at.to_string()),
        protected: branch.is_protected,
        last_lsn: branch.last_lsn.to_string(),
        layer_bytes: branch.layer_bytes,
        shared_bytes: branch.shared_bytes,
    });
    Ok(Json(views.collect()))
}

/// One branch, by names or ids.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/branches/{branch}", tag = "data",
    params(("tenant" = String, Path, description = "name or id"), ("branch" = String, Path, description = "name or id")),
    responses((status = 200, body = BranchDetail), (status = 404, body = ErrorBody)))]
pub(super) async fn branch(
    State(state): State<Arc<AdminState>>,
    Path((tenant, branch)): Path<(String, String)>,
) -> Result<Json<BranchDetail>, ApiError> {
    let (tenant, branch) = catalog::find(&state.server.catalog, &tenant, &branch).await?;
    let span = state
        .server
        .branch_span(tenant, branch)
        .await
        .ok_or_else(ApiError::stopping)??;
    Ok(Json(BranchDetail {
        tenant_id: tenant.to_string(),
        id: branch.to_string(),
        readable_from: span.readable_from.to_string(),
        last_lsn: span.last_lsn.to_string(),
    }))
}
