//! Collects the blocks of an extent into the groups of its directory (`directory.rs` has the bytes).
//!
//! A group grows as a run while it can. A short run that something irregular follows turns into steps; a long one
//! ends there, since steps would cost four times as much per block.

use super::block::{BlockContents, BlockPlace};
use super::directory::{
    DIRECTORY_HEADER_BYTES, FORM_PACK, FORM_RUN, FORM_STEPS, GROUP_HEADER_BYTES, PACK_BYTES,
    RUN_BLOCK_BYTES, STEP_BLOCK_BYTES, low, prefix,
};
use super::format::aligned;
use crate::crypto::page_seal::TAG_BYTES;
use crate::types::{Key, Lsn, Partition};

/// Runs up to here turn into steps; longer ones end.
const SHORT_RUN: usize = 8;

/// The most that one more block adds to the encoded directory.
pub(super) const ENTRY_BYTES_MAX: usize = GROUP_HEADER_BYTES + PACK_BYTES;
const _: () =
    assert!(ENTRY_BYTES_MAX >= SHORT_RUN * (STEP_BLOCK_BYTES - RUN_BLOCK_BYTES) + STEP_BLOCK_BYTES);
const _: () = assert!(ENTRY_BYTES_MAX >= GROUP_HEADER_BYTES + STEP_BLOCK_BYTES);

/// A bound on the sealed directory of a single block, padding included.
pub(super) const DIRECTORY_BYTES_LEAST: usize =
    aligned(DIRECTORY_HEADER_BYTES + ENTRY_BYTES_MAX + TAG_BYTES);

#[derive(Default)]
pub(super) struct DirectoryBuilder {
    groups: Vec<Group>,
    block_count: u16,
    encoded_bytes: usize,
}

struct Group {
    first_key: Key,
    contents: BlockContents,
    form: Form,
    lowest_lsn: Lsn,
    highest_lsn: Lsn,
    blocks: Vec<Block>,
}

enum Form {
    Run,
    Steps,
    Pack { last_key: Key, first_entry_lsn: Lsn },
}

struct Block {
    key_low: u32,
    lsn: Lsn,
    sealed_bytes: u16,
}

impl DirectoryBuilder {
    pub(super) fn block_count(&self) -> u16 {
        self.block_count
    }

    /// Bytes of the plaintext so far.
    pub(super) fn encoded_bytes(&self) -> usize {
        DIRECTORY_HEADER_BYTES + self.encoded_bytes
    }

    /// Adds the block at `place`, which follows the one before in key and LSN. `first_entry_lsn` matters for packs.
    pub(super) fn push(&mut self, place: &BlockPlace, first_entry_lsn: Lsn) {
        self.block_count += 1;
        let block = Block {
            key_low: low(&place.first_key),
            lsn: place.first_lsn,
            sealed_bytes: place.sealed_bytes,
        };
        if place.contents == BlockContents::Pack {
            let last_key = place.last_key;
            let form = Form::Pack {
                last_key,
                first_entry_lsn,
            };
            self.start(place, form, block);
            return;
        }
        let before = self.groups.last().map_or(0, Group::encoded_bytes);
        match self.groups.last_mut() {
            Some(group) if group.takes(place) => {
                group.push(block);
                self.encoded_bytes += group.encoded_bytes() - before;
            }
            _ => self.start(place, Form::Run, block),
        }
    }

    fn start(&mut self, place: &BlockPlace, form: Form, block: Block) {
        let group = Group {
            first_key: place.first_key,
            contents: place.contents,
            form,
            lowest_lsn: place.first_lsn,
            highest_lsn: place.last_lsn,
            blocks: vec![block],
        };
        self.encoded_bytes += group.encoded_bytes();
        self.groups.push(group);
    }

    /// The plaintext.
    pub(super) fn encode(&self, partition: Partition, extent_no: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        out.extend_from_slice(&partition.number().to_le_bytes());
        out.extend_from_slice(&self.block_count.to_le_bytes());
        let group_count = u16::try_from(self.groups.len()).expect("at most one per block");
        out.extend_from_slice(&group_count.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&extent_no.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for group in &self.groups {
            group.encode(&mut out);
        }
        assert_eq!(out.len(), self.encoded_bytes(), "the size was foretold");
        out
    }
}

impl Group {
    fn takes(&self, place: &BlockPlace) -> bool {
        let lowest = self.lowest_lsn.min(place.first_lsn);
        let highest = self.highest_lsn.max(place.last_lsn);
        let last = self.blocks.last().expect("a group has a block");
        let step = low(&place.first_key).checked_sub(last.key_low);
        let alike = self.contents == place.contents
            && prefix(&self.first_key) == prefix(&place.first_key)
            && step.is_some_and(|step| step <= u32::from(u16::MAX))
            && highest.0 - lowest.0 <= u64::from(u32::MAX);
        let runs_on = self.runs_on(low(&place.first_key), place.first_lsn);
        match self.form {
            Form::Run => alike && (self.blocks.len() < SHORT_RUN || runs_on),
            Form::Steps => alike,
            Form::Pack { .. } => false,
        }
    }

    /// Whether a block at this key and LSN continues a run that ends with the last block.
    fn runs_on(&self, key_low: u32, lsn: Lsn) -> bool {
        let last = self.blocks.last().expect("a group has a block");
        last.lsn == lsn && last.key_low.checked_add(1) == Some(key_low)
    }

    fn push(&mut self, block: Block) {
        if !self.runs_on(block.key_low, block.lsn) {
            self.form = Form::Steps;
        }
        self.lowest_lsn = self.lowest_lsn.min(block.lsn);
        self.highest_lsn = self.highest_lsn.max(block.lsn);
        self.blocks.push(block);
    }

    fn encoded_bytes(&self) -> usize {
        GROUP_HEADER_BYTES
            + match self.form {
                Form::Run => self.blocks.len() * RUN_BLOCK_BYTES,
                Form::Steps => self.blocks.len() * STEP_BLOCK_BYTES,
                Form::Pack { .. } => PACK_BYTES,
            }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_key.0);
        out.extend_from_slice(&self.lowest_lsn.0.to_le_bytes());
        let count = u16::try_from(self.blocks.len()).expect("fewer than blocks of an extent");
        out.extend_from_slice(&count.to_le_bytes());
        let form = match self.form {
            Form::Run => FORM_RUN,
            Form::Steps => FORM_STEPS,
            Form::Pack { .. } => FORM_PACK,
        };
        out.extend_from_slice(&[form, self.contents.code()]);
        out.extend_from_slice(&[0; 4]);
        match self.form {
            Form::Run => {
                for block in &self.blocks {
                    out.extend_from_slice(&block.sealed_bytes.to_le_bytes());
                }
            }
            Form::Steps => {
                let mut key = low(&self.first_key);
                for block in &self.blocks {
                    let step = u16::try_from(block.key_low - key).expect("`takes` saw to it");
                    let offset = block.lsn.0 - self.lowest_lsn.0;
                    let offset = u32::try_from(offset).expect("`takes` saw to it");
                    out.extend_from_slice(&block.sealed_bytes.to_le_bytes());
                    out.extend_from_slice(&step.to_le_bytes());
                    out.extend_from_slice(&offset.to_le_bytes());
                    key = block.key_low;
                }
            }
            Form::Pack {
                last_key,
                first_entry_lsn,
            } => {
                out.extend_from_slice(&last_key.0);
                out.extend_from_slice(&first_entry_lsn.0.to_le_bytes());
                out.extend_from_slice(&self.highest_lsn.0.to_le_bytes());
                out.extend_from_slice(&self.blocks[0].sealed_bytes.to_le_bytes());
                out.extend_from_slice(&[0; 6]);
            }
        }
    }
}
