//! Pages that the WAL of a backup changes, as far as they are in memory: whole ones, onto which further changes are replayed, and
//! changes of pages that are not at hand.
//!
//! A server logs the whole page with its first change after a checkpoint, and during a backup always. So nearly every page
//! that is touched is whole, and what is written of it is one image. What is not: pages of SLRUs and visibility maps, whose
//! changes are logged without an image (they are kept from the backup's files, see [`PageTable::keep`]), and pages that had to
//! make room for others and are touched again before their next image. Their changes are written as deltas.
//!
//! Memory is bounded by [`Limits`]: when it is used up, the pages that were touched longest ago are written out until half of it
//! is free, but for those of the files. Only versions that stay matter, since a branch can be read from the stop of its backup on: what a later image
//! of the same page makes useless is not written.

use std::collections::BTreeMap;

use engine::layer::Value;
use engine::types::{Lsn, PAGE_BYTES};

use super::{ImportError, ImportSink};
use crate::key::PostgresKey;
use crate::redo::{Delta, Outcome, redo};

/// What a table may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Bytes in memory.
    pub(super) bytes_max: usize,
    /// Deltas since the last image of a page: well below what the engine replays for one read, by default.
    pub(super) deltas_max: usize,
    /// Bytes of them.
    pub(super) delta_bytes_max: usize,
}

impl Limits {
    /// With so much memory.
    pub(super) fn of(bytes_max: usize) -> Limits {
        Limits {
            bytes_max,
            deltas_max: 512,
            delta_bytes_max: 512 << 10,
        }
    }
}

/// What pages of the files are kept for. Maps come first and there may be very many; every commit changes a page of an SLRU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeptFor {
    /// Clearing bits of visibility maps; they take a quarter of the memory.
    Maps,
    /// Setting what became of transactions; together they take half.
    Slrus,
}

type Page = [u8; PAGE_BYTES];

/// Pages by their keys.
pub(super) struct PageTable {
    limits: Limits,
    entries: BTreeMap<PostgresKey, Entry>,
    bytes: usize,
    /// Versions that had to give way to a change that could not be replayed; written next.
    displaced: Vec<(PostgresKey, Lsn, Box<Page>)>,
    /// Where a change is tried.
    scratch: Box<Page>,
    /// Why a change could not be taken.
    refused: Option<ImportError>,
    /// Changes that could not be replayed.
    failures: u64,
}

struct Entry {
    state: State,
    /// By the record that ends there; `KEPT` if it stays whatever else needs room.
    touched: Lsn,
}

enum State {
    /// The page as of an LSN, and whether that version is written.
    Whole(Box<Page>, Lsn, bool),
    /// Changes that are not written yet, oldest first, and how much of the chain is.
    Changes(Vec<(Lsn, Vec<u8>)>, Chain),
}

/// Deltas since the last image.
#[derive(Clone, Copy, Default)]
struct Chain {
    deltas: usize,
    bytes: usize,
}

impl State {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match self {
                State::Whole(..) => PAGE_BYTES,
                State::Changes(deltas, _) => deltas
                    .iter()
                    .map(|(_, delta)| delta.len() + DELTA_BYTES)
                    .sum(),
            }
    }
}

impl PageTable {
    pub(super) fn new(limits: Limits) -> PageTable {
        PageTable {
            limits,
            entries: BTreeMap::new(),
            bytes: 0,
            displaced: Vec::new(),
            scratch: Box::new([0; PAGE_BYTES]),
            refused: None,
            failures: 0,
        }
    }

    /// Takes over a page of the backup's files, which is written already, unless as much memory is in use as may be kept for
    /// such pages. It stays in memory: without it there would be nothing but changes of it.
    pub(super) fn keep(&mut self, key: PostgresKey, page: &Page, start: Lsn, kept_for: KeptFor) {
        let share = match kept_for {
            KeptFor::Maps => self.limits.bytes_max / 4,
            KeptFor::Slrus => self.limits.bytes_max / 2,
        };
        if self.bytes < share {
            self.put(key, State::Whole(Box::new(*page), start, true), KEPT);
        }
    }

    /// A page of zeros, in memory.
    pub(super) fn begin(&mut self, key: PostgresKey, at: Lsn) {
        self.put(key, State::Whole(Box::new([0; PAGE_BYTES]), at, false), at);
    }

    /// Forgets pages: they are not there any more.
    pub(super) fn remove(&mut self, from: PostgresKey, to: PostgresKey) {
        let keys: Vec<_> = self.entries.range(from..=to).map(|(key, _)| *key).collect();
        for key in keys {
            self.take(&key);
        }
    }

    /// Changes that could not be replayed, so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Takes a change of a page. `is_new` says that the page was not there before: it begins as zeros.
    pub(super) fn apply(&mut self, key: PostgresKey, end: Lsn, delta: &Delta<'_>, is_new: bool) {
        let is_kept = self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.touched == KEPT);
        let entry = self.take(&key);
        let begins = is_new || delta.begins_page();
        let state = match entry {
            Some(State::Whole(page, lsn, is_written)) => {
                *self.scratch = *page;
                match redo(delta, &mut self.scratch) {
                    Ok(Outcome::Applied) => {
                        let mut page = page;
                        std::mem::swap(&mut page, &mut self.scratch);
                        State::Whole(page, end, false)
                    }
                    Ok(Outcome::PageAhead | Outcome::PageMissing) => {
                        State::Whole(page, lsn, is_written)
                    }
                    Err(failure) => {
                        self.note(key, &failure);
                        if !is_written {
                            self.displaced.push((key, lsn, page));
                        }
                        self.push(key, end, delta, Vec::new(), Chain::default())
                    }
                }
            }
            other if begins => {
                self.scratch.fill(0);
                match redo(delta, &mut self.scratch) {
                    Ok(_) => State::Whole(self.scratch.clone(), end, false),
                    Err(failure) => {
                        self.note(key, &failure);
                        let (deltas, chain) = changes_of(other);
                        self.push(key, end, delta, deltas, chain)
                    }
                }
            }
            other => {
                let (deltas, chain) = changes_of(other);
                self.push(key, end, delta, deltas, chain)
            }
        };
        self.put(key, state, if is_kept { KEPT } else { end });
    }

    /// Writes what has to be written now: what gave way, and pages untouched for long if memory is used up.
    pub(super) fn settle(&mut self, sink: &mut dyn ImportSink) -> Result<(), ImportError> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        for (key, lsn, page) in self.displaced.drain(..) {
            put(sink, key, lsn, Value::Image(&page[..]))?;
        }
        if self.bytes <= self.limits.bytes_max {
            return Ok(());
        }
        let mut by_age: Vec<_> = self
            .entries
            .iter()
            .map(|(key, entry)| (entry.touched, *key))
            .collect();
        by_age.sort_unstable();
        for (touched, key) in by_age {
            if self.bytes <= self.limits.bytes_max / 2 || touched == KEPT {
                break;
            }
            let state = self.take(&key).expect("just listed");
            if let Some(chain) = write(sink, key, &state)? {
                // What is left says how long the chain is.
                self.put(key, State::Changes(Vec::new(), chain), touched);
            }
        }
        if self.bytes > self.limits.bytes_max / 4 * 3 {
            return Err(ImportError::TooManyChanges {
                bytes_max: self.limits.bytes_max,
            });
        }
        Ok(())
    }

    /// Writes all of it.
    pub(super) fn finish(mut self, sink: &mut dyn ImportSink) -> Result<(), ImportError> {
        self.settle(sink)?;
        for (key, entry) in &self.entries {
            write(sink, *key, &entry.state)?;
        }
        Ok(())
    }

    /// Adds a change to those of a page that is not at hand.
    fn push(
        &mut self,
        key: PostgresKey,
        end: Lsn,
        delta: &Delta<'_>,
        mut deltas: Vec<(Lsn, Vec<u8>)>,
        chain: Chain,
    ) -> State {
        let mut stored = Vec::new();
        delta.encode(&mut stored);
        if stored.len() > PAGE_BYTES {
            self.refused = Some(ImportError::LongChange {
                key,
                end,
                bytes: stored.len(),
            });
        }
        deltas.push((end, stored));
        let count = chain.deltas + deltas.len();
        let bytes: usize = deltas.iter().map(|(_, delta)| delta.len()).sum();
        let bytes = chain.bytes + bytes;
        if count > self.limits.deltas_max || bytes > self.limits.delta_bytes_max {
            self.refused = Some(ImportError::LongChain { key, end, count });
        }
        State::Changes(deltas, chain)
    }

    fn note(&mut self, key: PostgresKey, failure: &crate::redo::RedoFailure) {
        self.failures += 1;
        tracing::warn!(?key, %failure, "a page can't be read from here on");
    }

    fn put(&mut self, key: PostgresKey, state: State, touched: Lsn) {
        self.take(&key);
        self.bytes += state.bytes();
        self.entries.insert(key, Entry { state, touched });
    }

    fn take(&mut self, key: &PostgresKey) -> Option<State> {
        let state = self.entries.remove(key)?.state;
        self.bytes -= state.bytes();
        Some(state)
    }
}

fn changes_of(state: Option<State>) -> (Vec<(Lsn, Vec<u8>)>, Chain) {
    match state {
        Some(State::Changes(deltas, chain)) => (deltas, chain),
        Some(State::Whole(..)) | None => (Vec::new(), Chain::default()),
    }
}

/// Writes what is not written; of a page that is not whole, how long its chain is then.
fn write(
    sink: &mut dyn ImportSink,
    key: PostgresKey,
    state: &State,
) -> Result<Option<Chain>, ImportError> {
    match state {
        State::Whole(_, _, true) => Ok(None),
        State::Whole(page, lsn, false) => {
            put(sink, key, *lsn, Value::Image(&page[..]))?;
            Ok(None)
        }
        State::Changes(deltas, chain) => {
            let mut chain = *chain;
            for (lsn, delta) in deltas {
                put(sink, key, *lsn, Value::Delta(delta))?;
                chain.deltas += 1;
                chain.bytes += delta.len();
            }
            Ok(Some(chain))
        }
    }
}

fn put(
    sink: &mut dyn ImportSink,
    key: PostgresKey,
    lsn: Lsn,
    value: Value<'_>,
) -> Result<(), ImportError> {
    sink.put(key.encode(), lsn, value)
        .map_err(ImportError::Sink)
}

/// When pages were touched that are kept.
const KEPT: Lsn = Lsn::MAX;
/// An entry's share of the table.
const ENTRY_BYTES: usize = 128;
/// What a delta takes beside its bytes.
const DELTA_BYTES: usize = 48;

#[cfg(test)]
pub(super) mod tests;
