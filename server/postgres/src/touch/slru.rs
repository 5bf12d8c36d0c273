//! SLRUs: commit status, multixacts, commit timestamps. Their pages have no header and no LSN; each record changes
//! entries that it names, so its changes can be applied to any version of the page below it.
//!
//! Page numbers have 4 bytes in 15 and 16, 8 from 17 on.
//!
//! - commit status: 0x00 new page: page; 0x10 cut off: page, oldest transaction (4), its database (4)
//! - multixacts: 0x00 new page of offsets, 0x10 of members: page; 0x20 new: multixact (4), offset (4), count (4), members
//!   (transaction 4, status 4 each); 0x30 cut off: database (4), offsets from and to (4 each), members from and to
//! - commit timestamps: 0x00 new page: page; 0x10 cut off: page, oldest transaction (4)
//!
//! A new multixact also writes the offset of the next one, which newer minor versions do and older ones leave to the
//! record of that one: the page is the same once it exists.

use std::collections::BTreeMap;

use super::{ClusterState, Out, put, put_delta, remove};
use crate::key::{PostgresKey, Slru};
use crate::redo::{
    CLOG_TRANSACTIONS_PER_PAGE, COMMIT_TIMESTAMPS_PER_PAGE, Delta, Fields, Implied,
    MULTIXACT_MEMBERS_PER_PAGE, MULTIXACT_OFFSETS_PER_PAGE, RedoError,
};
use crate::value::SlruSegment;
use crate::wal::{Record, WalVersion};

/// Which segments there are, and how many pages each has.
#[derive(Debug, Default)]
pub(super) struct Slrus {
    pages: BTreeMap<(Slru, u64), u32>,
    /// Segments that got longer with the record.
    longer: Vec<(Slru, u64)>,
    /// The newest page of offsets of multixacts.
    newest_offsets_page: u64,
    /// A page of offsets that was made before its own record: that record makes it no more.
    made_offsets_page: Option<u64>,
    /// Page and position of the entries of one record.
    entries: Vec<(u64, u16)>,
    packed: Vec<u8>,
}

impl Slrus {
    /// As stored.
    pub(super) fn load_segment(&mut self, slru: Slru, segment: u64, value: SlruSegment) {
        self.pages.insert((slru, segment), value.pages);
    }

    /// The next multixact, from the last checkpoint.
    pub(super) fn load_next_multixact(&mut self, next: u32) {
        self.newest_offsets_page = u64::from(next / MULTIXACT_OFFSETS_PER_PAGE);
    }

    /// Transactions, in the order of the record, get a status.
    pub(super) fn set_status(&mut self, xids: impl Iterator<Item = u32>, status: u8, out: Out<'_>) {
        self.by_page(
            Slru::Clog,
            xids,
            CLOG_TRANSACTIONS_PER_PAGE,
            |positions| Implied::TransactionStatus { status, positions },
            out,
        );
    }

    /// Transactions get the time of their commit.
    pub(super) fn set_commit_timestamps(
        &mut self,
        xids: impl Iterator<Item = u32>,
        time: u64,
        origin: u16,
        out: Out<'_>,
    ) {
        self.by_page(
            Slru::CommitTimestamps,
            xids,
            COMMIT_TIMESTAMPS_PER_PAGE,
            |positions| Implied::CommitTimestamps {
                time,
                origin,
                positions,
            },
            out,
        );
    }

    /// One change for each page that has entries of `xids`.
    fn by_page(
        &mut self,
        slru: Slru,
        xids: impl Iterator<Item = u32>,
        per_page: u32,
        change: impl for<'p> Fn(&'p [u8]) -> Implied<'p>,
        out: Out<'_>,
    ) {
        let mut entries = std::mem::take(&mut self.entries);
        let mut packed = std::mem::take(&mut self.packed);
        entries.clear();
        entries.extend(xids.map(|xid| {
            let position = u16::try_from(xid % per_page).expect("pages have fewer entries");
            (u64::from(xid / per_page), position)
        }));
        // Subtransactions come in their order, which may go around the end of the numbers.
        entries.sort_unstable();
        for of_page in entries.chunk_by(|(page, _), (other, _)| page == other) {
            packed.clear();
            packed.extend(of_page.iter().flat_map(|(_, at)| at.to_le_bytes()));
            self.put_page(slru, of_page[0].0, change(&packed), out);
        }
        self.entries = entries;
        self.packed = packed;
    }

    /// Changes a page, and makes its segment as long as it takes.
    fn put_page(&mut self, slru: Slru, page: u64, change: Implied<'_>, out: Out<'_>) {
        let (segment, block) = (page / SEGMENT_PAGES, page % SEGMENT_PAGES);
        let block = u32::try_from(block).expect("below 32");
        let pages = self.pages.entry((slru, segment)).or_default();
        if *pages <= block {
            *pages = block + 1;
            self.longer.push((slru, segment));
        }
        let key = PostgresKey::SlruPage {
            slru,
            segment,
            block,
        };
        put_delta(key, Delta::Implied(change), out);
    }

    /// Stores the lengths of segments, once for each that the record made longer.
    pub(super) fn put(&mut self, out: Out<'_>) {
        self.longer.sort_unstable();
        self.longer.dedup();
        for (slru, segment) in self.longer.drain(..) {
            let Some(pages) = self.pages.get(&(slru, segment)) else {
                continue;
            };
            let key = PostgresKey::SlruSegment { slru, segment };
            put(key, &SlruSegment { pages: *pages }.encode(), out);
        }
    }

    fn has_page(&self, slru: Slru, page: u64) -> bool {
        let pages = self.pages.get(&(slru, page / SEGMENT_PAGES));
        pages.is_some_and(|pages| page % SEGMENT_PAGES < u64::from(*pages))
    }

    /// Removes the segments of which `is_old` says so.
    fn remove_segments(&mut self, slru: Slru, is_old: impl Fn(u64) -> bool, out: Out<'_>) {
        let range = (slru, 0)..=(slru, u64::MAX);
        let old: Vec<u64> = self
            .pages
            .range(range)
            .map(|((_, segment), _)| *segment)
            .filter(|segment| is_old(*segment))
            .collect();
        for segment in old {
            self.pages.remove(&(slru, segment));
            remove(PostgresKey::SlruSegment { slru, segment }, out);
        }
    }

    /// Removes the segments that are wholly before the page `cutoff`, in the circle of 32-bit numbers.
    fn cut_off(&mut self, slru: Slru, cutoff: u64, per_page: u32, out: Out<'_>) {
        let precedes = |page: u64| page_precedes(page, cutoff, per_page);
        self.remove_segments(
            slru,
            |segment| {
                let first = segment.wrapping_mul(SEGMENT_PAGES);
                precedes(first) && precedes(first.wrapping_add(SEGMENT_PAGES - 1))
            },
            out,
        );
    }

    /// Commit timestamps are no longer kept.
    pub(super) fn remove_commit_timestamps(&mut self, out: Out<'_>) {
        self.remove_segments(Slru::CommitTimestamps, |_| true, out);
    }

    /// Commit timestamps are kept from the next transaction on: its page is there.
    pub(super) fn begin_commit_timestamps(&mut self, next_xid: u32, out: Out<'_>) {
        let page = u64::from(next_xid / COMMIT_TIMESTAMPS_PER_PAGE);
        if !self.has_page(Slru::CommitTimestamps, page) {
            self.put_page(Slru::CommitTimestamps, page, Implied::Zero, out);
        }
    }
}

pub(super) fn clog(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    let page = page_number(record, &mut main)?;
    match record.operation() {
        NEW_PAGE => state.slrus.put_page(Slru::Clog, page, Implied::Zero, out),
        CUT_OFF => {
            let slrus = &mut state.slrus;
            slrus.cut_off(Slru::Clog, page, CLOG_TRANSACTIONS_PER_PAGE, out);
        }
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

pub(super) fn commit_timestamp(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let slru = Slru::CommitTimestamps;
    let mut main = Fields::new("main data", record.main);
    let page = page_number(record, &mut main)?;
    match record.operation() {
        NEW_PAGE => state.slrus.put_page(slru, page, Implied::Zero, out),
        CUT_OFF => {
            let oldest = main.u32()?;
            state.control.cut_commit_timestamps(oldest);
            let slrus = &mut state.slrus;
            slrus.cut_off(slru, page, COMMIT_TIMESTAMPS_PER_PAGE, out);
        }
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

pub(super) fn multixact(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    match record.operation() {
        NEW_PAGE => {
            let page = page_number(record, &mut main)?;
            let slrus = &mut state.slrus;
            if slrus.made_offsets_page.take() != Some(page) {
                slrus.put_page(Slru::MultixactOffsets, page, Implied::Zero, out);
            }
            slrus.newest_offsets_page = page;
        }
        NEW_MEMBERS_PAGE => {
            let page = page_number(record, &mut main)?;
            let slrus = &mut state.slrus;
            slrus.put_page(Slru::MultixactMembers, page, Implied::Zero, out);
        }
        NEW_MULTIXACT => new_multixact(main, state, out)?,
        CUT_OFF_MULTIXACTS => {
            let database = main.u32()?;
            let (_, offsets_end) = (main.u32()?, main.u32()?);
            let (members_start, members_end) = (main.u32()?, main.u32()?);
            state.control.cut_multixacts(offsets_end, database);
            let slrus = &mut state.slrus;
            let (start, end) = (member_segment(members_start), member_segment(members_end));
            slrus.remove_segments(
                Slru::MultixactMembers,
                |segment| {
                    if start <= end {
                        (start..end).contains(&segment)
                    } else {
                        segment >= start || segment < end
                    }
                },
                out,
            );
            // The one before the oldest is still needed: it ends where the oldest begins.
            let kept = match offsets_end.wrapping_sub(1) {
                0 => u32::MAX,
                before => before,
            };
            let page = u64::from(kept / MULTIXACT_OFFSETS_PER_PAGE);
            let per_page = MULTIXACT_OFFSETS_PER_PAGE;
            slrus.cut_off(Slru::MultixactOffsets, page, per_page, out);
        }
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

fn new_multixact(
    mut main: Fields<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let (multixact, offset, count) = (main.u32()?, main.u32()?, main.u32()?);
    let member_bytes = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(MEMBER_BYTES))
        .ok_or(RedoError::Record {
            what: "members",
            value: count.into(),
        })?;
    let members = main.take(member_bytes)?;

    let slrus = &mut state.slrus;
    slrus.made_offsets_page = None;
    let next = multixact.wrapping_add(1).max(FIRST_MULTIXACT);
    let next_offset = offset.wrapping_add(count).max(1);
    let page_of = |multixact: u32| u64::from(multixact / MULTIXACT_OFFSETS_PER_PAGE);
    let (page, next_page) = (page_of(multixact), page_of(next));
    let mut packed = std::mem::take(&mut slrus.packed);
    let entry = |multixact: u32, offset: u32, packed: &mut Vec<u8>| {
        let position = multixact % MULTIXACT_OFFSETS_PER_PAGE;
        let position = u16::try_from(position).expect("pages have fewer entries");
        packed.extend(position.to_le_bytes());
        packed.extend(offset.to_le_bytes());
    };
    packed.clear();
    entry(multixact, offset, &mut packed);
    if page == next_page {
        entry(next, next_offset, &mut packed);
    }
    let change = Implied::MultixactOffsets { entries: &packed };
    slrus.put_page(Slru::MultixactOffsets, page, change, out);
    if page != next_page {
        // Older versions make the page with a record of its own behind this one; then it holds this entry alone.
        packed.clear();
        entry(next, next_offset, &mut packed);
        if slrus.newest_offsets_page == page {
            slrus.made_offsets_page = Some(next_page);
            slrus.newest_offsets_page = next_page;
        }
        let change = Implied::MultixactOffsets { entries: &packed };
        slrus.put_page(Slru::MultixactOffsets, next_page, change, out);
    }

    let mut at = offset;
    let mut rest = members;
    while !rest.is_empty() {
        let first = at % MULTIXACT_MEMBERS_PER_PAGE;
        let member_page = at / MULTIXACT_MEMBERS_PER_PAGE;
        packed.clear();
        while let Some((member, others)) = rest.split_first_chunk::<MEMBER_BYTES>() {
            if at / MULTIXACT_MEMBERS_PER_PAGE != member_page {
                break;
            }
            let [a, b, c, d, status, ..] = *member;
            packed.extend([status, a, b, c, d]);
            state.control.see_xid(u32::from_le_bytes([a, b, c, d]));
            at = at.wrapping_add(1);
            rest = others;
            if at == 0 {
                break;
            }
        }
        let change = Implied::MultixactMembers {
            first: u16::try_from(first).expect("pages have fewer entries"),
            members: &packed,
        };
        let member_page = u64::from(member_page);
        slrus.put_page(Slru::MultixactMembers, member_page, change, out);
    }
    slrus.packed = packed;
    state.control.see_multixact(next, next_offset);
    Ok(())
}

fn page_number(record: &Record<'_>, main: &mut Fields<'_>) -> Result<u64, RedoError> {
    if record.version >= WalVersion::V17 {
        main.u64()
    } else {
        main.u32().map(u64::from)
    }
}

fn member_segment(offset: u32) -> u64 {
    u64::from(offset / MULTIXACT_MEMBERS_PER_PAGE) / SEGMENT_PAGES
}

/// Whether all entries of `page` are before all of `other`, where numbers go around after 32 bits.
fn page_precedes(page: u64, other: u64, per_page: u32) -> bool {
    // Numbers beyond 32 bits can't come: pages are numbers of 32 bits divided.
    let first = |page: u64| {
        let low = u32::try_from(page & u64::from(u32::MAX)).expect("masked");
        low.wrapping_mul(per_page)
            .wrapping_add(FIRST_NORMAL_XID + 1)
    };
    let (page, other) = (first(page), first(other));
    let precedes = |a: u32, b: u32| a.wrapping_sub(b) > u32::MAX / 2;
    precedes(page, other) && precedes(page, other.wrapping_add(per_page - 1))
}

const SEGMENT_PAGES: u64 = 32;
const FIRST_NORMAL_XID: u32 = 3;
const FIRST_MULTIXACT: u32 = 1;
/// Transaction id and status, in the record.
const MEMBER_BYTES: usize = 8;

const NEW_PAGE: u8 = 0x00;
const CUT_OFF: u8 = 0x10;
const NEW_MEMBERS_PAGE: u8 = 0x10;
const NEW_MULTIXACT: u8 = 0x20;
const CUT_OFF_MULTIXACTS: u8 = 0x30;
