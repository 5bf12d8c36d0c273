//! Settings of a shard.

use std::time::Duration;

/// Limits of one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardConfig {
    /// Reads of the device at once, and so reader tasks. Range 1..=4096. Default 128.
    pub readers: usize,
    /// Pages kept for reuse. Range 1..=65,536. Default 1,024 (8 MiB).
    pub pooled_pages_max: usize,
    /// Bytes fetched at once for a sequential reader. Range 256 KiB..=16 MiB. Default 8 MiB.
    pub ahead_bytes_max: u64,
    /// Bytes of extent directories kept in memory. Range 64 KiB..=64 GiB. Default 64 MiB.
    pub directory_bytes_max: usize,
    /// Bytes of opened pages kept in memory; zero keeps none. Default 0.
    pub ram_bytes_max: usize,
    /// Deltas replayed for one read. Range 1..=65,536. Default 1,024.
    pub deltas_max: usize,
    /// Bytes of deltas replayed for one read; they are all in memory meanwhile. Range 8 KiB..=64 MiB. Default 1 MiB.
    pub delta_bytes_max: usize,
    /// Deltas of a value after which it gets a new image while it is written. Range 1..=`deltas_max` / 4. Default 128.
    pub image_after_deltas: u32,
    /// The same in bytes of deltas. Range 1 KiB..=`delta_bytes_max` / 4. Default 32 KiB.
    pub image_after_bytes: u32,
    /// Longest wait for a branch to be opened, from when the first asked for it: the manifests and keys of it and of its
    /// ancestors. Range 1 ms..=1 h. Default 30 s.
    pub open_deadline: Duration,
    /// How often a branch that is read is compared with the object store, for what other processes wrote: one GET each time.
    /// `None`: never, so that it stays as it was opened. Range 10 ms..=1 h. Default 1 s.
    pub refresh_every: Option<Duration>,
}

impl Default for ShardConfig {
    fn default() -> Self {
        ShardConfig {
            readers: 128,
            pooled_pages_max: 1024,
            ahead_bytes_max: 8 << 20,
            directory_bytes_max: 64 << 20,
            ram_bytes_max: 0,
            deltas_max: 1024,
            delta_bytes_max: 1 << 20,
            image_after_deltas: 128,
            image_after_bytes: 32 << 10,
            open_deadline: Duration::from_secs(30),
            refresh_every: Some(Duration::from_secs(1)),
        }
    }
}

impl ShardConfig {
    /// Every limit as small as it works, so that tests reach the corners.
    pub fn tiny() -> ShardConfig {
        ShardConfig {
            readers: 2,
            pooled_pages_max: 2,
            ahead_bytes_max: 512 << 10,
            directory_bytes_max: 64 << 10,
            ram_bytes_max: 16 * 8192,
            deltas_max: 64,
            delta_bytes_max: 64 << 10,
            image_after_deltas: 8,
            image_after_bytes: 1 << 10,
            open_deadline: Duration::from_secs(5),
            refresh_every: Some(Duration::from_secs(1)),
        }
    }

    /// All problems at once: field, value, range. Empty if there are none.
    pub fn problems(&self) -> Vec<String> {
        let checks = [
            ("readers", self.readers as u64, 1, 4096),
            ("pooled_pages_max", self.pooled_pages_max as u64, 1, 65_536),
            ("ahead_bytes_max", self.ahead_bytes_max, 256 << 10, 16 << 20),
            (
                "directory_bytes_max",
                self.directory_bytes_max as u64,
                64 << 10,
                64 << 30,
            ),
            ("ram_bytes_max", self.ram_bytes_max as u64, 0, 1 << 40),
            ("deltas_max", self.deltas_max as u64, 1, 65_536),
            (
                "delta_bytes_max",
                self.delta_bytes_max as u64,
                8 << 10,
                64 << 20,
            ),
            (
                "image_after_deltas",
                self.image_after_deltas.into(),
                1,
                (self.deltas_max as u64 / 4).max(1),
            ),
            (
                "image_after_bytes",
                self.image_after_bytes.into(),
                1 << 10,
                (self.delta_bytes_max as u64 / 4).max(1 << 10),
            ),
        ];
        let outside = checks
            .into_iter()
            .filter(|(_, value, min, max)| value < min || value > max);
        let mut problems: Vec<String> = outside
            .map(|(name, value, min, max)| format!("shard.{name}: {value} is not in {min}..={max}"))
            .collect();
        let deadlines = Duration::from_millis(1)..=Duration::from_secs(3600);
        if !deadlines.contains(&self.open_deadline) {
            problems.push(format!(
                "shard.open_deadline: {:?} is not in 1ms..=1h",
                self.open_deadline
            ));
        }
        let intervals = Duration::from_millis(10)..=Duration::from_secs(3600);
        if let Some(every) = self
            .refresh_every
            .filter(|every| !intervals.contains(every))
        {
            problems.push(format!(
                "shard.refresh_every: {every:?} is not in 10ms..=1h"
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_problem_is_named_at_once() {
        assert_eq!(ShardConfig::default().problems(), Vec::<String>::new());
        assert_eq!(ShardConfig::tiny().problems(), Vec::<String>::new());
        let wrong = ShardConfig {
            readers: 0,
            pooled_pages_max: 0,
            ahead_bytes_max: 0,
            directory_bytes_max: 0,
            ram_bytes_max: usize::MAX,
            deltas_max: 0,
            delta_bytes_max: 0,
            image_after_deltas: 0,
            image_after_bytes: 0,
            open_deadline: Duration::ZERO,
            refresh_every: Some(Duration::ZERO),
        };
        assert_eq!(wrong.problems().len(), 11);
    }
}
