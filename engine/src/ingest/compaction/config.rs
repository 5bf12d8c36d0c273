//! Settings of compaction.

use std::time::Duration;

/// When layers are merged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// Runs of about the same size that are merged at least. Range 2..=64. Default 4.
    pub runs_min: usize,
    /// Runs that a partition may have, whatever their sizes. Range `runs_min`..=256. Default 16.
    pub runs_max: usize,
    /// Bytes of layers merged by one commit; one partition is merged whatever it takes. Range 1 MiB..=1 TiB. Default 2 GiB.
    pub job_bytes_max: u64,
    /// Layers merged by one commit, so that its edit stays small. Range 2..=1024. Default 256.
    pub job_layers_max: usize,
    /// Bytes of layers merged at once. Opened they take several times that in memory. Range 4 KiB..=256 MiB. Default 16 MiB.
    pub step_bytes: u64,
    /// Deltas since its last image with which a value gets one when it is merged. At least 1. Default 4.
    pub image_deltas: usize,
    /// The same in bytes. At least 1. Default 512.
    pub image_bytes: usize,
    /// How long an object stays after the last manifest that named it: readers of older manifests need it until they look
    /// again. Default 10 min.
    pub delete_after: Duration,
}

impl Default for CompactionConfig {
    fn default() -> CompactionConfig {
        CompactionConfig {
            runs_min: 4,
            runs_max: 16,
            job_bytes_max: 2 << 30,
            job_layers_max: 256,
            step_bytes: 16 << 20,
            image_deltas: 4,
            image_bytes: 512,
            delete_after: Duration::from_secs(600),
        }
    }
}

impl CompactionConfig {
    /// Every limit as small as it works, so that tests reach the corners.
    pub fn tiny() -> CompactionConfig {
        CompactionConfig {
            runs_min: 2,
            runs_max: 3,
            job_bytes_max: 1 << 20,
            job_layers_max: 8,
            step_bytes: 4 << 10,
            image_deltas: 2,
            image_bytes: 64,
            delete_after: Duration::from_secs(1),
        }
    }
}
