//! Record by record: replay, compare, count.

use std::collections::{HashMap, HashSet};

use engine::types::{Lsn, PAGE_BYTES};

use super::compare::{Page, Rules};
use super::early_clears::EarlyClears;
use super::report::{Difference, KindCounts, Mismatch, Report};
use crate::bytes_at::u32_at;
use crate::key::{BlockTag, Fork, Relation};
use crate::page::PAGE_HEADER_BYTES;
use crate::redo::{
    Delta, DeltaScratch, Implied, MAP_BLOCKS_PER_PAGE, Outcome, RedoError, cleared_by, redo,
};
use crate::wal::{BlockReference, Image, Record, RecordKind, ResourceManager, WalVersion};

/// Why the verification cannot go on.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum VerifyError {
    /// The WAL changes its version: an upgrade between two of its files.
    #[error("record at {at} is of another version of Postgres than those before it")]
    Version {
        /// Where it begins.
        at: Lsn,
    },
}

/// Replays records in order and compares what comes out. Holds every page it has seen: 8 KiB each.
#[derive(Debug)]
pub struct Verifier {
    report: Report,
    pages: HashMap<BlockTag, Box<Page>>,
    /// Relations made within the WAL: their pages begin as zeros, and none of them is unknown.
    born: HashSet<Relation>,
    /// Pages with hints since their last change: the LSNs of their records, the last ones. Without an image redo leaves the
    /// page's LSN, and of two sessions that log a hint at once the primary's page has that of only one, the first or
    /// the last.
    hinted: HashMap<BlockTag, Vec<Lsn>>,
    early_clears: EarlyClears,
    /// Pages of visibility maps whose image left out the map, as if it were a hole: `create database` with WAL_LOG logs
    /// them so. The primary keeps the bits; redo, a standby's too, has none.
    lost_maps: HashSet<BlockTag>,
    /// No page is unknown: what was never given nor written is zeros.
    is_complete: bool,
    hint_bits_logged: bool,
    has_checksums: bool,
    encoded: Vec<u8>,
}

/// What is compared: the page before the record, and the image after it.
enum Step {
    Compared,
    ImageOnly,
    NoImage,
    PageAhead,
    BaseUnknown,
    Wrong(Difference),
}

/// What the page's LSN can have been before the record.
struct Before {
    /// As redo has it.
    ours: Lsn,
    /// Or that of a hint.
    hinted: Vec<Lsn>,
}

impl Verifier {
    /// For WAL of `version`, from a cluster with or without data checksums and, where its WAL begins,
    /// `wal_log_hints`.
    pub fn new(version: WalVersion, has_checksums: bool, wal_log_hints: bool) -> Verifier {
        Verifier {
            report: Report::new(version),
            pages: HashMap::new(),
            born: HashSet::new(),
            hinted: HashMap::new(),
            early_clears: EarlyClears::default(),
            lost_maps: HashSet::new(),
            is_complete: false,
            hint_bits_logged: has_checksums || wal_log_hints,
            has_checksums,
            encoded: Vec::new(),
        }
    }

    /// Begins with all pages of a cluster, as they are where its WAL begins. Pages that are not among them are
    /// zeros until a record changes them.
    pub fn begin_with(&mut self, pages: impl IntoIterator<Item = (BlockTag, Box<Page>)>) {
        self.pages.extend(pages);
        self.is_complete = true;
    }

    /// The pages as they are now, also of relations that were dropped.
    pub fn pages(&self) -> impl Iterator<Item = (&BlockTag, &Page)> {
        self.pages.iter().map(|(tag, page)| (tag, &**page))
    }

    /// A page as it is now; `None` if nothing is known of it.
    pub fn page(&self, tag: &BlockTag) -> Option<&Page> {
        self.pages.get(tag).map(|page| &**page)
    }

    /// Replays the next record.
    /// # Errors
    /// It is of another version. A page that comes out wrong is not an error but in the report.
    pub fn observe(&mut self, record: &Record<'_>) -> Result<(), VerifyError> {
        if record.version != self.report.version() {
            return Err(VerifyError::Version { at: record.start });
        }
        let Some(kind) = RecordKind::of(record.version, record.manager, record.info) else {
            self.report.unknown += 1;
            return Ok(());
        };
        let mut counts = KindCounts {
            records: 1,
            ..KindCounts::default()
        };
        for block in record.blocks() {
            match self.step(record, &block) {
                Step::Compared => counts.compared += 1,
                Step::ImageOnly => counts.image_only += 1,
                Step::NoImage => counts.no_image += 1,
                Step::PageAhead => counts.page_ahead += 1,
                Step::BaseUnknown => counts.base_unknown += 1,
                Step::Wrong(what) => {
                    counts.mismatches += 1;
                    self.report.mismatch(Mismatch {
                        kind: kind.to_string(),
                        lsn: record.start,
                        tag: Some(block.tag),
                        block_id: block.id,
                        what,
                    });
                }
            }
        }
        if let Err(error) = self.clear_visibility(record) {
            counts.mismatches += 1;
            self.report.mismatch(Mismatch {
                kind: kind.to_string(),
                lsn: record.start,
                tag: record.blocks().next().map(|block| block.tag),
                block_id: 0,
                what: Difference::Failed(error.to_string()),
            });
        }
        self.report.count(kind, &counts);
        self.follow(record);
        Ok(())
    }

    /// What was found so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What was found, with what is still missing when the WAL ends.
    pub fn into_report(mut self) -> Report {
        for (tag, lsn) in self.early_clears.outstanding() {
            self.report.mismatch(Mismatch {
                kind: "visibility map".to_owned(),
                lsn,
                tag: Some(tag),
                block_id: 0,
                what: Difference::Failed(
                    "no record clears the bits that the image lacks".to_owned(),
                ),
            });
        }
        self.report
    }

    fn step(&mut self, record: &Record<'_>, block: &BlockReference<'_>) -> Step {
        let known = self.pages.remove(&block.tag);
        let is_born = self.is_complete || self.born.contains(&block.tag.relation);
        let logged = block.image.filter(|image| !image.is_applied());
        let is_begun = block.will_init || block.image.is_some_and(|image| image.is_applied());
        let base = known.or_else(|| (is_born || is_begun).then(|| Box::new([0; PAGE_BYTES])));
        let Some(mut page) = base else {
            if let Some(page) = logged.and_then(|image| restored(&image, record.end)) {
                self.pages.insert(block.tag, page);
            }
            return Step::BaseUnknown;
        };
        let mut before = Before {
            ours: lsn_of(&page),
            hinted: self.hinted.remove(&block.tag).unwrap_or_default(),
        };
        if block.tag.fork == Fork::VisibilityMap
            && (block.image).is_some_and(|image| image.is_applied() && image.hole().1 > 0)
        {
            self.lost_maps.insert(block.tag);
        }
        let outcome = self.replay(record, block, &mut page);
        let step = match (outcome, &logged) {
            (Err(reason), _) => Step::Wrong(Difference::Failed(reason)),
            (Ok(Outcome::PageAhead), _) => Step::PageAhead,
            (Ok(Outcome::PageMissing), Some(_)) => {
                let reason = "redo passed the page over, as if its relation were dropped later";
                Step::Wrong(Difference::Failed(reason.to_owned()))
            }
            (Ok(Outcome::Applied), Some(image)) => {
                self.compared(record, block, image, &before, &page)
            }
            (Ok(_), None) if is_begun && !block.will_init => Step::ImageOnly,
            (Ok(_), None) => Step::NoImage,
        };
        if (record.manager, record.operation()) == (ResourceManager::XLOG, FPI_FOR_HINT) {
            if before.hinted.len() == HINTS_MAX {
                before.hinted.remove(0);
            }
            before.hinted.push(record.end);
            self.hinted.insert(block.tag, before.hinted);
        }
        match (&step, logged) {
            (Step::Wrong(_), Some(image)) => {
                // What follows is judged from the right page.
                if let Some(page) = restored(&image, record.end) {
                    self.pages.insert(block.tag, page);
                }
            }
            (Step::Wrong(_), None) => {}
            _ => {
                self.pages.insert(block.tag, page);
            }
        }
        step
    }

    /// Whether what redo made of a page is what the image shows.
    fn compared(
        &mut self,
        record: &Record<'_>,
        block: &BlockReference<'_>,
        image: &Image<'_>,
        before: &Before,
        ours: &Page,
    ) -> Step {
        let mut logged = Box::new([0; PAGE_BYTES]);
        if let Err(error) = image.restore(&mut logged) {
            return Step::Wrong(Difference::Failed(error.to_string()));
        }
        let mut ours = Box::new(*ours);
        if block.tag.fork == Fork::VisibilityMap
            && (self.early_clears).take(block.tag, record.start, &mut ours, &logged)
        {
            let reason =
                "bits that an image before this one lacks are set, and no record cleared them";
            return Step::Wrong(Difference::Failed(reason.to_owned()));
        }
        if self.lost_maps.contains(&block.tag) {
            for (theirs, own) in logged.iter_mut().zip(ours.iter()).skip(PAGE_HEADER_BYTES) {
                *theirs &= own;
            }
        }
        let (hole_at, hole_bytes) = image.hole();
        let hole = usize::from(hole_at)..usize::from(hole_at) + usize::from(hole_bytes);
        let rules = Rules {
            manager: record.manager,
            fork: block.tag.fork,
            end: record.end,
        };
        if let Some(at) = rules.first_difference(hole, &ours, &logged) {
            return Step::Wrong(Difference::Page { at, ours, logged });
        }
        let logged_before = lsn_of(&logged);
        if !block.will_init
            && !before.hinted.contains(&logged_before)
            && !rules.is_same_before(before.ours, logged_before)
        {
            return Step::Wrong(Difference::Before {
                ours: before.ours,
                logged: logged_before,
            });
        }
        Step::Compared
    }

    /// Redo by way of the stored bytes of the delta, which thereby are shown to suffice.
    fn replay(
        &mut self,
        record: &Record<'_>,
        block: &BlockReference<'_>,
        page: &mut Page,
    ) -> Result<Outcome, String> {
        let mut scratch = DeltaScratch::new();
        self.encoded.clear();
        match Delta::of_block(record, block, self.hint_bits_logged, &mut scratch) {
            Some(delta) => delta.encode(&mut self.encoded),
            None => return Ok(Outcome::Applied),
        }
        let mut scratch = DeltaScratch::new();
        let delta = Delta::decode(block.tag.key(), record.end, &self.encoded, &mut scratch);
        let delta = delta.map_err(|error| error.to_string())?;
        redo(&delta, page).map_err(|failure| failure.to_string())
    }

    /// Clears what heap records clear in visibility maps, which are not among their blocks: the next record of the
    /// map's page is compared with that.
    fn clear_visibility(&mut self, record: &Record<'_>) -> Result<(), RedoError> {
        let pages = &mut self.pages;
        let early_clears = &mut self.early_clears;
        let mut failed = None;
        cleared_by(record, |tag, implied| {
            if let Implied::VisibilityClear(first, second) = implied {
                for bits in [Some(first), second].into_iter().flatten() {
                    early_clears.clear(tag, bits.byte, bits.mask);
                }
            }
            // A map that is not known is taken from the next image; one that was never written has no bits.
            if let Some(page) = pages.get_mut(&tag)
                && let Err(failure) = redo(&Delta::Implied(implied), page)
            {
                failed = Some(failure.reason);
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// What records say that changes which pages are known.
    fn follow(&mut self, record: &Record<'_>) {
        match (record.manager, record.operation()) {
            (ResourceManager::XLOG, PARAMETER_CHANGE) => {
                let wal_log_hints = record.main.get(24).is_some_and(|byte| *byte != 0);
                self.hint_bits_logged = self.has_checksums || wal_log_hints;
            }
            (ResourceManager::DATABASE, CREATE_FILE_COPY) => {
                let word = |at| u32_at(record.main, at);
                if let (Some(database), Some(tablespace), Some(from), Some(of)) =
                    (word(0), word(4), word(8), word(12))
                {
                    self.copy_database((from, of), (database, tablespace));
                }
            }
            (ResourceManager::STORAGE, CREATE) => {
                let fork = u32_at(record.main, 12).and_then(|fork| u8::try_from(fork).ok());
                let fork = fork.and_then(Fork::from_number);
                if let (Some(relation), Some(fork)) = (relation_at(record.main, 0), fork) {
                    // The main fork comes first and begins the relation; others may come behind its pages.
                    let is_made = |tag: &BlockTag| {
                        tag.relation == relation && (fork == Fork::Main || tag.fork == fork)
                    };
                    self.early_clears.forget(is_made);
                    self.pages.retain(|tag, _| !is_made(tag));
                    self.lost_maps.retain(|tag| !is_made(tag));
                    self.born.insert(relation);
                }
            }
            (ResourceManager::STORAGE, TRUNCATE) => {
                let fields = (u32_at(record.main, 0), u32_at(record.main, 16));
                if let ((Some(blocks), Some(flags)), Some(relation)) =
                    (fields, relation_at(record.main, 4))
                {
                    self.early_clears.forget(|tag| tag.relation == relation);
                    self.truncate(relation, blocks, flags);
                }
            }
            _ => {}
        }
    }

    /// The pages of one directory of a database (oid, tablespace) are those of another.
    fn copy_database(&mut self, from: (u32, u32), to: (u32, u32)) {
        self.pages
            .retain(|tag, _| (tag.relation.database, tag.relation.tablespace) != to);
        let copy_of = |tag: &BlockTag| {
            let relation = Relation {
                database: to.0,
                tablespace: to.1,
                ..tag.relation
            };
            let is_of = (tag.relation.database, tag.relation.tablespace) == from;
            is_of.then_some(BlockTag { relation, ..*tag })
        };
        let lost: Vec<_> = self.lost_maps.iter().filter_map(copy_of).collect();
        self.lost_maps.extend(lost);
        let pages = self.pages.iter();
        let copied: Vec<_> = pages
            .filter_map(|(tag, page)| Some((copy_of(tag)?, page.clone())))
            .collect();
        self.pages.extend(copied);
    }

    /// Forgets pages of the main fork from `blocks` on, and what the visibility map says of them.
    fn truncate(&mut self, relation: Relation, blocks: u32, flags: u32) {
        let map_page = blocks / MAP_BLOCKS_PER_PAGE;
        let on_page = blocks % MAP_BLOCKS_PER_PAGE;
        self.pages.retain(|tag, page| {
            if tag.relation != relation {
                return true;
            }
            match tag.fork {
                Fork::Main => flags & TRUNCATE_MAIN == 0 || tag.block < blocks,
                Fork::VisibilityMap if flags & TRUNCATE_MAP != 0 => {
                    if tag.block == map_page && on_page > 0 {
                        let cut = Implied::VisibilityTruncate {
                            byte: u16::try_from(on_page / 4).expect("8,168 bytes on a page"),
                            keep: ((1u16 << (on_page % 4 * 2)) - 1).to_le_bytes()[0],
                        };
                        redo(&Delta::Implied(cut), page).is_ok()
                    } else {
                        tag.block < map_page
                    }
                }
                _ => true,
            }
        });
    }
}

/// The page of an image that is only for comparison, as it was after the record; `None` if it does not restore.
fn restored(image: &Image<'_>, end: Lsn) -> Option<Box<Page>> {
    let mut page = Box::new([0; PAGE_BYTES]);
    image.restore(&mut page).ok()?;
    page[..8].copy_from_slice(&end.0.rotate_left(32).to_le_bytes());
    Some(page)
}

fn lsn_of(page: &Page) -> Lsn {
    let halves = page.first_chunk().expect("a page is longer");
    Lsn(u64::from_le_bytes(*halves).rotate_left(32))
}

fn relation_at(main: &[u8], at: usize) -> Option<Relation> {
    Some(Relation {
        tablespace: u32_at(main, at)?,
        database: u32_at(main, at + 4)?,
        number: u32_at(main, at + 8)?,
    })
}

/// Hints kept of one page: more sessions than this hardly log one at once.
const HINTS_MAX: usize = 16;

const PARAMETER_CHANGE: u8 = 0x60;
const FPI_FOR_HINT: u8 = 0xa0;
const CREATE_FILE_COPY: u8 = 0x00;
const CREATE: u8 = 0x10;
const TRUNCATE: u8 = 0x20;
const TRUNCATE_MAIN: u32 = 1;
const TRUNCATE_MAP: u32 = 2;
