//! The baseline of a miss: the store's own ranged read of one extent, one after the other, whole body, same delays.

use std::time::Duration;

use engine::io::tokio_clock::TokioClock;
use engine::store::faulty::{FaultPlan, Faulty};
use engine::store::objects::Objects;
use futures_util::StreamExt;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::access::below;
use crate::clock::{as_ns, now_ns, origin};
use crate::counters::Used;
use crate::dataset::{Dataset, Place};
use crate::error::{BenchError, Doing, Result};
use crate::latency::Latencies;
use crate::rounds::Measured;

const EXTENT_BYTES: u64 = 256 << 10;

/// Reads random extents of the data set's layers for `measure`.
///
/// # Errors
/// There are no layers, and what the store says.
pub(crate) fn run(
    place: &Place,
    dataset: Dataset,
    (first_byte, bytes_per_second): (Duration, u64),
    measure: Duration,
    seed: u64,
) -> Result<Measured> {
    let failed = |e: engine::store::objects::StoreError| BenchError::Unfit(format!("store: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "start a runtime")?;
    let objects = place.store_url()?.connect().map_err(failed)?;
    runtime.block_on(async {
        let plan = FaultPlan::distant(first_byte, Some(bytes_per_second));
        let objects = Faulty::new(objects, TokioClock::since(origin()), plan, seed);
        let prefix = format!(
            "tenants/{}/branches/{}/layers/",
            dataset.tenant, dataset.branch
        );
        let mut layers = objects.list(&prefix, None).await.map_err(failed)?;
        layers.retain(|layer| layer.size_bytes >= 2 * EXTENT_BYTES);
        if layers.is_empty() {
            return Err(BenchError::Unfit(format!("no layer below {prefix}")));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut latencies = Latencies::new();
        let start_ns = now_ns();
        let mut now = start_ns;
        while now < start_ns + as_ns(measure) {
            let pick = usize::try_from(below(&mut rng, layers.len() as u64)).expect("an index");
            let layer = &layers[pick];
            let at = below(&mut rng, layer.size_bytes / EXTENT_BYTES) * EXTENT_BYTES;
            let mut body = objects
                .get(&layer.path, at..at + EXTENT_BYTES)
                .await
                .map_err(failed)?;
            while let Some(bytes) = body.next().await {
                bytes.map_err(failed)?;
            }
            let end = now_ns();
            latencies.record(end - now);
            now = end;
        }
        Ok(Measured {
            ops: latencies.count(),
            elapsed: Duration::from_nanos(now - start_ns),
            latencies,
            used: Used::default(),
            errors: 0,
        })
    })
}
