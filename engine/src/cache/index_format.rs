//! Cache index, version 1. Little-endian. Written and read only by this module; the only description of the format.
//!
//! A file of 4 KiB blocks: one header, then table blocks. Every start of the server writes a new file (a *generation*, see
//! `layout.rs`), so a block is only ever written by the core that it was given to in that generation.
//!
//! Header block:
//!
//! | at | bytes | field          | meaning                                                        |
//! |---:|------:|----------------|----------------------------------------------------------------|
//! |  0 |     8 | magic          | `HEADER_MAGIC`                                                  |
//! |  8 |     2 | version        | 1; a newer one is refused by name                               |
//! | 10 |     2 | reserved       | zero                                                            |
//! | 12 |     4 | slot_bytes     | bytes of a slot                                                 |
//! | 16 |     4 | slots_per_file | slots of each cache file; slot `n` is in file `n / slots_per_file` |
//! | 20 |     4 | slot_count     | slots of the cache when this was written; never more than 2^32 - 1 |
//! | 24 |     8 | generation     | grows by one with each start                                    |
//! | 32 |    16 | server         | id of the server instance that owns the cache                  |
//! | 48 |     4 | block_count    | table blocks that follow                                        |
//! | 52 |  4040 | reserved       | zero                                                            |
//! |4092 |    4 | checksum       | CRC-32C of bytes 0..4092                                        |
//!
//! Magic, version and checksum of the header are in these places in every version, so that a newer version is told from a
//! flipped bit: what is damaged is void, and never a reason not to start.
//!
//! Table block:
//!
//! | at | bytes | field      | meaning                                                        |
//! |---:|------:|------------|----------------------------------------------------------------|
//! |  0 |     8 | magic      | `BLOCK_MAGIC`; zeros mean the block was never written            |
//! |  8 |     2 | version    | 1                                                               |
//! | 10 |     2 | reserved   | zero                                                            |
//! | 12 |     4 | block      | its own number, from 0: a block written to another place is void |
//! | 16 |     8 | generation | as in the header: what an older file left here is void          |
//! | 24 |    36 | reserved   | zero                                                            |
//! | 60 |     4 | checksum   | CRC-32C of bytes 0..60 and 64..4096                             |
//! | 64 |  4032 | entries    | 63 entries of 64 bytes                                          |
//!
//! Entry; all zeros where there is none:
//!
//! | at | bytes | field        | meaning                                                      |
//! |---:|------:|--------------|--------------------------------------------------------------|
//! |  0 |     4 | slot         | number of the slot                                            |
//! |  4 |     4 | extent_bytes | bytes of the extent, 1..=`SLOT_BYTES`; zero: no entry         |
//! |  8 |     4 | crc32c       | over the extent's ciphertext, so that a scrubber needs no key |
//! | 12 |     4 | extent_no    | which extent of the object                                    |
//! | 16 |     2 | partition    | below 1,024                                                   |
//! | 18 |     1 | flags        | 1: in the main queue; 2: was hit since; others are zero       |
//! | 19 |     1 | reserved     | zero                                                          |
//! | 20 |     4 | epoch        | of the object                                                 |
//! | 24 |     8 | sequence     | of the object                                                 |
//! | 32 |    16 | tenant       |                                                               |
//! | 48 |    16 | branch       | of the object                                                 |
//!
//! Torn write: the checksum fails, the block counts as never written, its slots are free. An entry is written only after its
//! slot was written, and not made durable with it: after a power cut it may name a slot that holds something else. That is
//! harmless and so is any forgery, since the sealed blocks in the slot carry their identity: such an
//! extent does not open, counts as doubtful, and is fetched again. Nothing here is secret: ids are random.
//! Unknown flags or reserved bytes that are not zero void the entry.

use crate::types::{BranchId, Id, ObjectId, Partition, TenantId};

use super::config::SLOT_BYTES;
use super::extent_id::ExtentId;

/// Bytes of each block, the unit of writing.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Entries of a table block.
pub(super) const ENTRIES_PER_BLOCK: usize = 63;

const VERSION: u16 = 1;
const HEADER_MAGIC: [u8; 8] = *b"psCacheH";
const BLOCK_MAGIC: [u8; 8] = *b"psCacheB";

const VERSION_AT: usize = 8;
const RESERVED_AT: usize = VERSION_AT + 2;

const SLOT_BYTES_AT: usize = RESERVED_AT + 2;
const SLOTS_PER_FILE_AT: usize = SLOT_BYTES_AT + 4;
const SLOT_COUNT_AT: usize = SLOTS_PER_FILE_AT + 4;
const HEADER_GENERATION_AT: usize = SLOT_COUNT_AT + 4;
const SERVER_AT: usize = HEADER_GENERATION_AT + 8;
const BLOCK_COUNT_AT: usize = SERVER_AT + 16;
const HEADER_END: usize = BLOCK_COUNT_AT + 4;
const HEADER_CHECKSUM_AT: usize = BLOCK_BYTES - 4;

const BLOCK_NUMBER_AT: usize = RESERVED_AT + 2;
const BLOCK_GENERATION_AT: usize = BLOCK_NUMBER_AT + 4;
const BLOCK_FIELDS_END: usize = BLOCK_GENERATION_AT + 8;
const BLOCK_CHECKSUM_AT: usize = ENTRIES_AT - 4;
const ENTRIES_AT: usize = 64;

const ENTRY_SLOT_AT: usize = 0;
const ENTRY_EXTENT_BYTES_AT: usize = ENTRY_SLOT_AT + 4;
const ENTRY_CRC32C_AT: usize = ENTRY_EXTENT_BYTES_AT + 4;
const ENTRY_EXTENT_NO_AT: usize = ENTRY_CRC32C_AT + 4;
const ENTRY_PARTITION_AT: usize = ENTRY_EXTENT_NO_AT + 4;
const ENTRY_FLAGS_AT: usize = ENTRY_PARTITION_AT + 2;
const ENTRY_RESERVED_AT: usize = ENTRY_FLAGS_AT + 1;
const ENTRY_EPOCH_AT: usize = ENTRY_RESERVED_AT + 1;
const ENTRY_SEQUENCE_AT: usize = ENTRY_EPOCH_AT + 4;
const ENTRY_TENANT_AT: usize = ENTRY_SEQUENCE_AT + 8;
const ENTRY_BRANCH_AT: usize = ENTRY_TENANT_AT + 16;
const ENTRY_BYTES: usize = ENTRY_BRANCH_AT + 16;

const FLAG_MAIN: u8 = 1;
const FLAG_HIT: u8 = 2;

const _: () = assert!(ENTRY_BYTES == 64 && HEADER_END == 52 && BLOCK_FIELDS_END == 24);
const _: () = assert!(ENTRIES_AT + ENTRIES_PER_BLOCK * ENTRY_BYTES == BLOCK_BYTES);

/// The first block of an index file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) slots_per_file: u32,
    pub(super) slot_count: u32,
    pub(super) generation: u64,
    pub(super) server: Id,
    pub(super) block_count: u32,
}

/// What stands at the start of an index file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderRead {
    /// A header of this version.
    Known(Header),
    /// A file of a newer version.
    Newer(u16),
    /// No index, or a damaged one.
    Void,
}

/// One filled slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) slot: u32,
    pub(super) id: ExtentId,
    pub(super) partition: Partition,
    pub(super) extent_bytes: u32,
    pub(super) crc32c: u32,
    /// In the main queue, not on probation.
    pub(super) main: bool,
    /// Hit since it was queued.
    pub(super) hit: bool,
}

impl Header {
    pub(super) fn write(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "a header is one block");
        let slot_bytes = u32::try_from(SLOT_BYTES).expect("a slot is 256 KiB");
        block.fill(0);
        put(block, 0, HEADER_MAGIC);
        put(block, VERSION_AT, VERSION.to_le_bytes());
        put(block, SLOT_BYTES_AT, slot_bytes.to_le_bytes());
        put(block, SLOTS_PER_FILE_AT, self.slots_per_file.to_le_bytes());
        put(block, SLOT_COUNT_AT, self.slot_count.to_le_bytes());
        put(block, HEADER_GENERATION_AT, self.generation.to_le_bytes());
        put(block, SERVER_AT, self.server.0);
        put(block, BLOCK_COUNT_AT, self.block_count.to_le_bytes());
        let checksum = crc32c::crc32c(&block[..HEADER_CHECKSUM_AT]);
        put(block, HEADER_CHECKSUM_AT, checksum.to_le_bytes());
    }

    pub(super) fn read(block: &[u8]) -> HeaderRead {
        assert_eq!(block.len(), BLOCK_BYTES, "a header is one block");
        if block[..8] != HEADER_MAGIC {
            return HeaderRead::Void;
        }
        let checksum = crc32c::crc32c(&block[..HEADER_CHECKSUM_AT]);
        if checksum.to_le_bytes() != get(block, HEADER_CHECKSUM_AT) {
            return HeaderRead::Void;
        }
        let version = u16::from_le_bytes(get(block, VERSION_AT));
        if version > VERSION {
            return HeaderRead::Newer(version);
        }
        let reserved_clear = all_zero(&block[RESERVED_AT..SLOT_BYTES_AT])
            && all_zero(&block[HEADER_END..HEADER_CHECKSUM_AT]);
        let slot_bytes = u32::from_le_bytes(get(block, SLOT_BYTES_AT));
        if version != VERSION || !reserved_clear || u64::from(slot_bytes) != SLOT_BYTES {
            return HeaderRead::Void;
        }
        HeaderRead::Known(Header {
            slots_per_file: u32::from_le_bytes(get(block, SLOTS_PER_FILE_AT)),
            slot_count: u32::from_le_bytes(get(block, SLOT_COUNT_AT)),
            generation: u64::from_le_bytes(get(block, HEADER_GENERATION_AT)),
            server: Id(get(block, SERVER_AT)),
            block_count: u32::from_le_bytes(get(block, BLOCK_COUNT_AT)),
        })
    }
}

/// Writes table block `number` of `generation` with these entries at their positions.
pub(super) fn write_block(
    block: &mut [u8],
    number: u32,
    generation: u64,
    entries: impl Iterator<Item = Option<Entry>>,
) {
    assert_eq!(block.len(), BLOCK_BYTES, "a table block is one block");
    block.fill(0);
    put(block, 0, BLOCK_MAGIC);
    put(block, VERSION_AT, VERSION.to_le_bytes());
    put(block, BLOCK_NUMBER_AT, number.to_le_bytes());
    put(block, BLOCK_GENERATION_AT, generation.to_le_bytes());
    let mut places = block[ENTRIES_AT..].chunks_exact_mut(ENTRY_BYTES);
    for entry in entries {
        let place = places.next().expect("at most 63 entries per block");
        if let Some(entry) = entry {
            entry.write(place);
        }
    }
    let checksum = block_checksum(block);
    put(block, BLOCK_CHECKSUM_AT, checksum.to_le_bytes());
}

/// The entries of table block `number`; `None` if it was written and does not hold together (torn, misplaced).
pub(super) fn read_block(
    block: &[u8],
    number: u32,
    generation: u64,
) -> Option<impl Iterator<Item = Entry>> {
    assert_eq!(block.len(), BLOCK_BYTES, "a table block is one block");
    let whole = block[..8] == BLOCK_MAGIC
        && u16::from_le_bytes(get(block, VERSION_AT)) == VERSION
        && all_zero(&block[RESERVED_AT..BLOCK_NUMBER_AT])
        && all_zero(&block[BLOCK_FIELDS_END..BLOCK_CHECKSUM_AT])
        && u32::from_le_bytes(get(block, BLOCK_NUMBER_AT)) == number
        && u64::from_le_bytes(get(block, BLOCK_GENERATION_AT)) == generation
        && block_checksum(block).to_le_bytes() == get(block, BLOCK_CHECKSUM_AT);
    if !whole && !all_zero(block) {
        return None;
    }
    let entries = block[ENTRIES_AT..].chunks_exact(ENTRY_BYTES);
    Some(entries.filter_map(Entry::read))
}

impl Entry {
    fn write(&self, place: &mut [u8]) {
        assert!(
            (1..=SLOT_BYTES).contains(&u64::from(self.extent_bytes)),
            "an extent fits its slot"
        );
        let flags = if self.main { FLAG_MAIN } else { 0 } | if self.hit { FLAG_HIT } else { 0 };
        put(place, ENTRY_SLOT_AT, self.slot.to_le_bytes());
        put(
            place,
            ENTRY_EXTENT_BYTES_AT,
            self.extent_bytes.to_le_bytes(),
        );
        put(place, ENTRY_CRC32C_AT, self.crc32c.to_le_bytes());
        put(place, ENTRY_EXTENT_NO_AT, self.id.extent_no.to_le_bytes());
        put(
            place,
            ENTRY_PARTITION_AT,
            self.partition.number().to_le_bytes(),
        );
        put(place, ENTRY_FLAGS_AT, [flags]);
        put(place, ENTRY_EPOCH_AT, self.id.object.epoch.to_le_bytes());
        put(
            place,
            ENTRY_SEQUENCE_AT,
            self.id.object.sequence.to_le_bytes(),
        );
        put(place, ENTRY_TENANT_AT, self.id.tenant.0.0);
        put(place, ENTRY_BRANCH_AT, self.id.object.branch.0.0);
    }

    /// The entry at `place`, or `None` if there is none or it makes no sense.
    fn read(place: &[u8]) -> Option<Entry> {
        let extent_bytes = u32::from_le_bytes(get(place, ENTRY_EXTENT_BYTES_AT));
        let flags = place[ENTRY_FLAGS_AT];
        let partition = u16::from_le_bytes(get(place, ENTRY_PARTITION_AT));
        if !(1..=SLOT_BYTES).contains(&u64::from(extent_bytes))
            || flags & !(FLAG_MAIN | FLAG_HIT) != 0
            || place[ENTRY_RESERVED_AT] != 0
        {
            return None;
        }
        Some(Entry {
            slot: u32::from_le_bytes(get(place, ENTRY_SLOT_AT)),
            id: ExtentId {
                tenant: TenantId(Id(get(place, ENTRY_TENANT_AT))),
                object: ObjectId {
                    branch: BranchId(Id(get(place, ENTRY_BRANCH_AT))),
                    epoch: u32::from_le_bytes(get(place, ENTRY_EPOCH_AT)),
                    sequence: u64::from_le_bytes(get(place, ENTRY_SEQUENCE_AT)),
                },
                extent_no: u32::from_le_bytes(get(place, ENTRY_EXTENT_NO_AT)),
            },
            partition: Partition::new(partition)?,
            extent_bytes,
            crc32c: u32::from_le_bytes(get(place, ENTRY_CRC32C_AT)),
            main: flags & FLAG_MAIN != 0,
            hit: flags & FLAG_HIT != 0,
        })
    }
}

fn block_checksum(block: &[u8]) -> u32 {
    let fields = crc32c::crc32c(&block[..BLOCK_CHECKSUM_AT]);
    crc32c::crc32c_append(fields, &block[ENTRIES_AT..])
}

fn put<const N: usize>(block: &mut [u8], at: usize, bytes: [u8; N]) {
    block[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}

/// For fuzzing: a header block and a table block, their checksums set right; a header is what is written for what it says,
/// and entries keep within the limits.
pub fn fuzz_index(bytes: &[u8]) {
    let (Some(header), Some(table)) = (
        bytes.get(..BLOCK_BYTES),
        bytes.get(BLOCK_BYTES..2 * BLOCK_BYTES),
    ) else {
        return;
    };
    let mut header = header.to_vec();
    let checksum = crc32c::crc32c(&header[..HEADER_CHECKSUM_AT]);
    put(&mut header, HEADER_CHECKSUM_AT, checksum.to_le_bytes());
    if let HeaderRead::Known(known) = Header::read(&header) {
        let mut again = vec![0; BLOCK_BYTES];
        known.write(&mut again);
        assert!(again == header, "{known:?}");
    }
    let mut table = table.to_vec();
    let checksum = block_checksum(&table);
    put(&mut table, BLOCK_CHECKSUM_AT, checksum.to_le_bytes());
    let number = u32::from_le_bytes(get(&table, BLOCK_NUMBER_AT));
    let generation = u64::from_le_bytes(get(&table, BLOCK_GENERATION_AT));
    if let Some(entries) = read_block(&table, number, generation) {
        let entries: Vec<Option<Entry>> = entries.map(Some).collect();
        let mut again = vec![0; BLOCK_BYTES];
        write_block(&mut again, number, generation, entries.iter().copied());
        let read = read_block(&again, number, generation).expect("just written");
        assert!(
            read.map(Some).eq(entries),
            "entries change when they are written"
        );
    }
}

#[cfg(test)]
mod tests;
