//! `/v1/status`: how the server is, in one JSON object for people and scripts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::AdminState;

/// How the server is.
#[utoipa::path(get, path = "/v1/status", tag = "health", responses((status = 200, body = Object)))]
pub(super) async fn status(State(state): State<Arc<AdminState>>) -> Json<Value> {
    let server = &state.server;
    let stats = server.engine.stats().await;
    let mut pages = Map::new();
    for core in server.pages.counters() {
        for (name, _, value) in core.named() {
            let sum = pages.get(name).and_then(Value::as_u64).unwrap_or_default() + value;
            pages.insert(name.to_owned(), sum.into());
        }
    }
    let counters: Map<String, Value> = stats
        .counts
        .named()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let store: Map<String, Value> = stats
        .store
        .counters
        .named()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": if server.pages.stopping() { "stopping" } else { "serving" },
        "uptime_s": server.uptime().as_secs(),
        "pages_address": server.pages_address.to_string(),
        "data_dir": server.data_dir.display().to_string(),
        "store": server.store_url,
        "cores": server.engine.cores(),
        "cache_bytes_max": server.cache_bytes_max,
        "follow": server.followers.to_json(),
        "pages": pages,
        "engine": counters,
        "latency": {
            "ram": percentiles(&stats.latency.ram),
            "cache": percentiles(&stats.latency.cache),
            "store": percentiles(&stats.latency.store),
        },
        "store_threads": store,
    }))
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    let us = |quantile: f64| histogram.value_at_quantile(quantile) / 1000;
    json!({
        "reads": histogram.len(),
        "us_p50": us(0.5),
        "us_p99": us(0.99),
        "us_p99_9": us(0.999),
        "us_max": histogram.max() / 1000,
    })
}
