//! How long requests take, for `/metrics`: like the counters, one set per core with one writer, read by anybody. A
//! scrape makes an HDR histogram of it; recording is two loads and two stores.

use hdrhistogram::Histogram;

use super::codec::Ask;
use super::counters::Counter;

/// Latencies by kind of request, of one core, in nanoseconds from taking a request off the socket to having its answer
/// written into what is sent next.
#[derive(Debug, Default)]
pub struct RequestLatency {
    kinds: [Buckets; KINDS.len()],
}

/// What the kinds are called in metrics.
const KINDS: [&str; 5] = ["get_page", "exists", "nblocks", "db_size", "slru_segment"];

impl RequestLatency {
    /// Counts one request. The core that owns this only.
    pub(super) fn record(&self, ask: Ask, nanos: u64) {
        let kind = match ask {
            Ask::GetPage(..) => 0,
            Ask::Exists(_) => 1,
            Ask::Nblocks(_) => 2,
            Ask::DbSize { .. } => 3,
            Ask::GetSlruSegment { .. } => 4,
        };
        self.kinds[kind].0[bucket_of(nanos)].add(1);
    }

    /// Name and histogram of each kind, of all `cores` together.
    pub fn merged<'a>(
        cores: impl Iterator<Item = &'a RequestLatency> + Clone,
    ) -> [(&'static str, Histogram<u64>); KINDS.len()] {
        std::array::from_fn(|kind| {
            let mut histogram = Histogram::new_with_bounds(1, upper_bound(BUCKETS - 1), 2)
                .expect("the bounds are in order");
            for core in cores.clone() {
                for (bucket, count) in core.kinds[kind].0.iter().enumerate() {
                    // Recording nothing would still move the histogram's minimum.
                    if count.get() > 0 {
                        histogram.saturating_record_n(upper_bound(bucket), count.get());
                    }
                }
            }
            (KINDS[kind], histogram)
        })
    }
}

/// Counts of values below 1,024 ns, then sixteen buckets per power of two: an upper bound is off by 6 % at most.
#[derive(Debug)]
struct Buckets(Box<[Counter]>);

impl Default for Buckets {
    fn default() -> Self {
        Buckets((0..BUCKETS).map(|_| Counter::default()).collect())
    }
}

/// The bucket of a value; the last one has all that is longer.
fn bucket_of(nanos: u64) -> usize {
    let Some(power) = nanos.checked_ilog2().filter(|power| *power >= FIRST_POWER) else {
        return 0;
    };
    let within = (nanos >> (power - STEP_BITS)) & (STEPS - 1);
    let bucket = 1 + u64::from(power - FIRST_POWER) * STEPS + within;
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

/// The largest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(1) else {
        return (1 << FIRST_POWER) - 1;
    };
    let above = u64::try_from(above).expect("a few hundred");
    let (power, within) = (above / STEPS, above % STEPS);
    ((STEPS + within + 1) << (power + u64::from(FIRST_POWER - STEP_BITS))) - 1
}

const FIRST_POWER: u32 = 10;
const STEP_BITS: u32 = 4;
const STEPS: u64 = 1 << STEP_BITS;
/// Up to 2^36 ns, about a minute: 26 powers of two.
const BUCKETS: usize = 1 + 26 * 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_its_bucket_and_buckets_are_narrow() {
        let mut values: Vec<u64> = (0..36)
            .flat_map(|power| [1_u64 << power, (1 << power) + 1, (1 << power) * 7 / 4])
            .collect();
        values.extend([0, 1023, 1024, 1087, 1088]);
        for value in values {
            let bucket = bucket_of(value);
            let upper = upper_bound(bucket);
            assert!(value <= upper, "{value} in a bucket up to {upper}");
            if let Some(below) = bucket.checked_sub(1) {
                assert!(upper_bound(below) < value, "{value} belongs below");
                assert!(upper - value <= value / 16, "{value} is taken for {upper}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn kinds_are_kept_apart_and_cores_added_up() {
        let cores = [RequestLatency::default(), RequestLatency::default()];
        let ask = Ask::DbSize { database: 1 };
        cores[0].record(ask, 50_000);
        cores[1].record(ask, 3_000_000);
        let merged = RequestLatency::merged(cores.iter());
        for (kind, histogram) in merged {
            let expected = if kind == "db_size" { 2 } else { 0 };
            assert_eq!(histogram.len(), expected, "{kind}");
            if expected == 2 {
                assert!((50_000..54_000).contains(&histogram.min()));
                assert!((3_000_000..3_300_000).contains(&histogram.max()));
            }
        }
    }
}
