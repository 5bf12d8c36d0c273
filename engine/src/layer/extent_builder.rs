//! Collects the sealed blocks of one extent until it is full, then appends the extent to the object.
//!
//! The blocks wait here because the directory, whose length depends on them, comes before them in the object. They
//! are sealed when they come, and copied once, out of the core's cache.

use super::block::{BlockContents, BlockPlace, seal_block};
use super::directory_builder::{DirectoryBuilder, ENTRY_BYTES_MAX};
use super::extent::{EXTENT_HEADER_BYTES, ExtentHeader};
use super::format::{LayerId, aligned};
use crate::crypto::page_seal::{BlockKind, Sealer, TAG_BYTES};
use crate::types::{Key, Lsn, Partition};

/// What a block that is to be added covers.
#[derive(Clone, Copy)]
pub(super) struct Cover {
    pub(super) contents: BlockContents,
    pub(super) first_key: Key,
    pub(super) last_key: Key,
    pub(super) first_entry_lsn: Lsn,
    pub(super) lowest_lsn: Lsn,
    pub(super) highest_lsn: Lsn,
}

pub(super) struct ExtentBuilder {
    partition: Partition,
    extent_no: u32,
    first: Option<(Key, Lsn)>,
    directory: DirectoryBuilder,
    blocks: Vec<u8>,
}

impl ExtentBuilder {
    /// An empty extent. `blocks` is memory for its blocks, to be used again.
    pub(super) fn new(partition: Partition, extent_no: u32, mut blocks: Vec<u8>) -> ExtentBuilder {
        blocks.clear();
        ExtentBuilder {
            partition,
            extent_no,
            first: None,
            directory: DirectoryBuilder::default(),
            blocks,
        }
    }

    /// Key and LSN of its first value, if it has any.
    pub(super) fn first(&self) -> Option<(Key, Lsn)> {
        self.first
    }

    /// Bytes of the extent if it ended here.
    pub(super) fn extent_bytes(&self) -> usize {
        self.bytes_with_directory(self.directory.encoded_bytes()) + self.blocks.len()
    }

    /// Bytes of the extent with one more block of `plain_bytes`, at most.
    pub(super) fn extent_bytes_with(&self, plain_bytes: usize) -> usize {
        self.bytes_with_directory(self.directory.encoded_bytes() + ENTRY_BYTES_MAX)
            + self.blocks.len()
            + aligned(plain_bytes + TAG_BYTES)
    }

    fn bytes_with_directory(&self, directory_bytes: usize) -> usize {
        EXTENT_HEADER_BYTES + aligned(directory_bytes + TAG_BYTES)
    }

    /// Seals a block behind the others.
    pub(super) fn push(&mut self, sealer: &Sealer, layer: &LayerId, cover: &Cover, plain: &[u8]) {
        let place = BlockPlace {
            extent_no: self.extent_no,
            index: self.directory.block_count(),
            contents: cover.contents,
            at: 0,
            sealed_bytes: u16::try_from(plain.len() + TAG_BYTES).expect("at most 8,248"),
            first_key: cover.first_key,
            last_key: cover.last_key,
            first_lsn: cover.lowest_lsn,
            last_lsn: cover.highest_lsn,
        };
        seal_block(sealer, layer, &place, plain, &mut self.blocks);
        self.blocks.resize(aligned(self.blocks.len()), 0);
        self.directory.push(&place, cover.first_entry_lsn);
        self.first
            .get_or_insert((cover.first_key, cover.first_entry_lsn));
    }

    /// Appends the extent to `object`. Gives back the memory of the blocks.
    pub(super) fn finish(self, sealer: &Sealer, layer: &LayerId, object: &mut Vec<u8>) -> Vec<u8> {
        let start = object.len();
        let context = layer.context(BlockKind::LayerDirectory, u64::from(self.extent_no));
        let directory = self.directory.encode(self.partition, self.extent_no);
        let directory = sealer.seal_vec(&context, &directory);
        let bytes = |len: usize| u32::try_from(len).expect("at most 256 KiB");
        let header = ExtentHeader {
            extent_no: self.extent_no,
            extent_bytes: bytes(self.extent_bytes()),
            directory_bytes: bytes(directory.len()),
            block_count: self.directory.block_count(),
            checksum: 0,
        };
        object.extend_from_slice(&header.encode());
        object.extend_from_slice(&directory);
        object.resize(aligned(object.len()), 0);
        object.extend_from_slice(&self.blocks);
        assert_eq!(
            object.len() - start,
            self.extent_bytes(),
            "the length was foretold"
        );
        ExtentHeader::seal_checksum(&mut object[start..]);
        self.blocks
    }
}
