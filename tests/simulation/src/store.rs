//! The simulated object store: immutable objects behind a network that delays, cuts, loses and doubts.
//!
//! | fault | what happens | what the engine owes |
//! | --- | --- | --- |
//! | `get_error` | the read is refused before its first byte | a retry, else `Unavailable` |
//! | `get_vanished` | the read never answers | a deadline |
//! | `get_slow` | the first byte takes long | a deadline or a hedge |
//! | `body_error` | the body breaks off with an error | a retry |
//! | `body_short` | the body ends early without one | to notice |
//! | `body_stalled` | the body stops coming | a deadline |
//! | `body_flip` | a bit of the body is wrong; the object is fine | to notice |
//! | `body_wrong` | bytes of another range of the object come | to notice |
//! | `put_refused` | the put fails and is not done | a retry |
//! | `put_doubtful` | the put fails and *is* done | to read back and compare |
//! | `put_late` | the put fails and is done some time later | never to write the name with other bytes |
//! | `put_vanished` | the put never answers, done or not | a deadline, then as `put_doubtful` |
//! | `list_error`, `delete_error` | the call fails; a deletion may be done | a retry |
//! | `away` | everything is refused for a while ([`SimStore::set_away`]) | hits go on |
//! | `damage` | an object is changed at rest ([`SimStore::damage`]) | `Corrupt` naming it, never a wrong page |
//!
//! A request travels by itself: when its future is dropped, or its process killed, a put may still be done.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use engine::io::clock::Clock;
use engine::store::objects::{ListedObject, Objects, StoreError};
use futures_util::Stream;

use crate::coverage::Coverage;
use crate::executor::{Process, Simulator};
use crate::rng::{PerMille, Rng};

/// How often each fault happens. All zero by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFaults {
    /// Reads refused.
    pub get_error: PerMille,
    /// Reads that never answer.
    pub get_vanished: PerMille,
    /// Reads whose first byte takes long.
    pub get_slow: PerMille,
    /// Bodies that break off with an error.
    pub body_error: PerMille,
    /// Bodies that end early without one.
    pub body_short: PerMille,
    /// Bodies that stop coming.
    pub body_stalled: PerMille,
    /// Bodies with a wrong bit.
    pub body_flip: PerMille,
    /// Bodies of another range.
    pub body_wrong: PerMille,
    /// Puts that fail and are not done.
    pub put_refused: PerMille,
    /// Puts that fail and are done.
    pub put_doubtful: PerMille,
    /// Puts that fail and are done later.
    pub put_late: PerMille,
    /// Puts that never answer.
    pub put_vanished: PerMille,
    /// Listings that fail.
    pub list_error: PerMille,
    /// Deletions that fail.
    pub delete_error: PerMille,
}

/// How an object at rest is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit flips.
    Flip,
    /// It loses its end.
    Cut,
    /// It is gone.
    Gone,
    /// It has the bytes of another object.
    Replaced,
}

/// A simulated store. Outlives the processes that use it. Clones share it.
#[derive(Clone)]
pub struct SimStore(Rc<World>);

struct World {
    clock: Simulator,
    /// Carries out puts, whatever becomes of those who asked.
    network: Process,
    rng: RefCell<Rng>,
    faults: Cell<StoreFaults>,
    away: Cell<bool>,
    coverage: Coverage,
    objects: RefCell<BTreeMap<String, Bytes>>,
    /// How objects are damaged, and what they were before.
    damaged: RefCell<BTreeMap<String, (Damage, Bytes)>>,
    counts: Cell<RequestCounts>,
}

/// Requests the store has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Ranged and whole reads.
    pub gets: u64,
    /// Puts.
    pub puts: u64,
    /// Listings.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Puts of a name that exists with other bytes: a writer that does not keep to "named once".
    pub conflicting_puts: u64,
}

impl SimStore {
    /// An empty store.
    pub fn new(simulator: &Simulator, rng: Rng, coverage: Coverage) -> SimStore {
        SimStore(Rc::new(World {
            clock: simulator.clone(),
            network: simulator.process(),
            rng: RefCell::new(rng),
            faults: Cell::default(),
            away: Cell::new(false),
            coverage,
            objects: RefCell::default(),
            damaged: RefCell::default(),
            counts: Cell::default(),
        }))
    }

    /// From now on faults happen this often.
    pub fn set_faults(&self, faults: StoreFaults) {
        self.0.faults.set(faults);
    }

    /// Whether every request is refused.
    pub fn set_away(&self, away: bool) {
        self.0.clock.event(format_args!("store away: {away}"));
        self.0.away.set(away);
    }

    /// What was asked so far.
    pub fn counts(&self) -> RequestCounts {
        self.0.counts.get()
    }

    /// Names of all objects that start with `prefix`, in order.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let objects = self.0.objects.borrow();
        objects
            .keys()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Damages an object at rest, at random; says which. [`SimStore::heal`] undoes it. Whoever reads the object until
    /// then meets the fault.
    pub fn damage(&self, names: &[String], how: Damage) -> Option<String> {
        let world = &self.0;
        let mut rng = world.rng.borrow_mut();
        if names.is_empty() {
            return None;
        }
        let name = names[rng.index(names.len())].clone();
        let mut objects = world.objects.borrow_mut();
        let whole = objects.get(&name).cloned()?;
        let bytes = match how {
            Damage::Flip => {
                let mut bytes = whole.to_vec();
                let at = rng.index(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
                Some(Bytes::from(bytes))
            }
            Damage::Cut => Some(whole.slice(..rng.index(whole.len()))),
            Damage::Gone => None,
            Damage::Replaced => {
                let other = &names[rng.index(names.len())];
                Some(objects.get(other).cloned().unwrap_or_default())
            }
        };
        if bytes.as_ref() == Some(&whole) {
            return None;
        }
        match bytes {
            Some(bytes) => objects.insert(name.clone(), bytes),
            None => objects.remove(&name),
        };
        world
            .damaged
            .borrow_mut()
            .entry(name.clone())
            .and_modify(|(now, _)| *now = how)
            .or_insert((how, whole));
        world
            .clock
            .event(format_args!("store damage {how:?} {name}"));
        Some(name)
    }

    /// Whether this object is damaged now.
    pub fn is_damaged(&self, name: &str) -> bool {
        self.0.damaged.borrow().contains_key(name)
    }

    /// Whether any object is damaged now.
    pub fn any_damaged(&self) -> bool {
        !self.0.damaged.borrow().is_empty()
    }

    /// Puts all damaged objects back as they were.
    pub fn heal(&self) {
        let damaged = std::mem::take(&mut *self.0.damaged.borrow_mut());
        let whole = damaged.into_iter().map(|(name, (_, bytes))| (name, bytes));
        self.0.objects.borrow_mut().extend(whole);
    }
}

impl World {
    fn roll(&self, chance: PerMille, fault: &'static str) -> bool {
        let hit = self.rng.borrow_mut().chance(chance);
        if hit {
            self.clock.event(format_args!("fault: {fault}"));
            self.coverage.count(fault);
        }
        hit
    }

    fn draw(&self, end: u64) -> u64 {
        self.rng.borrow_mut().below(end)
    }

    fn count(&self, add: impl FnOnce(&mut RequestCounts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }

    async fn delay(&self, least_us: u64, spread_us: u64) {
        let wait = Duration::from_micros(least_us + self.draw(spread_us));
        self.clock.sleep(wait).await;
    }

    /// What every request goes through first.
    async fn arrive(&self, path: &str) -> Result<(), StoreError> {
        self.delay(300, 700).await;
        if self.away.get() {
            self.coverage.count("store away");
            return Err(unavailable(path, "the store is away"));
        }
        Ok(())
    }

    /// What a read goes through before its first byte.
    async fn first_byte(&self, path: &str) -> Result<(), StoreError> {
        self.count(|counts| counts.gets += 1);
        self.arrive(path).await?;
        if let Some((how, _)) = self.damaged.borrow().get(path) {
            self.coverage.count(match how {
                Damage::Flip => "store damage_flip",
                Damage::Cut => "store damage_cut",
                Damage::Gone => "store damage_gone",
                Damage::Replaced => "store damage_replaced",
            });
        }
        let faults = self.faults.get();
        if self.roll(faults.get_error, "store get_error") {
            return Err(unavailable(path, "simulated: 503"));
        }
        if self.roll(faults.get_vanished, "store get_vanished") {
            std::future::pending::<()>().await;
        }
        if self.roll(faults.get_slow, "store get_slow") {
            self.delay(20_000, 200_000).await;
        }
        Ok(())
    }

    /// Creates the object now, if its name is free.
    fn create(&self, path: &str, body: &Bytes) -> Result<(), StoreError> {
        let mut objects = self.objects.borrow_mut();
        let taken = objects.get(path).cloned().or_else(|| {
            self.damaged
                .borrow()
                .get(path)
                .map(|(_, whole)| whole.clone())
        });
        self.clock.event(format_args!(
            "store put {path}: {} bytes, taken {}",
            body.len(),
            taken.is_some()
        ));
        match taken {
            None => {
                objects.insert(path.to_owned(), body.clone());
                Ok(())
            }
            Some(there) => {
                if there != *body {
                    self.count(|counts| counts.conflicting_puts += 1);
                }
                Err(StoreError::AlreadyExists {
                    path: path.to_owned(),
                })
            }
        }
    }

    fn range_of(&self, path: &str, range: &Range<u64>) -> Result<Bytes, StoreError> {
        let objects = self.objects.borrow();
        let object = objects.get(path).ok_or_else(|| StoreError::NotFound {
            path: path.to_owned(),
        })?;
        let len = object.len() as u64;
        let want_bytes = range.end - range.start;
        if range.end > len {
            return Err(StoreError::Truncated {
                path: path.to_owned(),
                want_end: range.end,
                object_bytes_max: len,
            });
        }
        let start = usize::try_from(range.start).expect("inside the object");
        let end = usize::try_from(range.end).expect("inside the object");
        if want_bytes > 0 && self.roll(self.faults.get().body_wrong, "store body_wrong") {
            let other = usize::try_from(self.draw(len - (end - start) as u64 + 1)).expect("inside");
            return Ok(object.slice(other..other + (end - start)));
        }
        Ok(object.slice(start..end))
    }

    /// Spoils the bytes of a body on their way.
    fn on_the_way(&self, whole: Bytes) -> Bytes {
        if whole.is_empty() || !self.roll(self.faults.get().body_flip, "store body_flip") {
            return whole;
        }
        let mut bytes = whole.to_vec();
        let at = usize::try_from(self.draw(bytes.len() as u64)).expect("inside the body");
        bytes[at] ^= 1 << self.draw(8);
        Bytes::from(bytes)
    }
}

/// The body of a ranged read: pieces, each with its delay, then perhaps an error.
pub struct SimBody {
    world: Rc<World>,
    pieces: VecDeque<Piece>,
    waiting: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

enum Piece {
    Bytes(Bytes),
    Fails(StoreError),
    Never,
}

impl Stream for SimBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if matches!(self.pieces.front(), Some(Piece::Never)) {
            return Poll::Pending;
        }
        if self.pieces.is_empty() {
            return Poll::Ready(None);
        }
        let world = Rc::clone(&self.world);
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(async move { world.delay(20, 200).await }));
        if waiting.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.waiting = None;
        match self.pieces.pop_front() {
            Some(Piece::Bytes(bytes)) => Poll::Ready(Some(Ok(bytes))),
            Some(Piece::Fails(error)) => Poll::Ready(Some(Err(error))),
            Some(Piece::Never) | None => unreachable!("looked at above"),
        }
    }
}

impl Objects for SimStore {
    type Body = SimBody;

    async fn get(&self, path: &str, range: Range<u64>) -> Result<SimBody, StoreError> {
        let world = &self.0;
        world.clock.event(format_args!(
            "store get {path} {}..{}",
            range.start, range.end
        ));
        world.first_byte(path).await?;
        let whole = world.on_the_way(world.range_of(path, &range)?);
        let faults = world.faults.get();
        let mut pieces = VecDeque::new();
        let mut rest = whole.clone();
        while !rest.is_empty() {
            let piece = usize::try_from(world.draw(PIECE_BYTES_MAX) + 1)
                .expect("small")
                .min(rest.len());
            pieces.push_back(Piece::Bytes(rest.split_to(piece)));
        }
        let keep = world.draw(pieces.len() as u64 + 1);
        let keep = usize::try_from(keep).expect("below a count");
        if world.roll(faults.body_error, "store body_error") {
            pieces.truncate(keep);
            pieces.push_back(Piece::Fails(unavailable(
                path,
                "simulated: connection reset",
            )));
        } else if world.roll(faults.body_short, "store body_short") {
            pieces.truncate(keep.min(pieces.len().saturating_sub(1)));
        } else if world.roll(faults.body_stalled, "store body_stalled") {
            pieces.truncate(keep);
            pieces.push_back(Piece::Never);
        }
        Ok(SimBody {
            world: Rc::clone(world),
            pieces,
            waiting: None,
        })
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        let world = &self.0;
        world.clock.event(format_args!("store get {path}"));
        world.first_byte(path).await?;
        let faults = world.faults.get();
        let whole = world.objects.borrow().get(path).cloned();
        let whole = whole.ok_or_else(|| StoreError::NotFound {
            path: path.to_owned(),
        })?;
        if world.roll(faults.body_error, "store body_error") {
            return Err(unavailable(path, "simulated: connection reset"));
        }
        if world.roll(faults.body_stalled, "store body_stalled") {
            std::future::pending::<()>().await;
        }
        world.delay(20, 200).await;
        Ok(world.on_the_way(whole))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        let (answer, answered) = async_channel::bounded(1);
        let world = Rc::clone(&self.0);
        let name = path.to_owned();
        self.0.network.spawn(async move {
            if let Some(result) = carry_out(&world, &name, body).await {
                // The one who asked may be gone.
                let _ = answer.try_send(result);
            } else {
                std::future::pending::<()>().await;
            }
        });
        answered
            .recv()
            .await
            .unwrap_or_else(|_| unreachable!("the network outlives its users"))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let world = &self.0;
        world.count(|counts| counts.lists += 1);
        world
            .clock
            .event(format_args!("store list {prefix} after {after:?}"));
        world.arrive(prefix).await?;
        if world.roll(world.faults.get().list_error, "store list_error") {
            return Err(unavailable(prefix, "simulated: 503"));
        }
        let directory = if prefix.is_empty() || prefix.ends_with('/') {
            prefix.to_owned()
        } else {
            format!("{prefix}/")
        };
        let objects = world.objects.borrow();
        Ok(objects
            .iter()
            .filter(|(name, _)| name.starts_with(&directory))
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .map(|(name, bytes)| ListedObject {
                path: name.clone(),
                size_bytes: bytes.len() as u64,
            })
            .collect())
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let world = &self.0;
        world.count(|counts| counts.deletes += 1);
        world.arrive(path).await?;
        let fails = world.roll(world.faults.get().delete_error, "store delete_error");
        if !fails || world.draw(2) == 0 {
            world.objects.borrow_mut().remove(path);
            world.clock.event(format_args!("store delete {path}"));
        }
        if fails {
            Err(unavailable(path, "simulated: 503"))
        } else {
            Ok(())
        }
    }
}

/// What becomes of a put; `None` if nobody will hear.
async fn carry_out(world: &Rc<World>, path: &str, body: Bytes) -> Option<Result<(), StoreError>> {
    world.count(|counts| counts.puts += 1);
    if let Err(away) = world.arrive(path).await {
        return Some(Err(away));
    }
    let faults = world.faults.get();
    if world.roll(faults.put_refused, "store put_refused") {
        return Some(Err(unavailable(path, "simulated: 503, not done")));
    }
    if world.roll(faults.put_late, "store put_late") {
        let (late, name) = (Rc::clone(world), path.to_owned());
        world.network.spawn(async move {
            late.delay(1_000, LATE_US_MAX).await;
            // Nobody hears the answer.
            let _ = late.create(&name, &body);
        });
        return Some(Err(unavailable(
            path,
            "simulated: connection reset, done later",
        )));
    }
    let vanishes = world.roll(faults.put_vanished, "store put_vanished");
    if vanishes && world.draw(2) == 0 {
        return None;
    }
    world.delay(200, 2_000).await;
    let result = world.create(path, &body);
    if vanishes {
        return None;
    }
    if world.roll(faults.put_doubtful, "store put_doubtful") {
        return Some(Err(unavailable(path, "simulated: 500, done")));
    }
    Some(result)
}

fn unavailable(path: &str, reason: &str) -> StoreError {
    StoreError::Unavailable {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Longest piece of a body.
const PIECE_BYTES_MAX: u64 = 128 << 10;
/// A late put is done at most this much later.
const LATE_US_MAX: u64 = 3_000_000;

#[cfg(test)]
mod tests;
