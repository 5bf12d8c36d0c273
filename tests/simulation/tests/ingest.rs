//! A branch that is written while it is read, on the simulated computer: memory layers, flushes, pieces of WAL, compaction,
//! history given up but for what branches see, deletion of what is left over, kills and power losses at any moment, a store that refuses, doubts and loses puts. A model
//! judges every read, and every recovery: what was told to be durable is there.
//!
//! The WAL of these runs is a row of operations; a version's LSN is where its operation ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::cache::{CacheConfig, SLOT_BYTES};
use engine::catalog::{Catalog, CatalogError, CommitFacts, InlineCpu, Parent, WriterConfig};
use engine::ingest::{
    self, CompactionConfig, Due, Ingest, IngestConfig, IngestError, LocalCores, Retention,
};
use engine::io::clock::Clock;
use engine::layer::{LayerConfig, Value};
use engine::manifest::TimelineSpan;
use engine::shard::{Shard, ShardConfig};
use engine::store::{StoreClient, StoreConfig};
use engine::types::{BranchId, Key, Lsn, TenantId};
use engine::{ErrorKind, ReadError};
use futures_util::future::{Either, select};
use simulation::computer::{Computer, End, Server, ServerConfig, SimPlatform};
use simulation::executor::{Process, Simulator};
use simulation::model::key;
use simulation::redo::{DeltaFlag, apply_to, delta};
use simulation::rng::Rng;
use simulation::store::StoreFaults;
use simulation::trace::Trace;

/// What was put of each key: an image, or else a delta.
type Versions = BTreeMap<(Key, Lsn), (bool, Vec<u8>)>;

/// A run failed: what is not as it should be.
type Failure = String;

/// What happened in the runs.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    lives: u64,
    recovered: u64,
    reopened: u64,
    reads: u64,
    flushes: u64,
    pieces: u64,
    compactions: u64,
    dropped: u64,
    gone: u64,
    children: u64,
    reads_of_children: u64,
    images: u64,
    deleted: u64,
    orphans: u64,
    lost: u64,
    excused: u64,
}

struct World {
    rng: RefCell<Rng>,
    place: (TenantId, BranchId),
    versions: RefCell<Versions>,
    /// Everything behind [`BEGIN`].
    stream: RefCell<Vec<u8>>,
    /// Everything before was told to be durable.
    durable: Cell<Lsn>,
    /// Nothing below can be read; and nothing below the second, if its commit came through.
    horizon: Cell<(Lsn, Lsn)>,
    /// Branches of it, and where they left it.
    children: RefCell<Vec<(BranchId, Lsn)>>,
    counts: Cell<Counts>,
}

/// The last LSN of the branch before anything is written to it.
const BEGIN: u64 = 1000;

fn value_at(versions: &Versions, key: Key, at: Lsn) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = None;
    for (_, (is_image, bytes)) in versions.range((key, Lsn(0))..=(key, at)) {
        match is_image {
            true => value = Some(bytes.clone()),
            false => apply_to(value.get_or_insert_default(), bytes),
        }
    }
    value
}

/// An operation as the WAL has it.
fn encode(key: Key, is_image: bool, bytes: &[u8], stream: &mut Vec<u8>) {
    stream.extend_from_slice(&key.0[..8]);
    stream.push(u8::from(is_image));
    let len = u16::try_from(bytes.len()).expect("short");
    stream.extend_from_slice(&len.to_le_bytes());
    stream.extend_from_slice(bytes);
}

/// The operations in WAL that begins at `start`, each with where it ends.
fn decode(mut start: u64, mut wal: &[u8]) -> Vec<(Key, Lsn, bool, Vec<u8>)> {
    let mut operations = Vec::new();
    while let Some((head, rest)) = wal.split_first_chunk::<11>() {
        let [id @ .., is_image, low, high] = head;
        let (bytes, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])));
        start += (head.len() + bytes.len()) as u64;
        let key = Key::from_slice(id).expect("eight bytes");
        operations.push((key, Lsn(start), *is_image == 1, bytes.to_vec()));
        wal = rest;
    }
    operations
}

fn as_value(is_image: bool, bytes: &[u8]) -> Value<'_> {
    match is_image {
        true => Value::Image(bytes),
        false => Value::Delta(bytes),
    }
}

impl World {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    fn below(&self, end: u64) -> u64 {
        self.rng.borrow_mut().below(end)
    }

    fn end(&self) -> Lsn {
        Lsn(BEGIN + self.stream.borrow().len() as u64)
    }

    /// Some new operations, in the model and in the WAL.
    fn draw_operations(&self) -> Vec<(Key, Lsn, bool, Vec<u8>)> {
        let mut fresh = Vec::new();
        for _ in 0..=self.below(12) {
            let key = key(
                u32::try_from(self.below(5)).expect("small"),
                u32::try_from(self.below(6)).expect("small"),
            );
            let mut versions = self.versions.borrow_mut();
            let is_new = versions.range((key, Lsn(0))..=(key, Lsn::MAX)).count() == 0;
            let mut bytes = vec![0; 1 + self.rng.borrow_mut().index(400)];
            self.rng.borrow_mut().fill(&mut bytes);
            let is_image = is_new || self.below(20) == 0;
            if !is_image {
                let begins = self.below(15) == 0;
                let flag = [DeltaFlag::Changes, DeltaFlag::Begins][usize::from(begins)];
                bytes = delta(flag, &bytes);
            }
            encode(key, is_image, &bytes, &mut self.stream.borrow_mut());
            let lsn = self.end();
            versions.insert((key, lsn), (is_image, bytes.clone()));
            fresh.push((key, lsn, is_image, bytes));
        }
        fresh
    }

    /// Forgets what was not durable and did not come back.
    fn forget_above(&self, last: Lsn) {
        let mut versions = self.versions.borrow_mut();
        let before = versions.len();
        versions.retain(|(_, lsn), _| *lsn <= last);
        let lost = (before - versions.len()) as u64;
        self.count(|counts| counts.lost += lost);
        let len = usize::try_from(last.0 - BEGIN).expect("small");
        self.stream.borrow_mut().truncate(len);
    }

    async fn read_some(&self, shards: &[Shard<SimPlatform>], last: Lsn) -> Result<(), Failure> {
        let shard = &shards[usize::try_from(self.below(shards.len() as u64)).expect("small")];
        let branch = match shard.open_branch(self.place.0, self.place.1).await {
            Ok(branch) => branch,
            Err(error) => return self.excuse(&error),
        };
        for _ in 0..4 {
            let key = key(
                u32::try_from(self.below(5)).expect("small"),
                u32::try_from(self.below(6)).expect("small"),
            );
            let at = match self.below(3) {
                0 => last,
                _ => Lsn(BEGIN + self.below(last.0 - BEGIN + 1)),
            };
            let wanted = value_at(&self.versions.borrow(), key, at);
            let (horizon, _) = self.horizon.get();
            match shard.read(&branch, key, at).await {
                Err(ReadError::Gone { .. }) if at < self.horizon.get().1 => {
                    self.count(|counts| counts.gone += 1);
                }
                _ if at < horizon => return Err(format!("{key:?} at {at}: below {horizon}")),
                Ok(found) if Some(&found) == wanted.as_ref() => {
                    self.count(|counts| counts.reads += 1);
                }
                Err(ReadError::NotFound { .. }) if wanted.is_none() => {
                    self.count(|counts| counts.reads += 1);
                }
                Ok(found) => {
                    return Err(format!("{key:?} at {at}: {} bytes, not those", found.len()));
                }
                Err(error) => self.excuse(&error)?,
            }
        }
        self.read_a_child(shard).await
    }

    /// A branch shows what its parent was where it left it, whatever the parent has given up since.
    async fn read_a_child(&self, shard: &Shard<SimPlatform>) -> Result<(), Failure> {
        let count = self.children.borrow().len() as u64;
        if count == 0 {
            return Ok(());
        }
        let nth = usize::try_from(self.below(count)).expect("small");
        let (child, left_at) = self.children.borrow()[nth];
        let branch = match shard.open_branch(self.place.0, child).await {
            Ok(branch) => branch,
            Err(error) => return self.excuse(&error),
        };
        let key = key(
            u32::try_from(self.below(5)).expect("small"),
            u32::try_from(self.below(6)).expect("small"),
        );
        let wanted = value_at(&self.versions.borrow(), key, left_at);
        match shard.read(&branch, key, left_at).await {
            Ok(found) if Some(&found) == wanted.as_ref() => {}
            Err(ReadError::NotFound { .. }) if wanted.is_none() => {}
            Ok(found) => {
                let bytes = found.len();
                return Err(format!(
                    "a child at {left_at}: {key:?}: {bytes} bytes, not those"
                ));
            }
            Err(error) => return self.excuse(&error),
        }
        self.count(|counts| counts.reads_of_children += 1);
        Ok(())
    }

    /// Makes a branch of what is durable.
    async fn make_child(
        &self,
        shards: &[Shard<SimPlatform>],
        server: &Parts,
    ) -> Result<(), Failure> {
        let (tenant, branch) = self.place;
        let opened = shards[0].open_branch(tenant, branch).await;
        let (Ok(opened), Ok(tenant)) = (opened, server.catalog.tenant(tenant).await) else {
            return Ok(());
        };
        let parent = Parent::new(opened.manifest());
        let (from, to) = (opened.readable_from(), parent.last_lsn());
        let at = Lsn(from.0 + self.below(to.0 - from.0 + 1));
        let name = format!("child{}", self.below(1 << 40));
        let made = server
            .catalog
            .create_child(&tenant, &name, &parent, Some(at));
        match made.await {
            Ok(child) => {
                self.children.borrow_mut().push((child.id, at));
                self.count(|counts| counts.children += 1);
                Ok(())
            }
            // Whether it is there is not known: nobody reads it.
            Err(CatalogError::Manifest(_)) => Ok(()),
            Err(other) => Err(format!("a child at {at}: {other}")),
        }
    }

    /// An error that faults of the store explain.
    fn excuse(&self, error: &ReadError) -> Result<(), Failure> {
        match error.kind() {
            ErrorKind::Unavailable => {
                self.count(|counts| counts.excused += 1);
                Ok(())
            }
            _ => Err(format!("a read fails: {error}")),
        }
    }
}

/// One writer, from its claim until it is killed or the store fails it.
async fn live(
    world: Rc<World>,
    shards: Vec<Shard<SimPlatform>>,
    server: Parts,
) -> Result<(), Failure> {
    let mut is_again = false;
    loop {
        match write(&world, &shards, &server, is_again).await {
            Ok(never) => match never {},
            Err(Stop::Failed(failure)) => return Err(failure),
            // The store: the next writer goes on, in this process or in the next.
            Err(Stop::Store) if world.below(3) == 0 => return Ok(()),
            Err(Stop::Store) => is_again = true,
        }
        server.clock.sleep(Duration::from_millis(50)).await;
    }
}

enum Stop {
    Failed(Failure),
    Store,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<IngestError> for Stop {
    fn from(error: IngestError) -> Stop {
        match error {
            IngestError::Catalog(_) | IngestError::Open(_) | IngestError::Broken { .. } => {
                Stop::Store
            }
            other => Stop::Failed(format!("the ingest fails: {other}")),
        }
    }
}

/// What a writer needs of a server.
struct Parts {
    branches: std::sync::Arc<engine::SharedBranches>,
    catalog: Catalog<StoreClient>,
    clock: Simulator,
}

async fn write(
    world: &Rc<World>,
    shards: &[Shard<SimPlatform>],
    server: &Parts,
    is_again: bool,
) -> Result<std::convert::Infallible, Stop> {
    let cores = LocalCores::new(shards.to_vec());
    let config = IngestConfig {
        layer: LayerConfig::tiny(),
        compaction: CompactionConfig::tiny(),
        ..IngestConfig::default()
    };
    let opened = ingest::open(&server.branches, cores, &server.clock, world.place, config);
    let Ingest {
        facts,
        mut versions,
        mut flusher,
        compactor,
        mut garbage,
        mut replay,
        ..
    } = opened.await?;
    // Recovery: what is in layers, and the WAL behind it.
    let mut last = facts.last_lsn;
    while let Some(piece) = replay.next().await? {
        for (key, lsn, is_image, bytes) in decode(piece.start.0, &piece.bytes) {
            if lsn > facts.last_lsn {
                versions.put(key, lsn, as_value(is_image, &bytes));
                last = lsn;
            }
        }
    }
    if is_again {
        // The local WAL has what this process had taken.
        let known = usize::try_from(last.0 - BEGIN).expect("small");
        let local = world.stream.borrow()[known..].to_vec();
        for (key, lsn, is_image, bytes) in decode(last.0, &local) {
            versions.put(key, lsn, as_value(is_image, &bytes));
            last = lsn;
        }
        world.count(|counts| counts.reopened += 1);
    }
    versions.advance(last).await?;
    if last < world.durable.get() {
        return Err(format!("{} was durable, {last} came back", world.durable.get()).into());
    }
    world.count(|counts| counts.recovered += 1);
    let horizon = facts.readable_from.expect("it was readable once");
    if !(world.horizon.get().0..=world.horizon.get().1).contains(&horizon) {
        return Err(format!("the horizon is {horizon}").into());
    }
    world.horizon.set((horizon, horizon));
    let mut retention = Retention::new(Duration::from_millis(300));
    world.forget_above(last);
    let mut wal = replay.into_store(Lsn(BEGIN));
    let mut stored = wal.end();
    if world.below(3) == 0 {
        let found = garbage.find_orphans_once(server.clock.now()).await?;
        world.count(|counts| counts.orphans += found);
    }
    loop {
        world.read_some(shards, last).await?;
        for (key, lsn, is_image, bytes) in world.draw_operations() {
            versions.put(key, lsn, as_value(is_image, &bytes));
            last = lsn;
        }
        versions.advance(last).await?;
        world.read_some(shards, last).await?;
        if world.below(3) == 0 {
            let from = usize::try_from(stored.0 - BEGIN).expect("small");
            let bytes = world.stream.borrow()[from..].to_vec();
            wal.put(stored, bytes.into(), &InlineCpu).await?;
            stored = wal.end();
            world.durable.set(stored.max(world.durable.get()));
            world.count(|counts| counts.pieces += 1);
        }
        if world.below(6) == 0 {
            let position = wal.position(last);
            let frozen = versions.freeze().await?;
            world.read_some(shards, last).await?;
            let flushed = flusher.flush(frozen, position, &InlineCpu).await?;
            world
                .durable
                .set(flushed.durable_lsn.max(world.durable.get()));
            world.count(|counts| counts.flushes += 1);
            world.read_some(shards, last).await?;
        }
        if world.below(8) == 0 {
            let compacting = compactor.compact(&InlineCpu);
            let reading = world.read_some(shards, last);
            let (compacted, read) = futures_util::join!(compacting, reading);
            read?;
            if let Some(compacted) = compacted? {
                let removed = compacted.removed();
                let committing = flusher.commit_compaction(compacted);
                let reading = world.read_some(shards, last);
                let (committed, read) = futures_util::join!(committing, reading);
                read?;
                let compaction = committed?;
                garbage.take(&removed, server.clock.now());
                world.count(|counts| {
                    counts.compactions += 1;
                    counts.dropped += compaction.dropped;
                    counts.images += compaction.images;
                });
                world.read_some(shards, last).await?;
            }
        }
        if world.below(12) == 0 {
            world.make_child(shards, server).await?;
        }
        if world.below(4) == 0 {
            let (horizon, _) = world.horizon.get();
            world.horizon.set((horizon, last));
            let wanted = Lsn(flusher.durable_lsn().0.saturating_sub(WAL_KEPT));
            let retaining = flusher.retain(&mut retention, wanted, server.clock.now());
            let (retained, read) = futures_util::join!(retaining, world.read_some(shards, last));
            read?;
            let horizon = match retained? {
                Due::Raise(raised) => raised.min(flusher.durable_lsn()).max(horizon),
                Due::GiveUp(_) | Due::Nothing => horizon,
            };
            world.horizon.set((horizon, horizon));
        }
        let deleted = garbage.delete_due(server.clock.now()).await?;
        world.count(|counts| counts.deleted += deleted.objects);
    }
}

fn config(rng: &mut Rng) -> ServerConfig {
    ServerConfig {
        cores: 1 + rng.index(3),
        cache: CacheConfig {
            cache_bytes: rng.between(2, 40) * SLOT_BYTES + (256 << 10),
            ..CacheConfig::tiny()
        },
        shard: ShardConfig {
            ram_bytes_max: if rng.chance(500) { 0 } else { 8 * 8192 },
            ..ShardConfig::tiny()
        },
        store: StoreConfig::tiny(),
        store_threads: 1 + rng.index(2),
    }
}

fn faults(rng: &mut Rng) -> StoreFaults {
    let mut often = |most| match rng.chance(500) {
        true => u16::try_from(rng.below(most)).expect("small"),
        false => 0,
    };
    StoreFaults {
        get_error: often(80),
        get_vanished: often(40),
        body_error: often(60),
        put_refused: often(150),
        put_doubtful: often(150),
        put_late: often(60),
        put_vanished: often(60),
        list_error: often(60),
        ..StoreFaults::default()
    }
}

async fn make_branch(server: &Server) -> (TenantId, BranchId) {
    let tenant = server
        .catalog
        .create_tenant("acme")
        .await
        .expect("a tenant");
    let timelines = vec![TimelineSpan {
        timeline: 1,
        from: Lsn(1),
        to: Lsn::MAX,
    }];
    let begun = server
        .catalog
        .begin_branch(&tenant, "main", timelines, WriterConfig::tiny());
    let (writer, uploads) = begun.await.expect("begun");
    let commit = writer.commit(CommitFacts {
        readable_from: Lsn(BEGIN),
        last_lsn: Lsn(BEGIN),
        base_backup: None,
    });
    let (branch, ()) = futures_util::join!(commit, uploads.run(InlineCpu));
    (tenant.id(), branch.expect("committed"))
}

async fn start(computer: &Computer, config: ServerConfig) -> Result<(Server, Process), Failure> {
    let process = computer.simulator.process();
    let server = computer.start(process.clone(), config).await;
    Ok((server.map_err(|error| format!("start: {error}"))?, process))
}

async fn drive(computer: Computer, mut rng: Rng, counts: Rc<Cell<Counts>>) -> Result<(), Failure> {
    let (server, process) = start(&computer, config(&mut rng)).await?;
    let place = make_branch(&server).await;
    computer.end(&process, End::Exit);
    let world = Rc::new(World {
        rng: RefCell::new(Rng::split(rng.number(), "operations")),
        place,
        versions: RefCell::default(),
        stream: RefCell::default(),
        durable: Cell::new(Lsn(BEGIN)),
        horizon: Cell::new((Lsn(BEGIN), Lsn(BEGIN))),
        children: RefCell::default(),
        counts: Cell::default(),
    });
    for life in 0..LIVES {
        let (server, process) = start(&computer, config(&mut rng)).await?;
        let is_last = life + 1 == LIVES;
        let faults = if is_last {
            StoreFaults::default()
        } else {
            faults(&mut rng)
        };
        computer.store.set_faults(faults);
        let parts = Parts {
            branches: std::sync::Arc::clone(&server.branches),
            catalog: server.catalog.clone(),
            clock: computer.simulator.clone(),
        };
        let living = process.call(live(Rc::clone(&world), server.shards.clone(), parts));
        let wait = Duration::from_micros(rng.below(4_000_000));
        let killed = computer.simulator.sleep(wait);
        if let Either::Left((Some(outcome), _)) = select(pin!(living), pin!(killed)).await {
            outcome?;
        }
        world.count(|counts| counts.lives += 1);
        let how = [End::Kill, End::PowerLoss][rng.index(2)];
        computer.end(&process, how);
        // What is under way in the network arrives, or never.
        computer.simulator.sleep(Duration::from_secs(10)).await;
    }
    counts.set(world.counts.get());
    Ok(())
}

fn run(seed: u64) -> Result<Counts, Failure> {
    let simulator = Simulator::new(Rng::split(seed, "scheduler"), Trace::new(false), POLLS_MAX);
    let rng = Rng::split(seed, "ingest");
    let computer = Computer::new(&simulator, seed, 4096);
    let counts: Rc<Cell<Counts>> = Rc::default();
    let outcome: Rc<RefCell<Option<Result<(), Failure>>>> = Rc::default();
    let (theirs, told) = (Rc::clone(&counts), Rc::clone(&outcome));
    let ended = simulator.run(async move {
        *told.borrow_mut() = Some(drive(computer, rng, theirs).await);
    });
    ended.map_err(|stuck| stuck.to_string())?;
    outcome.borrow_mut().take().expect("it ended")?;
    simulator.shut_down();
    Ok(counts.get())
}

/// WAL that stays readable.
const WAL_KEPT: u64 = 6000;
const LIVES: u32 = 12;
const POLLS_MAX: u64 = 50_000_000;
const SEEDS: u64 = 60;

#[test]
fn nothing_durable_is_lost_and_every_read_is_right() {
    let next = AtomicU64::new(0);
    let total: Mutex<(Counts, Vec<String>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let outcome = run(seed);
                    let mut total = total.lock().expect("nobody panics with it");
                    match outcome {
                        Ok(counts) => {
                            let sum = &mut total.0;
                            sum.lives += counts.lives;
                            sum.recovered += counts.recovered;
                            sum.reopened += counts.reopened;
                            sum.reads += counts.reads;
                            sum.flushes += counts.flushes;
                            sum.pieces += counts.pieces;
                            sum.compactions += counts.compactions;
                            sum.dropped += counts.dropped;
                            sum.gone += counts.gone;
                            sum.children += counts.children;
                            sum.reads_of_children += counts.reads_of_children;
                            sum.images += counts.images;
                            sum.deleted += counts.deleted;
                            sum.orphans += counts.orphans;
                            sum.lost += counts.lost;
                            sum.excused += counts.excused;
                        }
                        Err(failure) => total.1.push(format!("seed {seed}: {failure}")),
                    }
                }
            });
        }
    });
    let (counts, failures) = total.into_inner().expect("nobody panics with it");
    println!("{counts:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(counts.compactions > 300 && counts.images > 300 && counts.dropped > 1000);
    assert!(counts.gone > 1000 && counts.children > 100 && counts.reads_of_children > 1000);
    assert!(counts.reopened > 50);
    assert!(counts.deleted > 300 && counts.orphans > 10);
    assert!(counts.recovered > 300 && counts.flushes > 300 && counts.pieces > 1000);
    assert!(counts.reads > 20_000 && counts.lost > 100 && counts.excused > 10);
}
