//! Reads of several shapes, and the judgement of their answers.

use std::pin::pin;

use engine::io::clock::Clock;
use engine::types::{BranchId, Key, Lsn, TenantId};
use engine::{ErrorKind, ReadError};
use futures_util::future::{Either, select};

use super::{Driver, Failure, HANGS_AFTER};
use crate::computer::{Server, SimPlatform};
use crate::model::{Fate, GROUPS_MAX, ModelBranch, key};

/// A shard of the simulation.
type Shard = engine::shard::Shard<SimPlatform>;

/// What one read asked and got.
pub(super) type Answered = (Key, Lsn, Result<Vec<u8>, ReadError>);

impl Driver {
    /// A read, or some at once.
    pub(super) async fn read_some(&mut self, server: &Server) -> Result<(), Failure> {
        let branch = self.rng.index(self.branches.len());
        let count = match self.rng.below(4) {
            0 => 1,
            1 => 4,
            _ => self.rng.between(2, 24),
        };
        self.read_batch(server, branch, count).await
    }

    pub(super) async fn read_batch(
        &mut self,
        server: &Server,
        branch: usize,
        count: u64,
    ) -> Result<(), Failure> {
        let asks = self.draw_asks(branch, count);
        self.read_and_judge(server, branch, asks).await
    }

    /// Reads of one shape, from one core: keys, and the LSNs to read them at.
    pub(super) fn draw_asks(&mut self, branch: usize, count: u64) -> Vec<(Key, Lsn)> {
        let model = &self.branches[branch];
        let rng = &mut self.rng;
        let keys: Vec<&Key> = model.versions.keys().collect();
        let first = rng.index(keys.len().max(1));
        let sequential = rng.chance(300);
        let hot = rng.chance(300);
        let mut asks = Vec::new();
        for number in 0..count {
            let place = match (sequential, hot) {
                (true, _) => first + usize::try_from(number).expect("few"),
                (_, true) => first + rng.index(3),
                _ => rng.index(keys.len().max(1)),
            };
            let asked = match keys.get(place % keys.len().max(1)) {
                Some(known) if !rng.chance(30) => **known,
                _ => key(
                    rng.index(4).try_into().expect("few"),
                    rng.index(1000).try_into().expect("few"),
                ),
            };
            let (from, last) = (model.readable_from.0, model.last_lsn.0);
            let at = match rng.below(20) {
                0 => Lsn(from.saturating_sub(1 + rng.below(100)).max(1)),
                1 => Lsn(last + 1 + rng.below(100)),
                2..=6 => Lsn(rng.between(from, last)),
                _ => Lsn(last),
            };
            asks.push((asked, at));
        }
        asks
    }

    /// Reads a branch from one end of a group of keys to the other, in order, as a sequential scan of a relation does:
    /// what is fetched ahead is read next. Often from an empty cache.
    pub(super) async fn read_in_sequence(&mut self, server: &Server) -> Result<(), Failure> {
        let branch = self.rng.index(self.branches.len());
        if self.rng.chance(700) {
            server.shards.iter().for_each(Shard::empty_cache);
        }
        let (from, to) = self.draw_group();
        let model = &self.branches[branch];
        let at = self.rng.between(model.readable_from.0, model.last_lsn.0);
        let keys = model.versions.range(from..=to).map(|(key, _)| *key);
        let asks: Vec<(Key, Lsn)> = keys.map(|key| (key, Lsn(at))).collect();
        self.read_and_judge(server, branch, asks).await
    }

    /// Lists a range of keys with their values.
    pub(super) async fn scan(&mut self, server: &Server) -> Result<(), Failure> {
        let branch = self.rng.index(self.branches.len());
        let (mut from, mut to) = self.draw_group();
        let model = &self.branches[branch];
        let keys: Vec<Key> = model
            .versions
            .range(from..=to)
            .map(|(key, _)| *key)
            .collect();
        if !keys.is_empty() && self.rng.chance(500) {
            let (one, other) = (self.rng.index(keys.len()), self.rng.index(keys.len()));
            (from, to) = (keys[one.min(other)], keys[one.max(other)]);
        }
        let (readable, last) = (model.readable_from.0, model.last_lsn.0);
        let at = match self.rng.below(10) {
            0 => Lsn(readable.saturating_sub(1 + self.rng.below(100)).max(1)),
            1..=4 => Lsn(self.rng.between(readable, last)),
            _ => Lsn(last),
        };
        let shard = server.shards[self.rng.index(server.shards.len())].clone();
        let (tenant, id) = (self.tenant, model.id);
        let scan = async move {
            let branch = shard.open_branch(tenant, id).await?;
            Ok((branch, shard))
        };
        let (handle, shard) = match self.within_reason(server, "an open", scan).await? {
            Ok(opened) => opened,
            Err(error) => return self.judge_open(branch, &error),
        };
        let scan = async move { shard.scan(&handle, from, to, at).await };
        let found = self.within_reason(server, "a scan", scan).await?;
        self.judge_scan(branch, (from, to), at, found)
    }

    /// The first and the last key of a group.
    fn draw_group(&mut self) -> (Key, Key) {
        let group = u32::try_from(self.rng.below(GROUPS_MAX)).expect("few");
        (key(group, 0), key(group, u32::MAX))
    }

    pub(super) async fn read_everything(
        &mut self,
        server: &Server,
        branch: usize,
    ) -> Result<(), Failure> {
        let model = &self.branches[branch];
        let at = model.last_lsn;
        let asks: Vec<(Key, Lsn)> = model.versions.keys().map(|key| (*key, at)).collect();
        for part in asks.chunks(64) {
            self.read_and_judge(server, branch, part.to_vec()).await?;
        }
        Ok(())
    }

    async fn read_and_judge(
        &mut self,
        server: &Server,
        branch: usize,
        asks: Vec<(Key, Lsn)>,
    ) -> Result<(), Failure> {
        let shard = server.shards[self.rng.index(server.shards.len())].clone();
        let (tenant, id) = (self.tenant, self.branches[branch].id);
        let reads = async move { read_all(&shard, tenant, id, asks).await };
        match self.within_reason(server, "reads", reads).await? {
            Ok(answers) => {
                for answer in answers {
                    self.judge_read(branch, answer)?;
                }
                Ok(())
            }
            Err(error) => self.judge_open(branch, &error),
        }
    }

    /// What a task of the server ends with; that it ends is judged here.
    async fn within_reason<T: 'static>(
        &self,
        server: &Server,
        what: &str,
        task: impl Future<Output = T> + 'static,
    ) -> Result<T, Failure> {
        let ended = pin!(server.process.call(task));
        let hangs = pin!(self.computer.simulator.sleep(HANGS_AFTER));
        match select(ended, hangs).await {
            Either::Left((Some(output), _)) => Ok(output),
            Either::Left((None, _)) => Err("a process ended by itself".to_owned()),
            Either::Right(_) => Err(format!("{what} did not end")),
        }
    }

    fn judge_open(&mut self, branch: usize, error: &ReadError) -> Result<(), Failure> {
        let model = &self.branches[branch];
        self.computer
            .simulator
            .event(format_args!("open {}: {error}", model.id));
        let absent = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Refused
        ) && model.fate != Fate::Committed;
        // Its first entry may be what is gone.
        let gone = error.kind() == ErrorKind::NotFound && self.regime.damaged;
        if absent || gone || self.regime.allows(error.kind()) {
            self.judged.excused += 1;
            return Ok(());
        }
        Err(format!(
            "open branch {} ({:?}): {error}",
            model.name, model.fate
        ))
    }

    fn judge_read(&mut self, branch: usize, (key, at, result): Answered) -> Result<(), Failure> {
        let model = &self.branches[branch];
        let place = format!("branch {} key {key:?} at {at}", model.name);
        let expected =
            visible(model, at).and_then(|()| model.value(&key, at).ok_or(ErrorKind::NotFound));
        self.judge(branch, &place, &expected, &result, |bytes| {
            (bytes.len(), crc32c::crc32c(bytes))
        })
    }

    fn judge_scan(
        &mut self,
        branch: usize,
        (from, to): (Key, Key),
        at: Lsn,
        result: Result<Vec<(Key, Vec<u8>)>, ReadError>,
    ) -> Result<(), Failure> {
        let model = &self.branches[branch];
        let place = format!("branch {} keys {from:?} to {to:?} at {at}", model.name);
        let expected = visible(model, at).map(|()| {
            let keys = model.versions.range(from..=to);
            keys.filter_map(|(key, _)| Some((*key, model.value(key, at)?)))
                .collect()
        });
        self.judged.scans += 1;
        self.judge(branch, &place, &expected, &result, |found| {
            let checksum = |sum, (key, bytes): &(Key, Vec<u8>)| {
                crc32c::crc32c_append(crc32c::crc32c_append(sum, &key.0), bytes)
            };
            (found.len(), found.iter().fold(0, checksum))
        })
    }

    /// Compares an answer with the expected one. `summary` gives an answer's size and checksum, for the trace.
    fn judge<T: PartialEq>(
        &mut self,
        branch: usize,
        place: &str,
        expected: &Result<T, ErrorKind>,
        result: &Result<T, ReadError>,
        summary: impl Fn(&T) -> (usize, u32),
    ) -> Result<(), Failure> {
        if self.branches[branch].fate == Fate::Unfinished {
            return Err(format!(
                "{place}: the branch was never committed, and opens"
            ));
        }
        let wanted = || match expected {
            Ok(right) => format!("an answer of {}", summary(right).0),
            Err(kind) => format!("{kind:?}"),
        };
        let simulator = &self.computer.simulator;
        match (expected, result) {
            (Ok(right), Ok(got)) if right == got => {
                simulator.event(format_args!("{place}: {:08x}", summary(got).1));
                self.judged.values += 1;
                Ok(())
            }
            (Err(right), Err(error)) if error.kind() == *right => {
                simulator.event(format_args!("{place}: {right:?}"));
                self.judged.refusals += 1;
                Ok(())
            }
            (_, Err(error)) if self.regime.allows(error.kind()) => {
                simulator.event(format_args!("{place}: excused {error}"));
                self.judged.excused += 1;
                Ok(())
            }
            (_, Ok(got)) => Err(format!(
                "{place}: WRONG VALUE, an answer of {}, expected {}",
                summary(got).0,
                wanted()
            )),
            (_, Err(error)) => Err(format!(
                "{place}: {error}, expected {}; nothing excuses it in {:?}",
                wanted(),
                self.regime
            )),
        }
    }
}

/// Whether a branch can be read at this LSN, or what a reader is told.
fn visible(model: &ModelBranch, at: Lsn) -> Result<(), ErrorKind> {
    if at < model.readable_from {
        Err(ErrorKind::Gone)
    } else if at > model.last_lsn {
        Err(ErrorKind::NotYet)
    } else {
        Ok(())
    }
}

/// Asks for all of it through one window, in order, as many at once as it holds.
pub(super) async fn read_all(
    shard: &Shard,
    tenant: TenantId,
    branch: BranchId,
    asks: Vec<(Key, Lsn)>,
) -> Result<Vec<Answered>, ReadError> {
    let branch = shard.open_branch(tenant, branch).await?;
    let mut reads = shard.reads(WINDOW);
    let mut answers = Vec::with_capacity(asks.len());
    let mut waiting = asks.iter();
    while answers.len() < asks.len() {
        while reads.has_room()
            && let Some((key, at)) = waiting.next()
        {
            reads.push(&branch, *key, *at);
        }
        let answer = reads.next().await.expect("one is in flight");
        let (key, at) = asks[answers.len()];
        let value = answer
            .result
            .as_ref()
            .map(|_| answer.value().expect("a value").to_vec());
        answers.push((key, at, value.map_err(Clone::clone)));
    }
    Ok(answers)
}

/// Reads in flight of one batch.
const WINDOW: usize = 8;
