//! Branches made and changed: what `pageserver branch` does, by a server that knows the parents already.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use engine::catalog::Tenant;
use engine::types::{BranchId, Lsn};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AdminState;
use super::errors::{ApiError, ErrorBody};
use crate::address::{Point, PointParseError};
use crate::branch_maker::NewBranch;

/// A branch to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRequest {
    /// What it is to be called.
    name: String,
    /// The branch that it continues, by name or id.
    parent: String,
    /// From when on: an LSN like `0/16B3748`, a time like `2026-11-27T20:15:00Z`, or how long ago, like `-10m`; from the last LSN
    /// that this server knows of the parent, if not given.
    at: Option<String>,
}

/// Where a branch begins anew.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResetRequest {
    /// LSN of its parent; the last one if not given.
    to: Option<String>,
}

/// Which state of a branch is wanted back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreRequest {
    /// LSN of the branch, a time, or how long ago.
    to: String,
    /// What the branch as it is now is to be called; a name that says before what it was, if not given.
    keep_as: Option<String>,
}

/// Another name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenameRequest {
    /// The new one.
    name: String,
}

/// A branch that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedView {
    /// Of the tenant, 32 hex digits.
    tenant_id: String,
    /// 32 hex digits.
    id: String,
    /// The name that means it.
    name: String,
    /// The branch that it continues, 32 hex digits.
    parent_id: String,
    /// From where on; its last LSN.
    left_at: String,
    /// First LSN that can be read.
    readable_from: String,
    /// What the name meant before, if it was moved.
    was: Option<String>,
    /// The name that means that now, if any does.
    kept_as: Option<String>,
}

/// A branch whose name was changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedView {
    /// Of the tenant, 32 hex digits.
    tenant_id: String,
    /// The branch, 32 hex digits.
    id: String,
}

/// Makes a branch of a branch: one put in the object store, nothing is copied.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/branches", tag = "branches", request_body = CreateRequest,
    params(("tenant" = String, Path, description = "name or id")),
    responses((status = 200, body = CreatedView), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the name is taken, or the LSN is outside the parent's")))]
pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    Path(tenant): Path<String>,
    body: Bytes,
) -> Result<Json<CreatedView>, ApiError> {
    let request: CreateRequest = parse(&body)?;
    let wanted = NewBranch {
        tenant: &tenant,
        name: &request.name,
        parent: &request.parent,
        at: request.at.as_deref().map(point).transpose()?,
    };
    let server = Arc::clone(&state.server);
    let (tenant, child) = server.branches.make(&server, wanted).await?;
    let id = (tenant.id(), child.id);
    // Nobody waits for it: whoever reads a first page finds the branch open, or opens it.
    tokio::spawn(async move { server.manifest(id.0, id.1).await });
    Ok(Json(CreatedView {
        tenant_id: tenant.id().to_string(),
        id: child.id.to_string(),
        name: request.name,
        parent_id: child.parent.to_string(),
        left_at: child.left_at.to_string(),
        readable_from: child.readable_from.to_string(),
        was: None,
        kept_as: None,
    }))
}

/// Takes a branch's name away; its objects stay until garbage is collected.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/branches/{branch}", tag = "branches",
    params(("tenant" = String, Path, description = "name or id"), ("branch" = String, Path, description = "name or id")),
    responses((status = 200, body = ChangedView), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "it has children, or is protected")))]
pub(super) async fn delete(
    State(state): State<Arc<AdminState>>,
    Path((tenant, branch)): Path<(String, String)>,
) -> Result<Json<ChangedView>, ApiError> {
    let tenant = tenant_to_change(&state, &tenant).await?;
    let id = state.server.catalog.delete(&tenant, &branch).await?;
    Ok(changed(&tenant, id))
}

/// Gives a branch another name.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/branches/{branch}/rename", tag = "branches", request_body = RenameRequest,
    params(("tenant" = String, Path, description = "name or id"), ("branch" = String, Path, description = "name or id")),
    responses((status = 200, body = ChangedView), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the name is taken")))]
pub(super) async fn rename(
    State(state): State<Arc<AdminState>>,
    Path((tenant, branch)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<ChangedView>, ApiError> {
    let request: RenameRequest = parse(&body)?;
    let tenant = tenant_to_change(&state, &tenant).await?;
    let catalog = &state.server.catalog;
    let id = catalog.rename(&tenant, &branch, &request.name).await?;
    Ok(changed(&tenant, id))
}

/// Protects a branch from being deleted and reset.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/branches/{branch}/protect", tag = "branches",
    params(("tenant" = String, Path, description = "name or id"), ("branch" = String, Path, description = "name or id")),
    responses((status = 200, body = ChangedView), (status = 404, body = ErrorBody)))]
pub(super) async fn protect(
    State(state): State<Arc<AdminState>>,
    Path((tenant, branch)): Path<(String, String)>,
) -> Result<Json<ChangedView>, ApiError> {
    set_protection(&state, &tenant, &branch, true).await
}

/// Protects a branch no longer.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/branches/{branch}/unprotect", tag = "branches",
    params(("tenant" = String, Path, description = "name or id"), ("branch" = String, Path, description = "name or id")),
    responses((status = 200, body = ChangedView), (status = 404, body = ErrorBody)))]
pub(super) async fn unprotect(
    State(state): State<Arc<AdminState>>,
    Path((tenant, branch)): Path<(String, String)>,
) -> Result<Json<ChangedView>, ApiError> {
    set_protection(&state, &tenant, &branch, false).await
}

/// Lets a branch begin anew at its parent; what was written to it can no longer be found by a name.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/branches/{branch}/reset", tag = "branches", request_body = ResetRequest,
    params(("tenant" = String, Path, description = "name or id"), ("branch" = String, Path, description = "name or id")),
    responses((status = 200, body = CreatedView), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "it is protected or has no parent, or the LSN is outside that")))]
pub(super) async fn reset(
    State(state): State<Arc<AdminState>>,
    Path((tenant, branch)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<CreatedView>, ApiError> {
    let request: ResetRequest = if body.is_empty() {
        ResetRequest::default()
    } else {
        parse(&body)?
    };
    let to = request.to.as_deref().map(lsn).transpose()?;
    let tenant = tenant_to_change(&state, &tenant).await?;
    let reset = state.server.catalog.reset(&tenant, &branch, to).await?;
    Ok(Json(CreatedView {
        tenant_id: tenant.id().to_string(),
        id: reset.child.id.to_string(),
        name: reset.name,
        parent_id: reset.child.parent.to_string(),
        left_at: reset.child.left_at.to_string(),
        readable_from: reset.child.readable_from.to_string(),
        was: Some(reset.was.to_string()),
        kept_as: None,
    }))
}

/// Brings an earlier state of a branch back under its name; what it is now is kept under another.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/branches/{branch}/restore", tag = "branches",
    request_body = RestoreRequest,
    params(("tenant" = String, Path, description = "name or id"), ("branch" = String, Path, description = "name or id")),
    responses((status = 200, body = CreatedView), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the LSN is outside the branch's, or the name to keep it as is taken")))]
pub(super) async fn restore(
    State(state): State<Arc<AdminState>>,
    Path((tenant, branch)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<CreatedView>, ApiError> {
    let request: RestoreRequest = parse(&body)?;
    let to = point(&request.to)?;
    let tenant = tenant_to_change(&state, &tenant).await?;
    let catalog = &state.server.catalog;
    let to = match to {
        Point::Lsn(lsn) => lsn,
        Point::Time(_) | Point::Ago(_) => {
            let found = catalog.find(&tenant, &branch).await?;
            let found = state.server.lsn_of(tenant.id(), found.id(), to).await;
            found.ok_or_else(ApiError::stopping)??
        }
    };
    let keep_as = request.keep_as.as_deref();
    let restored = catalog.restore(&tenant, &branch, to, keep_as).await?;
    Ok(Json(CreatedView {
        tenant_id: tenant.id().to_string(),
        id: restored.child.id.to_string(),
        name: restored.name,
        parent_id: restored.child.parent.to_string(),
        left_at: restored.child.left_at.to_string(),
        readable_from: restored.child.readable_from.to_string(),
        was: Some(restored.child.parent.to_string()),
        kept_as: Some(restored.kept_as),
    }))
}

async fn set_protection(
    state: &AdminState,
    tenant: &str,
    branch: &str,
    is_protected: bool,
) -> Result<Json<ChangedView>, ApiError> {
    let tenant = tenant_to_change(state, tenant).await?;
    let catalog = &state.server.catalog;
    let id = catalog.protect(&tenant, branch, is_protected).await?;
    Ok(changed(&tenant, id))
}

/// A tenant in which names are going to be written.
async fn tenant_to_change(state: &AdminState, tenant: &str) -> Result<Arc<Tenant>, ApiError> {
    state.server.branches.probe().await?;
    Ok(state.server.catalog.find_tenant(tenant).await?)
}

fn changed(tenant: &Tenant, id: BranchId) -> Json<ChangedView> {
    Json(ChangedView {
        tenant_id: tenant.id().to_string(),
        id: id.to_string(),
    })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|e| ApiError::bad_request(format!("request body: {e}")))
}

fn point(text: &str) -> Result<Point, ApiError> {
    text.parse()
        .map_err(|e: PointParseError| ApiError::bad_request(e.to_string()))
}

fn lsn(text: &str) -> Result<Lsn, ApiError> {
    text.parse()
        .map_err(|e: engine::types::LsnParseError| ApiError::bad_request(e.to_string()))
}
