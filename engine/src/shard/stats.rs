//! What a shard counts. Counters have one writer, their core: adding is a load and a store, no locked instruction,
//! and any thread may read them. Histograms stay on the core and are copied out by a message.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use crate::io::clock::Moment;

/// A counter written by one core and read by anyone.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owning core may call this.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Sets a gauge. Only the owning core may call this.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one core, or (merged) of all.
        #[derive(Default, Debug)]
        pub struct ShardCounters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// The values of [`ShardCounters`] at one moment.
        #[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
        pub struct ShardCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ShardCounters {
            /// All values now; each is exact, together they are not one instant.
            pub fn snapshot(&self) -> ShardCounts {
                ShardCounts { $($name: self.$name.get(),)* }
            }
        }

        impl ShardCounts {
            /// Adds another core's values.
            pub fn merge(&mut self, other: &ShardCounts) {
                $(self.$name += other.$name;)*
            }

            /// Each counter's name and value.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Reads answered from the RAM tier.
    reads_ram,
    /// Reads answered by one read of a cached extent (or two, where the directory had to be read).
    reads_cache,
    /// Reads answered from the cache after an index, or a list of sections, was loaded from the store: the first reads
    /// of each layer and partition after a start.
    reads_cache_after_load,
    /// Reads whose value came from the object store.
    reads_store,
    /// Reads answered with an error other than "not found".
    reads_failed,
    /// Reads that found no version.
    reads_not_found,
    /// Reads whose value was made of an image and deltas.
    reads_replayed,
    /// Deltas applied by them.
    deltas_replayed,
    /// Images made of values that were changed often.
    images_made,
    /// Requests that came from another core.
    reads_cross_core,
    /// Reads of the device for blocks.
    device_block_reads,
    /// Reads of the device for extent directories.
    device_directory_reads,
    /// Bytes read from the device.
    device_read_bytes,
    /// Extents asked of the store because a read waited for them.
    extents_demanded,
    /// Extents asked of the store ahead of a sequential reader.
    extents_ahead,
    /// Reads that joined a fetch under way.
    single_flight_joined,
    /// Extents written to the cache.
    fills,
    /// Extents that were fetched and not cached (no slot, or the write failed).
    fills_skipped,
    /// Blocks or directories from the cache that did not open: counted, dropped, fetched again.
    seal_failures_cache,
    /// Blocks, directories or indexes fresh from the store that did not open.
    seal_failures_store,
    /// Extents from the store whose checksum was wrong.
    checksum_failures,
    /// Reads of the device that failed.
    device_errors,
    /// Requests waiting for a reader, now.
    queue_depth,
    /// Reads waiting for the store, now.
    waiting_for_store,
    /// Bytes of layer indexes and section lists in memory, now.
    index_bytes,
}

/// Latency by the tier that answered, in nanoseconds from push to answer, and by stage.
#[derive(Clone)]
pub struct LatencyHistograms {
    /// Answered from RAM.
    pub ram: Histogram<u64>,
    /// Answered from the local cache alone.
    pub cache: Histogram<u64>,
    /// Answered after the object store was asked, for the value or for what leads to it.
    pub store: Histogram<u64>,
    /// The device read alone.
    pub device: Histogram<u64>,
    /// Opening the block alone.
    pub open: Histogram<u64>,
}

impl Default for LatencyHistograms {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).expect("the bounds are in order");
        LatencyHistograms {
            ram: histogram(),
            cache: histogram(),
            store: histogram(),
            device: histogram(),
            open: histogram(),
        }
    }
}

impl LatencyHistograms {
    /// Records the stages of a hit.
    pub(crate) fn record_hit(&mut self, started: Moment, opening: Moment, opened: Moment) {
        self.device
            .saturating_record(opening.0.saturating_sub(started.0));
        self.open
            .saturating_record(opened.0.saturating_sub(opening.0));
    }

    /// Adds another core's samples.
    pub fn merge(&mut self, other: &LatencyHistograms) {
        for (mine, theirs) in [
            (&mut self.ram, &other.ram),
            (&mut self.cache, &other.cache),
            (&mut self.store, &other.store),
            (&mut self.device, &other.device),
            (&mut self.open, &other.open),
        ] {
            mine.add(theirs).expect("all have the same bounds");
        }
    }
}

/// Longer is recorded as this: five minutes.
const LATENCY_NS_MAX: u64 = 300_000_000_000;
