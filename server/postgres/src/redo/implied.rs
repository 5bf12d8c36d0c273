//! Changes that a record implies for pages that are not among its blocks: visibility maps, SLRUs, what a truncation
//! leaves of the maps, pages of zeros. They ignore page LSNs and leave them as they are; each can be applied twice.
//!
//! Stored bytes, behind version and form (see [`delta`](super::delta)); lists go on to the end:
//!
//! | form | what | bytes |
//! |-----:|------|-------|
//! | 1 | a page of zeros | none |
//! | 2 | bits of a visibility map cleared | one or two of: byte of the map (2), mask of the bits (1) |
//! | 3 | visibility map cut off | byte of the map (2), mask of what stays of it (1); all behind it becomes zeros |
//! | 4 | free space map cut off | leaves that stay (2) |
//! | 5 | status of transactions | status (1), list of positions on the page (2 each) |
//! | 6 | offsets of multixacts | list of position (2) and offset (4) |
//! | 7 | members of multixacts | position of the first (2), list of status (1) and transaction id (4) |
//! | 8 | commit timestamps | time (8), replication origin (2), list of positions (2 each) |

use engine::types::PAGE_BYTES;

use super::delta::DeltaError;
use crate::bytes_at::Unread;
use crate::key::{Fork, PostgresKey, Slru};
use crate::page::PAGE_HEADER_BYTES;

/// A change of a page that is not among its record's blocks. Lists are packed as they are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Implied<'a> {
    /// The page becomes zeros.
    Zero,
    /// Bits of a visibility map page are cleared: of one heap block, or of the two that an update touches.
    VisibilityClear(MapBits, Option<MapBits>),
    /// A visibility map page forgets the blocks behind a truncation.
    VisibilityTruncate {
        /// The first byte that changes, below [`MAP_BYTES`].
        byte: u16,
        /// The bits of it that stay.
        keep: u8,
    },
    /// A free space map page forgets the blocks behind a truncation.
    FreeSpaceTruncate {
        /// How many leaves stay, below [`FSM_LEAVES`].
        leaves: u16,
    },
    /// Transactions get a status.
    TransactionStatus {
        /// The two bits.
        status: u8,
        /// Positions on the page, two bytes each.
        positions: &'a [u8],
    },
    /// Multixacts get the offset of their first member.
    MultixactOffsets {
        /// Position on the page (two bytes) and offset (four), for each.
        entries: &'a [u8],
    },
    /// Members of multixacts.
    MultixactMembers {
        /// Position of the first on the page.
        first: u16,
        /// Status (one byte) and transaction id (four), for each.
        members: &'a [u8],
    },
    /// Transactions get the time of their commit.
    CommitTimestamps {
        /// Microseconds since 2000, as Postgres stores it.
        time: u64,
        /// Replication origin.
        origin: u16,
        /// Positions on the page, two bytes each.
        positions: &'a [u8],
    },
}

/// Bits of one byte of a visibility map page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapBits {
    /// Which byte of the map, below [`MAP_BYTES`].
    pub byte: u16,
    /// Which of its bits.
    pub mask: u8,
}

/// Bytes of the map on a visibility map page.
pub const MAP_BYTES: usize = PAGE_BYTES - PAGE_HEADER_BYTES;

/// Transactions whose status is on one page.
pub const CLOG_TRANSACTIONS_PER_PAGE: u32 = 32_768;

/// Multixacts whose offsets are on one page.
pub const MULTIXACT_OFFSETS_PER_PAGE: u32 = 2048;

/// Members of multixacts on one page: groups of four, each four bytes of status and four transaction ids.
pub const MULTIXACT_MEMBERS_PER_PAGE: u32 = 1636;

/// Transactions whose commit timestamps are on one page.
pub const COMMIT_TIMESTAMPS_PER_PAGE: u32 = 819;

/// Nodes of the tree on a free space map page, behind the slot where the next search begins.
const FSM_NODES: usize = PAGE_BYTES - FSM_NODES_AT;
const FSM_NODES_AT: usize = PAGE_HEADER_BYTES + 4;
const FSM_INNER_NODES: usize = PAGE_BYTES / 2 - 1;

/// Leaves on a free space map page: heap blocks it knows.
pub const FSM_LEAVES: usize = FSM_NODES - FSM_INNER_NODES;

impl<'a> Implied<'a> {
    /// Changes the page.
    pub(super) fn apply(&self, page: &mut [u8; PAGE_BYTES]) {
        match *self {
            Implied::Zero => page.fill(0),
            Implied::VisibilityClear(first, second) => {
                for bits in [Some(first), second].into_iter().flatten() {
                    page[PAGE_HEADER_BYTES + usize::from(bits.byte)] &= !bits.mask;
                }
            }
            Implied::VisibilityTruncate { byte, keep } => {
                let at = PAGE_HEADER_BYTES + usize::from(byte);
                page[at] &= keep;
                page[at + 1..].fill(0);
            }
            Implied::FreeSpaceTruncate { leaves } => truncate_free_space(page, leaves),
            Implied::TransactionStatus { status, positions } => {
                for position in pairs(positions) {
                    let shift = position % 4 * 2;
                    let byte = &mut page[usize::from(position / 4)];
                    *byte = *byte & !(3 << shift) | (status & 3) << shift;
                }
            }
            Implied::MultixactOffsets { entries } => {
                for entry in entries.chunks_exact(OFFSET_ENTRY_BYTES) {
                    let at = usize::from(pair(entry)) * 4;
                    page[at..at + 4].copy_from_slice(&entry[2..]);
                }
            }
            Implied::MultixactMembers { first, members } => {
                let positions = usize::from(first)..;
                for (position, member) in positions.zip(members.chunks_exact(MEMBER_BYTES)) {
                    let group = position / 4 * MEMBER_GROUP_BYTES;
                    let (status, xid) = (group + position % 4, group + 4 + position % 4 * 4);
                    page[status] = member[0];
                    page[xid..xid + 4].copy_from_slice(&member[1..]);
                }
            }
            Implied::CommitTimestamps {
                time,
                origin,
                positions,
            } => {
                for position in pairs(positions) {
                    let at = usize::from(position) * TIMESTAMP_BYTES;
                    page[at..at + 8].copy_from_slice(&time.to_le_bytes());
                    page[at + 8..at + 10].copy_from_slice(&origin.to_le_bytes());
                }
            }
        }
    }

    /// Whether pages of `key` have such changes.
    pub(super) fn is_for(&self, key: PostgresKey) -> bool {
        match (self, key) {
            (Implied::Zero, PostgresKey::Block { .. } | PostgresKey::SlruPage { .. }) => true,
            (
                Implied::VisibilityClear(..) | Implied::VisibilityTruncate { .. },
                PostgresKey::Block { fork, .. },
            ) => fork == Fork::VisibilityMap,
            (Implied::FreeSpaceTruncate { .. }, PostgresKey::Block { fork, .. }) => {
                fork == Fork::FreeSpaceMap
            }
            (Implied::TransactionStatus { .. }, PostgresKey::SlruPage { slru, .. }) => {
                slru == Slru::Clog
            }
            (Implied::MultixactOffsets { .. }, PostgresKey::SlruPage { slru, .. }) => {
                slru == Slru::MultixactOffsets
            }
            (Implied::MultixactMembers { .. }, PostgresKey::SlruPage { slru, .. }) => {
                slru == Slru::MultixactMembers
            }
            (Implied::CommitTimestamps { .. }, PostgresKey::SlruPage { slru, .. }) => {
                slru == Slru::CommitTimestamps
            }
            _ => false,
        }
    }

    /// Form and fields.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Implied::Zero => out.push(FORM_ZERO),
            Implied::VisibilityClear(first, second) => {
                out.push(FORM_VISIBILITY_CLEAR);
                for bits in [Some(first), second].into_iter().flatten() {
                    out.extend(bits.byte.to_le_bytes());
                    out.push(bits.mask);
                }
            }
            Implied::VisibilityTruncate { byte, keep } => {
                out.push(FORM_VISIBILITY_TRUNCATE);
                out.extend(byte.to_le_bytes());
                out.push(keep);
            }
            Implied::FreeSpaceTruncate { leaves } => {
                out.push(FORM_FREE_SPACE_TRUNCATE);
                out.extend(leaves.to_le_bytes());
            }
            Implied::TransactionStatus { status, positions } => {
                out.extend([FORM_TRANSACTION_STATUS, status]);
                out.extend(positions);
            }
            Implied::MultixactOffsets { entries } => {
                out.push(FORM_MULTIXACT_OFFSETS);
                out.extend(entries);
            }
            Implied::MultixactMembers { first, members } => {
                out.push(FORM_MULTIXACT_MEMBERS);
                out.extend(first.to_le_bytes());
                out.extend(members);
            }
            Implied::CommitTimestamps {
                time,
                origin,
                positions,
            } => {
                out.push(FORM_COMMIT_TIMESTAMPS);
                out.extend(time.to_le_bytes());
                out.extend(origin.to_le_bytes());
                out.extend(positions);
            }
        }
    }

    /// The fields of `form` in `bytes`, every position checked to be on the page.
    pub(super) fn decode(
        form: u8,
        bytes: &'a [u8],
        malformed: DeltaError,
    ) -> Result<Implied<'a>, DeltaError> {
        if !(FORM_ZERO..=FORM_COMMIT_TIMESTAMPS).contains(&form) {
            return Err(DeltaError::Form(form));
        }
        Self::fields(form, Unread(bytes)).ok_or(malformed)
    }

    fn fields(form: u8, mut reader: Unread<'a>) -> Option<Implied<'a>> {
        let in_map = |byte: &u16| usize::from(*byte) < MAP_BYTES;
        let implied = match form {
            FORM_ZERO => Implied::Zero,
            FORM_VISIBILITY_CLEAR => {
                let bits = |reader: &mut Unread<'_>| {
                    Some(MapBits {
                        byte: reader.u16().filter(in_map)?,
                        mask: reader.u8()?,
                    })
                };
                let first = bits(&mut reader)?;
                let second = if reader.0.is_empty() {
                    None
                } else {
                    Some(bits(&mut reader)?)
                };
                Implied::VisibilityClear(first, second)
            }
            FORM_VISIBILITY_TRUNCATE => Implied::VisibilityTruncate {
                byte: reader.u16().filter(in_map)?,
                keep: reader.u8()?,
            },
            FORM_FREE_SPACE_TRUNCATE => Implied::FreeSpaceTruncate {
                leaves: reader.u16().filter(|n| usize::from(*n) < FSM_LEAVES)?,
            },
            FORM_TRANSACTION_STATUS => Implied::TransactionStatus {
                status: reader.u8().filter(|status| *status <= 3)?,
                positions: positions(&mut reader, CLOG_TRANSACTIONS_PER_PAGE)?,
            },
            FORM_MULTIXACT_OFFSETS => {
                let entries = std::mem::take(&mut reader.0);
                let mut each = entries.chunks_exact(OFFSET_ENTRY_BYTES);
                let good = each.all(|entry| u32::from(pair(entry)) < MULTIXACT_OFFSETS_PER_PAGE);
                if !good || !entries.len().is_multiple_of(OFFSET_ENTRY_BYTES) {
                    return None;
                }
                Implied::MultixactOffsets { entries }
            }
            FORM_MULTIXACT_MEMBERS => {
                let first = reader.u16()?;
                let members = std::mem::take(&mut reader.0);
                let end = usize::from(first) + members.len() / MEMBER_BYTES;
                if !members.len().is_multiple_of(MEMBER_BYTES) || end > MEMBERS_PER_PAGE {
                    return None;
                }
                Implied::MultixactMembers { first, members }
            }
            FORM_COMMIT_TIMESTAMPS => Implied::CommitTimestamps {
                time: reader.u64()?,
                origin: reader.u16()?,
                positions: positions(&mut reader, COMMIT_TIMESTAMPS_PER_PAGE)?,
            },
            _ => return None,
        };
        reader.0.is_empty().then_some(implied)
    }
}

/// The rest, as positions below `limit`.
fn positions<'a>(reader: &mut Unread<'a>, limit: u32) -> Option<&'a [u8]> {
    let list = std::mem::take(&mut reader.0);
    let good = list.len().is_multiple_of(2) && pairs(list).all(|at| u32::from(at) < limit);
    good.then_some(list)
}

/// The first two bytes.
fn pair(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(pair)
}

/// Leaves from `leaves` on become 0, and every inner node the larger of its two children again.
fn truncate_free_space(page: &mut [u8; PAGE_BYTES], leaves: u16) {
    let nodes = &mut page[FSM_NODES_AT..];
    nodes[FSM_INNER_NODES + usize::from(leaves)..].fill(0);
    for node in (0..FSM_INNER_NODES).rev() {
        let child = |at: usize| nodes.get(at).copied().unwrap_or(0);
        nodes[node] = child(2 * node + 1).max(child(2 * node + 2));
    }
}

pub(super) const FORM_ZERO: u8 = 1;
const FORM_VISIBILITY_CLEAR: u8 = 2;
const FORM_VISIBILITY_TRUNCATE: u8 = 3;
const FORM_FREE_SPACE_TRUNCATE: u8 = 4;
const FORM_TRANSACTION_STATUS: u8 = 5;
const FORM_MULTIXACT_OFFSETS: u8 = 6;
const FORM_MULTIXACT_MEMBERS: u8 = 7;
const FORM_COMMIT_TIMESTAMPS: u8 = 8;

const OFFSET_ENTRY_BYTES: usize = 6;
const MEMBER_BYTES: usize = 5;
const MEMBER_GROUP_BYTES: usize = 20;
const MEMBERS_PER_PAGE: usize = MULTIXACT_MEMBERS_PER_PAGE as usize;
const TIMESTAMP_BYTES: usize = 10;
const _: () = assert!(MEMBERS_PER_PAGE == PAGE_BYTES / MEMBER_GROUP_BYTES * 4);
const _: () = assert!(COMMIT_TIMESTAMPS_PER_PAGE as usize == PAGE_BYTES / TIMESTAMP_BYTES);
