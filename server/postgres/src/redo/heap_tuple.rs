//! A heap tuple's header on a page, and what locks, updates and freezing do to it.
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     4 | xmin |
//! |  4 |     4 | xmax |
//! |  8 |     4 | command id (redo always sets 0), or the xid of an ancient vacuum |
//! | 12 |     6 | ctid: upper and lower half of the block number, line pointer |
//! | 18 |     2 | infomask2: number of columns and flags |
//! | 20 |     2 | infomask: flags |
//! | 22 |     1 | where the columns start |

use super::RedoError;
use super::fields::Fields;
use crate::page::{ItemState, PageError, PageMut, Place};

/// Bytes of the header, without the bitmap of nulls.
pub(super) const TUPLE_HEADER_BYTES: usize = 23;

/// The header of a tuple on a page.
pub(super) struct TupleMut<'p> {
    bytes: &'p mut [u8; TUPLE_HEADER_BYTES],
}

/// The three header fields that a record carries for a new tuple; the others follow from the record.
#[derive(Clone, Copy)]
pub(super) struct LoggedHeader {
    infomask2: u16,
    infomask: u16,
    columns_at: u8,
}

impl LoggedHeader {
    /// Its five bytes.
    pub(super) fn read(fields: &mut Fields<'_>) -> Result<LoggedHeader, RedoError> {
        Ok(LoggedHeader {
            infomask2: fields.u16()?,
            infomask: fields.u16()?,
            columns_at: fields.u8()?,
        })
    }

    /// Bytes of the bitmap of nulls and the padding behind it.
    /// # Errors
    /// The columns would begin inside the header.
    pub(super) fn bitmap_bytes(self) -> Result<usize, RedoError> {
        usize::from(self.columns_at)
            .checked_sub(TUPLE_HEADER_BYTES)
            .ok_or(RedoError::Record {
                what: "start of the columns",
                value: self.columns_at.into(),
            })
    }
}

/// Adds a tuple of `body_bytes` behind the header at line pointer `offset` of the page of `block`, and answers its
/// body, for the caller to fill.
/// # Errors
/// No space for it, or the line pointer is taken or out of order.
pub(super) fn add_tuple<'p>(
    page: &'p mut PageMut<'_>,
    (block, offset): (u32, u16),
    (xmin, xmax): (u32, u32),
    header: LoggedHeader,
    body_bytes: usize,
) -> Result<&'p mut [u8], RedoError> {
    let bytes = TUPLE_HEADER_BYTES + body_bytes;
    let (_, item) = page.reserve_heap_item(bytes, Place::Unused(offset))?;
    let (head, body) = item
        .split_first_chunk_mut::<TUPLE_HEADER_BYTES>()
        .expect("as many and more were reserved");
    let mut tuple = TupleMut { bytes: head };
    tuple.set_xmin(xmin);
    tuple.set_xmax(xmax);
    tuple.bytes[CID_AT..CTID_AT].fill(0);
    tuple.set_ctid(block, offset);
    tuple.set_infomask2(header.infomask2);
    tuple.set_infomask(header.infomask & !HEAP_COMBOCID);
    tuple.bytes[COLUMNS_AT] = header.columns_at;
    Ok(body)
}

impl<'p> TupleMut<'p> {
    /// The tuple that line pointer `offset` of a heap page points to.
    /// # Errors
    /// It points to none.
    pub(super) fn at(page: &'p mut PageMut<'_>, offset: u16) -> Result<TupleMut<'p>, RedoError> {
        let id = page.item_id(offset)?;
        let no_tuple = PageError::NoTuple {
            offset,
            at: id.at(),
            length: id.length(),
        };
        if id.state() != ItemState::Normal {
            return Err(no_tuple.into());
        }
        match page.item_mut(offset)?.first_chunk_mut() {
            Some(bytes) => Ok(TupleMut { bytes }),
            None => Err(no_tuple.into()),
        }
    }

    /// Where the columns start.
    pub(super) fn columns_at(&self) -> usize {
        usize::from(self.bytes[COLUMNS_AT])
    }

    pub(super) fn set_xmin(&mut self, xid: u32) {
        self.bytes[XMIN_AT..XMAX_AT].copy_from_slice(&xid.to_le_bytes());
    }

    pub(super) fn set_xmax(&mut self, xid: u32) {
        self.bytes[XMAX_AT..CID_AT].copy_from_slice(&xid.to_le_bytes());
    }

    /// Command id 0, not a combination of two.
    pub(super) fn reset_command_id(&mut self) {
        self.bytes[CID_AT..CTID_AT].fill(0);
        self.set_infomask(self.infomask() & !HEAP_COMBOCID);
    }

    pub(super) fn set_ctid(&mut self, block: u32, offset: u16) {
        let [b0, b1, b2, b3] = block.to_le_bytes();
        let [o0, o1] = offset.to_le_bytes();
        self.bytes[CTID_AT..INFOMASK2_AT].copy_from_slice(&[b2, b3, b0, b1, o0, o1]);
    }

    /// The ctid of a row that went to another partition.
    pub(super) fn set_moved_to_another_partition(&mut self) {
        self.set_ctid(u32::MAX, MOVED_PARTITIONS_OFFSET);
    }

    /// Forgets who locked or updated the tuple, and takes `infobits` (as records have them) instead.
    pub(super) fn replace_xmax_bits(&mut self, infobits: u8) {
        let mut infomask = self.infomask() & !(HEAP_XMAX_BITS | HEAP_MOVED);
        for (logged, bit) in INFOBITS {
            if infobits & logged != 0 {
                infomask |= bit;
            }
        }
        self.set_infomask(infomask);
        let mut infomask2 = self.infomask2() & !HEAP_KEYS_UPDATED;
        if infobits & XLHL_KEYS_UPDATED != 0 {
            infomask2 |= HEAP_KEYS_UPDATED;
        }
        self.set_infomask2(infomask2);
    }

    /// Whether its next version is on the same page, without index entries of its own.
    pub(super) fn set_hot_updated(&mut self, hot: bool) {
        let others = self.infomask2() & !HEAP_HOT_UPDATED;
        self.set_infomask2(if hot {
            others | HEAP_HOT_UPDATED
        } else {
            others
        });
    }

    /// Whether xmax, if it is one, only locks.
    pub(super) fn is_only_locked(&self) -> bool {
        let infomask = self.infomask();
        infomask & HEAP_XMAX_LOCK_ONLY != 0
            || infomask & (HEAP_XMAX_IS_MULTI | HEAP_XMAX_EXCL_LOCK | HEAP_XMAX_KEYSHR_LOCK)
                == HEAP_XMAX_EXCL_LOCK
    }

    /// Makes it as old as a freeze plan says.
    pub(super) fn freeze(&mut self, plan: &FreezePlan) {
        self.set_xmax(plan.xmax);
        if plan.flags & (FREEZE_XVAC | INVALID_XVAC) != 0 {
            let xvac = if plan.flags & INVALID_XVAC != 0 {
                0
            } else {
                FROZEN_XID
            };
            self.bytes[CID_AT..CTID_AT].copy_from_slice(&xvac.to_le_bytes());
        }
        self.set_infomask(plan.infomask);
        self.set_infomask2(plan.infomask2);
    }

    fn infomask(&self) -> u16 {
        self.u16_at(INFOMASK_AT)
    }

    fn set_infomask(&mut self, value: u16) {
        self.bytes[INFOMASK_AT..COLUMNS_AT].copy_from_slice(&value.to_le_bytes());
    }

    fn infomask2(&self) -> u16 {
        self.u16_at(INFOMASK2_AT)
    }

    fn set_infomask2(&mut self, value: u16) {
        self.bytes[INFOMASK2_AT..INFOMASK_AT].copy_from_slice(&value.to_le_bytes());
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}

/// How to freeze a tuple, or several alike.
pub(super) struct FreezePlan {
    pub(super) xmax: u32,
    pub(super) infomask2: u16,
    pub(super) infomask: u16,
    pub(super) flags: u8,
}

/// Marks the page as one that pruning may shorten once `xid` is over.
pub(super) fn set_prunable(page: &mut PageMut<'_>, xid: u32) {
    let before = page.prune_xid();
    if before == 0 || precedes(xid, before) {
        page.set_prune_xid(xid);
    }
}

/// Whether transaction `a` is older than `b`, on the circle of ids; special ids are older than all others.
fn precedes(a: u32, b: u32) -> bool {
    if a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID {
        a < b
    } else {
        a.wrapping_sub(b) > u32::MAX / 2
    }
}

const XMIN_AT: usize = 0;
const XMAX_AT: usize = 4;
const CID_AT: usize = 8;
const CTID_AT: usize = 12;
const INFOMASK2_AT: usize = 18;
const INFOMASK_AT: usize = 20;
const COLUMNS_AT: usize = 22;
const _: () = assert!(COLUMNS_AT + 1 == TUPLE_HEADER_BYTES);

const HEAP_XMAX_KEYSHR_LOCK: u16 = 0x0010;
const HEAP_COMBOCID: u16 = 0x0020;
const HEAP_XMAX_EXCL_LOCK: u16 = 0x0040;
const HEAP_XMAX_LOCK_ONLY: u16 = 0x0080;
const HEAP_XMAX_COMMITTED: u16 = 0x0400;
const HEAP_XMAX_INVALID: u16 = 0x0800;
const HEAP_XMAX_IS_MULTI: u16 = 0x1000;
const HEAP_MOVED: u16 = 0xc000;
const HEAP_XMAX_BITS: u16 = HEAP_XMAX_COMMITTED
    | HEAP_XMAX_INVALID
    | HEAP_XMAX_IS_MULTI
    | HEAP_XMAX_KEYSHR_LOCK
    | HEAP_XMAX_EXCL_LOCK
    | HEAP_XMAX_LOCK_ONLY;

const HEAP_KEYS_UPDATED: u16 = 0x2000;
const HEAP_HOT_UPDATED: u16 = 0x4000;

/// Bits of records, and the bits of infomask they stand for.
const INFOBITS: [(u8, u16); 4] = [
    (0x01, HEAP_XMAX_IS_MULTI),
    (0x02, HEAP_XMAX_LOCK_ONLY),
    (0x04, HEAP_XMAX_EXCL_LOCK),
    (0x08, HEAP_XMAX_KEYSHR_LOCK),
];
/// The same of infomask2.
const XLHL_KEYS_UPDATED: u8 = 0x10;

const FREEZE_XVAC: u8 = 0x02;
const INVALID_XVAC: u8 = 0x04;
const FROZEN_XID: u32 = 2;
const FIRST_NORMAL_XID: u32 = 3;
const MOVED_PARTITIONS_OFFSET: u16 = 0xfffd;
