//! How layers are cut. None of it is part of the format: a reader takes what it finds.

use super::extent::EXTENT_HEADER_BYTES;
use super::pack::PACK_VALUE_BYTES_MAX;
use super::{EXTENT_BYTES, OBJECT_BYTES_MAX};

/// Limits of the layers that are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerConfig {
    /// No object is longer, in bytes. Range 64 KiB..=32 GiB. Default 128 MiB.
    pub object_bytes_max: u64,
    /// No extent is longer, in bytes. Range 16 KiB..=256 KiB. Default 256 KiB.
    pub extent_bytes_max: usize,
    /// Values up to here share blocks with their neighbours, in bytes. Range 0..=8,156. Default 1 KiB.
    pub pack_value_bytes_max: usize,
    /// Whether blocks are compressed where that saves space. Default true.
    pub compress: bool,
}

impl Default for LayerConfig {
    fn default() -> LayerConfig {
        LayerConfig {
            object_bytes_max: 128 << 20,
            extent_bytes_max: EXTENT_BYTES,
            pack_value_bytes_max: 1024,
            compress: true,
        }
    }
}

/// A setting out of its range.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{setting} is {value}, its range is {least}..={most}")]
pub struct LayerConfigError {
    /// Which setting.
    pub setting: &'static str,
    /// Its value.
    pub value: u64,
    /// The lowest it may be.
    pub least: u64,
    /// The highest it may be.
    pub most: u64,
}

impl LayerConfig {
    /// Limits so low that tests reach the corners.
    pub fn tiny() -> LayerConfig {
        LayerConfig {
            object_bytes_max: 256 << 10,
            extent_bytes_max: EXTENT_BYTES_LEAST,
            pack_value_bytes_max: 200,
            compress: true,
        }
    }

    /// All settings that are out of range.
    pub fn validate(&self) -> Vec<LayerConfigError> {
        [
            (
                "object_bytes_max",
                self.object_bytes_max,
                OBJECT_BYTES_LEAST,
                OBJECT_BYTES_MAX,
            ),
            (
                "extent_bytes_max",
                self.extent_bytes_max as u64,
                EXTENT_BYTES_LEAST as u64,
                EXTENT_BYTES as u64,
            ),
            (
                "pack_value_bytes_max",
                self.pack_value_bytes_max as u64,
                0,
                PACK_VALUE_BYTES_MAX as u64,
            ),
        ]
        .into_iter()
        .filter(|(_, value, least, most)| !(least..=most).contains(&value))
        .map(|(setting, value, least, most)| LayerConfigError {
            setting,
            value,
            least,
            most,
        })
        .collect()
    }
}

const OBJECT_BYTES_LEAST: u64 = 64 << 10;
const EXTENT_BYTES_LEAST: usize = 16 << 10;

/// The longest block, with the directory and header of an extent that has no other.
const _: () = assert!(
    EXTENT_HEADER_BYTES
        + super::directory_builder::DIRECTORY_BYTES_LEAST
        + super::block::SEALED_BYTES_MAX
        < EXTENT_BYTES_LEAST
);
