//! Settings of the local WAL. None of it is part of the format: a reader takes what it finds.

use super::frame::FRAME_BYTES_MAX;
use super::segment_header::{BLOCK_BYTES_LEAST, SEGMENT_BYTES_LEAST, SEGMENT_BYTES_MAX};

/// Limits of the local WAL of one branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// Bytes of a segment file, allotted when it is made; a multiple of 64 KiB. Range 64 KiB..=1 GiB. Default 64 MiB.
    pub segment_bytes: u64,
    /// What all segments together may take on the disk, in bytes. Range two segments..=1 PiB. Default 8 GiB.
    pub bytes_max: u64,
    /// Bytes that may wait for a commit; one append is never longer. Range 4 KiB..=64 MiB. Default 4 MiB.
    pub buffer_bytes_max: usize,
    /// Bytes of a frame, header and padding included; a multiple of 4 KiB. Range 4 KiB..=256 KiB. Default 256 KiB.
    pub frame_bytes_max: usize,
}

impl Default for WalConfig {
    fn default() -> WalConfig {
        WalConfig {
            segment_bytes: 64 << 20,
            bytes_max: 8 << 30,
            buffer_bytes_max: 4 << 20,
            frame_bytes_max: FRAME_BYTES_MAX,
        }
    }
}

impl WalConfig {
    /// Limits so low that tests reach the corners.
    pub fn tiny() -> WalConfig {
        WalConfig {
            segment_bytes: SEGMENT_BYTES_LEAST,
            bytes_max: 6 * SEGMENT_BYTES_LEAST,
            buffer_bytes_max: 96 << 10,
            frame_bytes_max: 8 << 10,
        }
    }

    /// All that is wrong with these settings, with value and range.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |setting: &str, value: u64, least: u64, most: u64, unit: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("{setting} is {value}, must be in {least}..={most}"));
            } else if !value.is_multiple_of(unit) {
                problems.push(format!(
                    "{setting} is {value}, must be a multiple of {unit}"
                ));
            }
        };
        let (least, most) = (SEGMENT_BYTES_LEAST, SEGMENT_BYTES_MAX);
        check("segment_bytes", self.segment_bytes, least, most, least);
        let two_segments = self.segment_bytes.saturating_mul(2);
        check("bytes_max", self.bytes_max, two_segments, 1 << 50, 1);
        let buffer_bytes_max = self.buffer_bytes_max as u64;
        check("buffer_bytes_max", buffer_bytes_max, 4 << 10, 64 << 20, 1);
        let (block, frame) = (BLOCK_BYTES_LEAST as u64, FRAME_BYTES_MAX as u64);
        let frame_bytes_max = self.frame_bytes_max as u64;
        check("frame_bytes_max", frame_bytes_max, block, frame, block);
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        assert_eq!(WalConfig::default().validate(), Vec::<String>::new());
        assert_eq!(WalConfig::tiny().validate(), Vec::<String>::new());
        let wrong = WalConfig {
            segment_bytes: (64 << 10) + 4096,
            bytes_max: 128 << 10,
            buffer_bytes_max: 0,
            frame_bytes_max: usize::MAX,
        };
        let problems = wrong.validate();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert_eq!(
            problems[0],
            "segment_bytes is 69632, must be a multiple of 65536"
        );
    }
}
