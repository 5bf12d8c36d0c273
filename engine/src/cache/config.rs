//! Settings of the cache.

use std::time::Duration;

/// Bytes of a slot: the grid of the layer format.
pub const SLOT_BYTES: u64 = 256 << 10;

/// Settings of the extent cache of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// What the cache files and their index may take on disk, all cores together. Range 0 (no cache)..=1 PiB. Default 8 GiB. May
    /// differ on every start.
    pub cache_bytes: u64,
    /// Slots in each file; part of the geometry: another value empties the cache. Range 1..=65,536. Default 65,536 (16 GiB).
    pub slots_per_file: u32,
    /// Longest time a change of a slot waits in memory before its index block is written. Range 1 ms..=10 s. Default 100 ms.
    pub index_delay: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            cache_bytes: 8 << 30,
            slots_per_file: 65_536,
            index_delay: Duration::from_millis(100),
        }
    }
}

impl CacheConfig {
    /// Every limit so small that tests reach its corners: 150 slots in files of 64.
    pub fn tiny() -> CacheConfig {
        CacheConfig {
            cache_bytes: 150 * SLOT_BYTES + (64 << 10),
            slots_per_file: 64,
            index_delay: Duration::from_millis(1),
        }
    }

    /// All that is wrong with these settings, with value and range.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.cache_bytes > 1 << 50 {
            problems.push(format!(
                "cache_bytes is {}, must be in 0..={}",
                self.cache_bytes,
                1u64 << 50
            ));
        }
        if !(1..=65_536).contains(&self.slots_per_file) {
            problems.push(format!(
                "slots_per_file is {}, must be in 1..=65536",
                self.slots_per_file
            ));
        }
        let delay = Duration::from_millis(1)..=Duration::from_secs(10);
        if !delay.contains(&self.index_delay) {
            problems.push(format!(
                "index_delay is {:?}, must be in 1ms..=10s",
                self.index_delay
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        assert_eq!(CacheConfig::default().validate(), Vec::<String>::new());
        assert_eq!(CacheConfig::tiny().validate(), Vec::<String>::new());
        let wrong = CacheConfig {
            cache_bytes: u64::MAX,
            slots_per_file: 0,
            index_delay: Duration::ZERO,
        };
        assert_eq!(wrong.validate().len(), 3);
    }
}
