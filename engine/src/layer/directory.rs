//! The directory of an extent, version 1: which block holds which key and LSN, and where. Sealed; the first thing
//! behind the extent's header.
//!
//! Plaintext: 16 bytes, then the groups.
//!
//! |  at | bytes | field       | meaning                                                              |
//! |----:|------:|-------------|----------------------------------------------------------------------|
//! |   0 |     2 | partition   | of all its keys                                                      |
//! |   2 |     2 | block_count | as in the extent's header                                            |
//! |   4 |     2 | group_count | groups that follow                                                   |
//! |   6 |     2 | reserved    | zeros                                                                |
//! |   8 |     4 | extent_no   | as in the extent's header                                            |
//! |  12 |     4 | reserved    | zeros                                                                |
//!
//! A group is a run of blocks, in order of key and LSN, that are cheap to describe together:
//!
//! |  at | bytes | field       | meaning                                                              |
//! |----:|------:|-------------|----------------------------------------------------------------------|
//! |   0 |    24 | first_key   | of the first block                                                   |
//! |  24 |     8 | base_lsn    | lowest LSN in the group                                              |
//! |  32 |     2 | count       | blocks, at least 1                                                   |
//! |  34 |     1 | form        | 0 run, 1 steps, 2 pack                                               |
//! |  35 |     1 | contents    | 0 images, 1 deltas, 2 a pack                                         |
//! |  36 |     4 | reserved    | zeros                                                                |
//! |  40 |     … | blocks      |                                                                      |
//!
//! - **run**: all at `base_lsn`, each key one more than the one before in its last four bytes, big-endian (the block
//!   number, in Postgres's keys). Per block: sealed_bytes u16.
//! - **steps**: keys alike but for the last four bytes. Per block: sealed_bytes u16, key_step u16 (from the block
//!   before; 0 is another version of its key), lsn_offset u32 (from `base_lsn`).
//! - **pack**: one block. last_key (24), first_lsn of the first entry (8), highest LSN (8), sealed_bytes u16, six
//!   zeros.
//!
//! Blocks lie one after the other, each at the next multiple of 8, so that lengths give positions. What an import
//! writes is runs: two bytes per page. Versions from WAL are steps: eight.

use super::block::{BLOCK_HEADER_BYTES, BlockContents, BlockPlace, SEALED_BYTES_MAX};
use super::extent::ExtentHeader;
use super::format::{Fields, LayerId, aligned, slice};
use super::{LayerError, Part};
use crate::crypto::page_seal::{BlockKind, Opener, TAG_BYTES};
use crate::types::{KEY_BYTES, Key, Lsn, Partition};

pub(super) const DIRECTORY_HEADER_BYTES: usize = 16;
pub(super) const GROUP_HEADER_BYTES: usize = 40;
pub(super) const PACK_BYTES: usize = 48;
pub(super) const RUN_BLOCK_BYTES: usize = 2;
pub(super) const STEP_BLOCK_BYTES: usize = 8;

pub(super) const FORM_RUN: u8 = 0;
pub(super) const FORM_STEPS: u8 = 1;
pub(super) const FORM_PACK: u8 = 2;

const PREFIX_BYTES: usize = KEY_BYTES - 4;

/// An opened directory: answers which block holds a version. Kept in memory under a budget.
pub struct ExtentDirectory {
    extent_no: u32,
    partition: Partition,
    groups: Box<[Group]>,
    /// Sealed bytes of each block of the extent.
    lengths: Box<[u16]>,
    steps: Box<[Step]>,
    packs: Box<[PackBounds]>,
}

struct Group {
    first_key: Key,
    base_lsn: Lsn,
    /// Where the first block begins in the extent.
    at: u32,
    first_block: u16,
    count: u16,
    contents: BlockContents,
    form: Form,
}

enum Form {
    Run,
    /// Its first step's position.
    Steps(u32),
    /// Its position among the packs.
    Pack(u32),
}

struct Step {
    lsn_offset: u32,
    key_step: u16,
}

struct PackBounds {
    last_key: Key,
    first_entry_lsn: Lsn,
    highest_lsn: Lsn,
}

impl ExtentDirectory {
    /// Opens the directory of extent `extent_no`. `extent` is the extent from its start; at least the header and
    /// the directory must be there, see [`ExtentHeader::directory_range`].
    ///
    /// # Errors
    /// `Truncated`: more of the extent is needed. `Seal`: damage, another object or another key.
    pub fn open(
        opener: &Opener,
        layer: &LayerId,
        extent_no: u32,
        extent: &[u8],
    ) -> Result<ExtentDirectory, LayerError> {
        let part = Part::Directory(extent_no);
        let header = ExtentHeader::decode(extent_no, extent)?;
        let sealed = slice(part, extent, header.directory_range())?;
        let context = layer.context(BlockKind::LayerDirectory, u64::from(extent_no));
        let plain = opener
            .open_vec(&context, sealed)
            .map_err(|source| LayerError::Seal { part, source })?;
        Decoder::new(part, &header).decode(&plain)
    }

    /// The block with the newest version of `key` at or below `lsn`, if this extent has one. For a pack it is the
    /// block that would hold it; whether it does, [`super::Pack::newest`] tells.
    pub fn find(&self, key: &Key, lsn: Lsn) -> Option<BlockPlace> {
        let after = self
            .groups
            .partition_point(|group| (group.first_key, self.head_lsn(group)) <= (*key, lsn));
        let group = &self.groups[after.checked_sub(1)?];
        let nth = match group.form {
            Form::Run => {
                let nth = low(key).checked_sub(low(&group.first_key))?;
                let alike = prefix(key) == prefix(&group.first_key) && group.base_lsn <= lsn;
                u16::try_from(nth)
                    .ok()
                    .filter(|nth| alike && *nth < group.count)?
            }
            Form::Steps(first) => self.find_step(group, first, key, lsn)?,
            Form::Pack(pack) => (*key <= self.packs[pack as usize].last_key).then_some(0)?,
        };
        Some(self.place_in(group, nth))
    }

    /// The block at `index`, below [`ExtentDirectory::block_count`].
    pub fn place(&self, index: u16) -> Option<BlockPlace> {
        let after = self
            .groups
            .partition_point(|group| group.first_block <= index);
        let group = &self.groups[after.checked_sub(1)?];
        let nth = index - group.first_block;
        (nth < group.count).then(|| self.place_in(group, nth))
    }

    /// All its blocks, in order of key and LSN, which is their order in the extent.
    pub fn places(&self) -> impl Iterator<Item = BlockPlace> + '_ {
        (0..self.block_count()).filter_map(|index| self.place(index))
    }

    /// Which extent this is.
    pub fn extent_no(&self) -> u32 {
        self.extent_no
    }

    /// The partition of all its keys.
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// Blocks of the extent.
    pub fn block_count(&self) -> u16 {
        u16::try_from(self.lengths.len()).expect("checked when decoding")
    }

    /// Memory it takes.
    pub fn resident_bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.groups)
            + size_of_val(&*self.lengths)
            + size_of_val(&*self.steps)
            + size_of_val(&*self.packs)
    }

    /// LSN of the first value of a group: with its key, what groups are sorted by.
    fn head_lsn(&self, group: &Group) -> Lsn {
        match group.form {
            Form::Run => group.base_lsn,
            Form::Steps(first) => step_lsn(group.base_lsn, &self.steps[first as usize]),
            Form::Pack(pack) => self.packs[pack as usize].first_entry_lsn,
        }
    }

    fn steps_of(&self, group: &Group, first: u32) -> &[Step] {
        &self.steps[first as usize..first as usize + usize::from(group.count)]
    }

    fn find_step(&self, group: &Group, first: u32, key: &Key, lsn: Lsn) -> Option<u16> {
        if prefix(key) != prefix(&group.first_key) {
            return None;
        }
        let mut at_key = low(&group.first_key);
        let mut found = None;
        for (nth, step) in (0u16..).zip(self.steps_of(group, first)) {
            at_key += u32::from(step.key_step);
            if (at_key, step_lsn(group.base_lsn, step)) > (low(key), lsn) {
                break;
            }
            if at_key == low(key) {
                found = Some(nth);
            }
        }
        found
    }

    fn place_in(&self, group: &Group, nth: u16) -> BlockPlace {
        let index = group.first_block + nth;
        let lengths = &self.lengths[usize::from(group.first_block)..];
        let before: u32 = lengths[..usize::from(nth)]
            .iter()
            .map(|len| (u32::from(*len) + 7) & !7)
            .sum();
        let (first_key, last_key, first_lsn, last_lsn) = match group.form {
            Form::Run => {
                let key = with_low(&group.first_key, low(&group.first_key) + u32::from(nth));
                (key, key, group.base_lsn, group.base_lsn)
            }
            Form::Steps(first) => {
                let steps = &self.steps_of(group, first)[..=usize::from(nth)];
                let stepped: u32 = steps.iter().map(|step| u32::from(step.key_step)).sum();
                let key = with_low(&group.first_key, low(&group.first_key) + stepped);
                let lsn = step_lsn(group.base_lsn, &steps[usize::from(nth)]);
                (key, key, lsn, lsn)
            }
            Form::Pack(pack) => {
                let bounds = &self.packs[pack as usize];
                let (first, last) = (group.first_key, bounds.last_key);
                (first, last, group.base_lsn, bounds.highest_lsn)
            }
        };
        BlockPlace {
            extent_no: self.extent_no,
            index,
            contents: group.contents,
            at: group.at + before,
            sealed_bytes: self.lengths[usize::from(index)],
            first_key,
            last_key,
            first_lsn,
            last_lsn,
        }
    }
}

impl std::fmt::Debug for ExtentDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (no, blocks) = (self.extent_no, self.lengths.len());
        write!(f, "ExtentDirectory(extent {no}, {blocks} blocks)")
    }
}

/// The last four bytes of a key, big-endian.
pub(super) fn low(key: &Key) -> u32 {
    u32::from_be_bytes(key.0[PREFIX_BYTES..].try_into().expect("four bytes"))
}

/// All bytes of a key but the last four.
pub(super) fn prefix(key: &Key) -> &[u8] {
    &key.0[..PREFIX_BYTES]
}

fn with_low(key: &Key, low: u32) -> Key {
    let mut key = *key;
    key.0[PREFIX_BYTES..].copy_from_slice(&low.to_be_bytes());
    key
}

fn step_lsn(base: Lsn, step: &Step) -> Lsn {
    Lsn(base.0 + u64::from(step.lsn_offset))
}

/// Reads and checks the plaintext. What it lets through, the lookups above may add up without overflow.
struct Decoder<'a> {
    part: Part,
    header: &'a ExtentHeader,
    groups: Vec<Group>,
    lengths: Vec<u16>,
    steps: Vec<Step>,
    packs: Vec<PackBounds>,
    at: usize,
    /// Last key and LSN so far; what follows lies above.
    last: Option<(Key, Lsn)>,
}

impl<'a> Decoder<'a> {
    fn new(part: Part, header: &'a ExtentHeader) -> Decoder<'a> {
        Decoder {
            part,
            header,
            groups: Vec::new(),
            lengths: Vec::new(),
            steps: Vec::new(),
            packs: Vec::new(),
            at: header.blocks_at(),
            last: None,
        }
    }

    fn decode(mut self, plain: &[u8]) -> Result<ExtentDirectory, LayerError> {
        let mut fields = Fields::new(self.part, plain, plain.len())?;
        let partition = Partition::new(fields.u16()?).ok_or(self.refuse("no such partition"))?;
        let block_count = fields.u16()?;
        let group_count = fields.u16()?;
        fields.reserved(2)?;
        if fields.u32()? != self.header.extent_no || block_count != self.header.block_count {
            return Err(self.refuse("is of another extent"));
        }
        fields.reserved(4)?;
        for _ in 0..group_count {
            self.group(&mut fields)?;
        }
        fields.finish()?;
        if self.lengths.len() != usize::from(block_count) {
            return Err(self.refuse("groups do not add up to the blocks"));
        }
        if self.at != self.header.extent_bytes as usize {
            return Err(self.refuse("blocks do not fill the extent"));
        }
        Ok(ExtentDirectory {
            extent_no: self.header.extent_no,
            partition,
            groups: self.groups.into(),
            lengths: self.lengths.into(),
            steps: self.steps.into(),
            packs: self.packs.into(),
        })
    }

    fn group(&mut self, fields: &mut Fields<'_>) -> Result<(), LayerError> {
        let first_key = fields.key()?;
        let base_lsn = fields.lsn()?;
        let count = fields.u16()?;
        let form = fields.u8()?;
        let contents =
            BlockContents::from_code(fields.u8()?).ok_or(self.refuse("unknown contents"))?;
        fields.reserved(4)?;
        let packed = contents == BlockContents::Pack;
        if count == 0 || packed != (form == FORM_PACK) {
            return Err(self.refuse("impossible group"));
        }
        let at = u32::try_from(self.at).expect("inside an extent, checked by `block`");
        let first_block =
            u16::try_from(self.lengths.len()).map_err(|_| self.refuse("too many blocks"))?;
        let form = match form {
            FORM_RUN => self.run(fields, first_key, base_lsn, count)?,
            FORM_STEPS => self.steps(fields, first_key, base_lsn, count)?,
            FORM_PACK => self.pack(fields, first_key, base_lsn, count)?,
            _ => return Err(self.refuse("unknown form of group")),
        };
        self.groups.push(Group {
            first_key,
            base_lsn,
            at,
            first_block,
            count,
            contents,
            form,
        });
        Ok(())
    }

    fn run(
        &mut self,
        fields: &mut Fields<'_>,
        first_key: Key,
        lsn: Lsn,
        count: u16,
    ) -> Result<Form, LayerError> {
        let last_low = low(&first_key)
            .checked_add(u32::from(count) - 1)
            .ok_or(self.refuse("a run leaves its keys"))?;
        self.advance((first_key, lsn))?;
        for _ in 0..count {
            self.block(fields.u16()?)?;
        }
        self.last = Some((with_low(&first_key, last_low), lsn));
        Ok(Form::Run)
    }

    fn steps(
        &mut self,
        fields: &mut Fields<'_>,
        first_key: Key,
        base_lsn: Lsn,
        count: u16,
    ) -> Result<Form, LayerError> {
        let first = u32::try_from(self.steps.len()).expect("fewer than blocks");
        let mut key = low(&first_key);
        for nth in 0..count {
            self.block(fields.u16()?)?;
            let key_step = fields.u16()?;
            let lsn_offset = fields.u32()?;
            if nth == 0 && key_step != 0 {
                return Err(self.refuse("a group's first step is not zero"));
            }
            key = key
                .checked_add(u32::from(key_step))
                .ok_or(self.refuse("steps leave their keys"))?;
            let lsn = base_lsn
                .0
                .checked_add(u64::from(lsn_offset))
                .ok_or(self.refuse("an impossible LSN"))?;
            self.advance((with_low(&first_key, key), Lsn(lsn)))?;
            self.steps.push(Step {
                lsn_offset,
                key_step,
            });
        }
        Ok(Form::Steps(first))
    }

    fn pack(
        &mut self,
        fields: &mut Fields<'_>,
        first_key: Key,
        lowest_lsn: Lsn,
        count: u16,
    ) -> Result<Form, LayerError> {
        let nth = u32::try_from(self.packs.len()).expect("fewer than blocks");
        let bounds = PackBounds {
            last_key: fields.key()?,
            first_entry_lsn: fields.lsn()?,
            highest_lsn: fields.lsn()?,
        };
        self.block(fields.u16()?)?;
        fields.reserved(6)?;
        let lsns_ordered =
            lowest_lsn <= bounds.first_entry_lsn && bounds.first_entry_lsn <= bounds.highest_lsn;
        if count != 1 || bounds.last_key < first_key || !lsns_ordered {
            return Err(self.refuse("impossible pack"));
        }
        self.advance((first_key, bounds.first_entry_lsn))?;
        if bounds.last_key > first_key {
            // The LSN of its last entry is known inside only; any is above this.
            self.last = Some((bounds.last_key, Lsn(0)));
        }
        self.packs.push(bounds);
        Ok(Form::Pack(nth))
    }

    fn block(&mut self, sealed_bytes: u16) -> Result<(), LayerError> {
        let len = usize::from(sealed_bytes);
        if !(BLOCK_HEADER_BYTES + TAG_BYTES..=SEALED_BYTES_MAX).contains(&len) {
            return Err(self.refuse("impossible block length"));
        }
        self.at += aligned(len);
        if self.at > self.header.extent_bytes as usize {
            return Err(self.refuse("blocks do not fit the extent"));
        }
        self.lengths.push(sealed_bytes);
        Ok(())
    }

    fn advance(&mut self, here: (Key, Lsn)) -> Result<(), LayerError> {
        if self.last.is_some_and(|last| last >= here) {
            return Err(self.refuse("out of order"));
        }
        self.last = Some(here);
        Ok(())
    }

    fn refuse(&self, what: &'static str) -> LayerError {
        LayerError::malformed(self.part, what)
    }
}
