//! Branches that follow a primary, as the admin API tells of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::AdminState;
use super::errors::ApiError;
use super::exposition::Exposition;
use crate::follow::status::{FollowSnapshot, Phase};

/// Branches that follow a primary, and how they are.
#[utoipa::path(get, path = "/v1/following", tag = "branches", responses((status = 200, body = Object)))]
pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Json<Value> {
    Json(state.server.followers.to_json())
}

/// Looks again which branches follow a primary: `attach` and `detach` have changed what is written down.
#[utoipa::path(post, path = "/v1/following/reload", tag = "branches", responses((status = 200, body = Object)))]
pub(super) async fn reload(State(state): State<Arc<AdminState>>) -> Result<Json<Value>, ApiError> {
    let followers = Arc::clone(&state.server.followers);
    // Those that stop are waited for.
    let reloaded = tokio::task::spawn_blocking(move || followers.reload()).await;
    match reloaded {
        Ok(Ok(running)) => Ok(Json(json!({ "following": running }))),
        Ok(Err(error)) => Err(ApiError::unavailable(error.to_string())),
        Err(error) => Err(ApiError::unavailable(error.to_string())),
    }
}

/// What is counted of each.
pub(super) fn put_followers(page: &mut Exposition, state: &AdminState) {
    let followers = state.server.followers.snapshots();
    let gauges: [Figure; 10] = [
        ("streaming", "Whether WAL is received.", |s| {
            f64::from(u8::from(s.phase == Phase::Streaming))
        }),
        (
            "lag_bytes",
            "WAL of the primary that can't be read here yet.",
            |s| as_f64(s.lag_bytes()),
        ),
        (
            "lag_seconds",
            "How long ago what was taken in last had been sent, if there is more to come.",
            |s| s.progress.lag.as_secs_f64(),
        ),
        ("slot_bytes", "WAL that the primary keeps for us.", |s| {
            as_f64(s.slot_bytes())
        }),
        ("wal_bytes", "Local WAL.", |s| as_f64(s.progress.wal_bytes)),
        ("wal_free_bytes", "What local WAL may still take.", |s| {
            as_f64(s.progress.wal_bytes_free)
        }),
        (
            "wal_seconds_until_full",
            "Until local WAL is full at the present rate; -1 without one.",
            |s| s.seconds_until_full().map_or(-1.0, as_f64),
        ),
        ("memory_bytes", "Versions in memory and in no layer.", |s| {
            as_f64(s.progress.memory_bytes)
        }),
        (
            "unacknowledged_bytes",
            "WAL that was received and is not acknowledged: commits may wait for it.",
            |s| {
                let progress = &s.progress;
                let waiting = progress.received.bytes_since(progress.acknowledged);
                as_f64(waiting.unwrap_or(0))
            },
        ),
        (
            "unflushed_bytes",
            "WAL whose versions are in no layer.",
            |s| {
                let progress = &s.progress;
                as_f64(progress.readable.bytes_since(progress.flushed).unwrap_or(0))
            },
        ),
    ];
    let counters: [Figure; 9] = [
        ("received_bytes", "WAL received.", |s| {
            as_f64(s.progress.received_bytes)
        }),
        ("records", "Records taken in.", |s| {
            as_f64(s.progress.records)
        }),
        ("flushes", "Flushes of memory layers.", |s| {
            as_f64(s.progress.flushes)
        }),
        ("layer_bytes", "Layers written.", |s| {
            as_f64(s.progress.layer_bytes)
        }),
        ("compactions", "Compactions of layers.", |s| {
            as_f64(s.progress.compactions)
        }),
        ("merged_bytes", "Layers that compactions merged.", |s| {
            as_f64(s.progress.merged_bytes)
        }),
        ("compacted_bytes", "Layers that came of compactions.", |s| {
            as_f64(s.progress.compacted_bytes)
        }),
        (
            "dropped_versions",
            "Versions of given up history that compactions left out.",
            |s| as_f64(s.progress.dropped_versions),
        ),
        ("connections", "Connections made.", |s| {
            as_f64(s.connections)
        }),
    ];
    for (kind, suffix, figures) in [("gauge", "", &gauges[..]), ("counter", "_total", &counters)] {
        for (name, help, of) in figures {
            let name = format!("pageserver_follow_{name}{suffix}");
            page.family(&name, kind, help);
            for (attachment, snapshot) in &followers {
                page.sample(&name, &[("branch", &attachment.name)], of(snapshot));
            }
        }
    }
}

/// Name, help, and where it is taken from.
type Figure = (&'static str, &'static str, fn(&FollowSnapshot) -> f64);

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people: exact up to petabytes"
)]
fn as_f64(value: u64) -> f64 {
    value as f64
}
