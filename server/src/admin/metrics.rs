//! `/metrics`: everything the server counts, for Prometheus. docs/OPERATIONS.md lists the families.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use engine::EngineStats;
use engine::cache::CacheStats;
use engine::store::stats::{Outcome, RequestKind};
use hdrhistogram::Histogram;

use super::exposition::Exposition;
use super::{AdminState, following};
use crate::pagestream::counters;
use crate::pagestream::latency::RequestLatency;

/// All metrics, in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(state): State<Arc<AdminState>>) -> impl IntoResponse {
    let stats = state.server.engine.stats().await;
    let mut page = Exposition::default();
    page.family("pageserver_info", "gauge", "Version of the server.");
    page.sample(
        "pageserver_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    put_engine(&mut page, &stats);
    put_caches(&mut page, &stats);
    put_store(&mut page, &stats);
    put_frontend(&mut page, &state);
    following::put_followers(&mut page, &state);
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, page.finish())
}

fn put_engine(page: &mut Exposition, stats: &EngineStats) {
    let counts = &stats.counts;
    page.family(
        "pageserver_reads_total",
        "counter",
        "Reads by the tier that answered.",
    );
    for (tier, value) in [
        ("ram", counts.reads_ram),
        ("cache", counts.reads_cache),
        ("cache_after_load", counts.reads_cache_after_load),
        ("store", counts.reads_store),
        ("not_found", counts.reads_not_found),
        ("failed", counts.reads_failed),
    ] {
        page.sample("pageserver_reads_total", &[("tier", tier)], value);
    }
    let name = "pageserver_read_seconds";
    page.family(
        name,
        "histogram",
        "From a read's push to its answer, by the tier that answered.",
    );
    for (tier, histogram) in [
        ("ram", &stats.latency.ram),
        ("cache", &stats.latency.cache),
        ("store", &stats.latency.store),
    ] {
        page.histogram(name, &[("tier", tier)], histogram, NANOSECOND);
    }
    let name = "pageserver_stage_seconds";
    page.family(
        name,
        "histogram",
        "One stage of a read: the device, opening the block.",
    );
    for (stage, histogram) in [
        ("device", &stats.latency.device),
        ("open", &stats.latency.open),
    ] {
        page.histogram(name, &[("stage", stage)], histogram, NANOSECOND);
    }
    for (counter, value) in counts.named() {
        if counter.starts_with("reads_") && !BESIDE_TIERS.contains(&counter) {
            continue;
        }
        let name = format!("pageserver_engine_{counter}");
        if GAUGES.contains(&counter) {
            page.gauge(&name, "See docs/OPERATIONS.md.", value);
        } else {
            page.counter(&format!("{name}_total"), "See docs/OPERATIONS.md.", value);
        }
    }
}

fn put_caches(page: &mut Exposition, stats: &EngineStats) {
    type Value = fn(&CacheStats) -> u64;
    let families: [(&str, &str, &str, Value); 7] = [
        ("hits_total", "counter", "Extents found.", |c| c.hits),
        ("misses_total", "counter", "Extents not found.", |c| {
            c.misses
        }),
        (
            "evictions_total",
            "counter",
            "Extents that made room for others.",
            |c| c.evictions,
        ),
        (
            "doubtful_total",
            "counter",
            "Extents dropped because they did not open.",
            |c| c.doubtful,
        ),
        (
            "index_errors_total",
            "counter",
            "Writes of the cache's index that failed.",
            |c| c.index_errors,
        ),
        ("slots", "gauge", "Slots of the core.", |c| c.slots.into()),
        ("slots_used", "gauge", "Slots that are in use.", |c| {
            c.slots_used.into()
        }),
    ];
    for (name, kind, help, value) in families {
        let name = format!("pageserver_cache_{name}");
        page.family(&name, kind, help);
        for (core, cache) in &stats.core_caches {
            page.sample(&name, &[("core", &core.to_string())], value(cache));
        }
    }
}

fn put_store(page: &mut Exposition, stats: &EngineStats) {
    let store = &stats.store;
    let name = "pageserver_store_requests_total";
    page.family(
        name,
        "counter",
        "Requests to the object store, by kind and status.",
    );
    for kind in RequestKind::ALL {
        for outcome in Outcome::ALL {
            let labels = [("kind", kind.label()), ("status", outcome.label())];
            page.sample(name, &labels, store.requests_of(kind, outcome));
        }
    }
    for (counter, value) in store.counters.named() {
        page.counter(
            &format!("pageserver_store_{counter}_total"),
            "See docs/OPERATIONS.md.",
            value,
        );
    }
    page.gauge(
        "pageserver_store_in_flight",
        "Store operations being served.",
        store.in_flight,
    );
    let depth = u64::try_from(store.queue_depth).unwrap_or(u64::MAX);
    page.gauge(
        "pageserver_store_queue_depth",
        "Store operations waiting.",
        depth,
    );
    let histograms: [(&str, &Histogram<u64>); 3] = [
        ("first_byte", &store.first_byte_us),
        ("read", &store.read_us),
        ("put", &store.put_us),
    ];
    let name = "pageserver_store_seconds";
    page.family(name, "histogram", "Latency of the object store, by stage.");
    for (stage, histogram) in histograms {
        page.histogram(name, &[("stage", stage)], histogram, MICROSECOND);
    }
}

fn put_frontend(page: &mut Exposition, state: &AdminState) {
    let cores: Vec<_> = state
        .server
        .pages
        .counters()
        .map(|core| core.named())
        .collect();
    let Some(first) = cores.first() else { return };
    for (index, (counter, help, _)) in first.iter().enumerate() {
        let gauge = counters::GAUGES.contains(counter);
        let name = if gauge {
            format!("pageserver_pages_{counter}")
        } else {
            format!("pageserver_pages_{counter}_total")
        };
        page.family(&name, if gauge { "gauge" } else { "counter" }, help);
        for (number, core) in cores.iter().enumerate() {
            page.sample(&name, &[("core", &number.to_string())], core[index].2);
        }
    }
    let name = "pageserver_pages_request_seconds";
    page.family(
        name,
        "histogram",
        "From taking a request off its connection to having its answer ready to be sent.",
    );
    for (kind, histogram) in RequestLatency::merged(state.server.pages.latencies()) {
        page.histogram(name, &[("kind", kind)], &histogram, NANOSECOND);
    }
}

/// Counters of reads that are no tier's share of them.
const BESIDE_TIERS: [&str; 2] = ["reads_cross_core", "reads_replayed"];
/// Those of the engine's counters that go down, too.
const GAUGES: [&str; 3] = ["queue_depth", "waiting_for_store", "index_bytes"];
const NANOSECOND: f64 = 1e-9;
const MICROSECOND: f64 = 1e-6;
