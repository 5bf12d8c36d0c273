//! What is done to the engine in one run, and the judgement of its answers.
//!
//! A run is a row of episodes. Each has its own faults, drawn from the seed, and some dozens of operations: reads of
//! several shapes, imports of new branches, kills, power losses, stops, starts with other numbers of cores and other
//! sizes of the cache, damage to objects. Between two episodes all faults end, objects are healed, and what was under
//! way settles. At the end of the run everything must be readable.
//!
//! The rules of the judgement (`Regime::allows`):
//!
//! - a value is right or it is a failure of the run: there is no excuse for a wrong page;
//! - `NotFound`, `Gone`, `NotYet` must be what the model says;
//! - `Unavailable` is allowed only while the store or the key service has faults, or objects are damaged: **faults of
//!   the disk alone never make a read fail**;
//! - `Corrupt` is allowed only while objects are damaged, or the network spoils bodies (the engine fetches what does
//!   not open once more, so twice in a row is needed);
//! - a branch is visible as a whole or not at all, and once visible it stays.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::cache::{CacheConfig, SLOT_BYTES};
use engine::catalog::{Catalog, CatalogError, CommitFacts, InlineCpu, Tenant, WriterConfig};
use engine::io::clock::Clock;
use engine::layer::Value;
use engine::manifest::TimelineSpan;
use engine::shard::{Shard, ShardConfig};
use engine::store::{StoreClient, StoreConfig};
use engine::types::{BranchId, Id, Key, Lsn, TenantId};
use engine::{ErrorKind, ReadError};
use futures_util::future::{Either, LocalBoxFuture, select};

use super::computer::{Computer, Server, ServerConfig, SimPlatform};
use super::coverage::Phase;
use super::disk::DiskFaults;
use super::model::{Fate, ModelBranch, Version, key};
use super::rng::{PerMille, Rng};
use super::store::{Damage, StoreFaults};
use super::trace::{FNV_START, fnv1a};

/// Why a run failed.
pub type Failure = String;

/// What was judged in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Operations of any kind.
    pub operations: u64,
    /// Right values.
    pub values: u64,
    /// Right refusals: nothing there, too old, too new.
    pub refusals: u64,
    /// Errors that a fault excuses.
    pub excused: u64,
    /// Branches that became visible.
    pub branches: u64,
    /// Processes started.
    pub starts: u64,
}

impl Judged {
    /// Adds another run's.
    pub fn add(&mut self, other: &Judged) {
        self.operations += other.operations;
        self.values += other.values;
        self.refusals += other.refusals;
        self.excused += other.excused;
        self.branches += other.branches;
        self.starts += other.starts;
    }
}

/// Which faults are on.
#[derive(Clone, Copy, Debug, Default)]
struct Regime {
    disk: DiskFaults,
    store: StoreFaults,
    store_away: bool,
    keys_away: bool,
    damaged: bool,
}

impl Regime {
    fn draw(rng: &mut Rng) -> Regime {
        let mut regime = Regime::default();
        match rng.below(8) {
            0 => {}
            1 | 2 => regime.disk = draw_disk(rng),
            3 | 4 => regime.store = draw_store(rng),
            5 => {
                regime.disk = draw_disk(rng);
                regime.store = draw_store(rng);
            }
            6 => {
                regime.damaged = true;
                regime.disk = draw_disk(rng);
            }
            _ => {
                regime.keys_away = rng.chance(500);
                regime.store_away = !regime.keys_away || rng.chance(300);
            }
        }
        regime
    }

    /// Whether a read may fail like this.
    fn allows(&self, kind: ErrorKind) -> bool {
        let spoiled = self.store.body_flip > 0 || self.store.body_wrong > 0;
        match kind {
            ErrorKind::Unavailable => {
                self.store != StoreFaults::default()
                    || self.store_away
                    || self.keys_away
                    || self.damaged
            }
            ErrorKind::Corrupt => self.damaged || spoiled,
            ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::NotYet | ErrorKind::Refused => false,
        }
    }
}

fn draw_chance(rng: &mut Rng) -> PerMille {
    let on = rng.chance(500);
    let chance = rng.between(5, 80);
    if on {
        u16::try_from(chance).expect("at most 80")
    } else {
        0
    }
}

fn draw_disk(rng: &mut Rng) -> DiskFaults {
    DiskFaults {
        read_error: draw_chance(rng),
        read_short: draw_chance(rng),
        read_misdirected: draw_chance(rng),
        read_flip: draw_chance(rng),
        read_slow: draw_chance(rng),
        write_error: draw_chance(rng),
        write_short: draw_chance(rng),
        write_lost: draw_chance(rng),
        write_misdirected: draw_chance(rng),
        sync_error: draw_chance(rng),
        sync_lie: draw_chance(rng),
        open_error: draw_chance(rng),
    }
}

fn draw_store(rng: &mut Rng) -> StoreFaults {
    StoreFaults {
        get_error: draw_chance(rng),
        get_vanished: draw_chance(rng),
        get_slow: draw_chance(rng),
        body_error: draw_chance(rng),
        body_short: draw_chance(rng),
        body_stalled: draw_chance(rng),
        body_flip: draw_chance(rng),
        body_wrong: draw_chance(rng),
        put_refused: draw_chance(rng),
        put_doubtful: draw_chance(rng),
        put_late: draw_chance(rng),
        put_vanished: draw_chance(rng),
        list_error: draw_chance(rng),
        delete_error: draw_chance(rng),
    }
}

/// The one who drives a run.
pub struct Driver {
    computer: Computer,
    rng: Rng,
    tenant: TenantId,
    branches: Vec<ModelBranch>,
    regime: Regime,
    judged: Judged,
    next_name: u32,
    /// Whether this run leaves the local disk alone: no faults, no kills.
    quiet_disk: bool,
}

/// What one read asked and got.
type Answered = (Key, Lsn, Result<Vec<u8>, ReadError>);

impl Driver {
    /// A driver of a fresh computer; `rng` is the workload's own.
    pub fn new(computer: Computer, mut rng: Rng) -> Driver {
        Driver {
            quiet_disk: rng.chance(250),
            computer,
            rng,
            tenant: TenantId(Id([0; 16])),
            branches: Vec::new(),
            regime: Regime::default(),
            judged: Judged::default(),
            next_name: 0,
        }
    }

    /// Runs until `operations_min` operations are done, and then the final check.
    /// # Errors
    /// The first answer that the model does not allow.
    pub async fn run(mut self, operations_min: u64) -> Result<Judged, Failure> {
        let mut server = self.start().await?;
        let tenant = server.catalog.create_tenant("acme").await;
        self.tenant = tenant
            .map_err(|error| format!("create the tenant: {error}"))?
            .id();
        while self.branches.is_empty() {
            self.import(&server).await?;
        }
        while self.judged.operations < operations_min {
            server = self.episode(server).await?;
        }
        // With no faults left, everything that was ever visible is there, also for a process that starts with
        // what is on the disk now, whatever happened to it.
        server.kill(&self.computer.disk);
        let server = self.start().await?;
        for branch in 0..self.branches.len() {
            self.look_up(&server, branch).await?;
            self.read_everything(&server, branch).await?;
        }
        server.stop(&self.computer.disk).await;
        Ok(self.judged)
    }

    async fn episode(&mut self, mut server: Server) -> Result<Server, Failure> {
        self.set_regime();
        let operations = self.rng.between(10, 60);
        for _ in 0..operations {
            self.judged.operations += 1;
            match self.rng.below(100) {
                0..=2 => self.import(&server).await?,
                3 => self.import_twins(&server).await?,
                4..=7 => server = self.restart(server).await?,
                8..=10 => {
                    let branch = self.rng.index(self.branches.len());
                    self.look_up(&server, branch).await?;
                }
                11 if !self.quiet_disk => {
                    self.computer.disk.rot();
                }
                12 => server.shards.iter().for_each(Shard::empty_cache),
                _ => self.read_some(&server).await?,
            }
        }
        self.check_cache(&server)?;
        self.calm();
        // Longer than any deadline and any late put: nothing of the faults is under way any more.
        self.computer.simulator.sleep(Duration::from_secs(10)).await;
        for shard in 0..self.rng.below(4) {
            let branch = usize::try_from(shard).expect("small") % self.branches.len();
            self.look_up(&server, branch).await?;
        }
        Ok(server)
    }

    /// What the cache says of itself: where the disk never failed and nothing was killed, nothing in it is in doubt.
    fn check_cache(&self, server: &Server) -> Result<(), Failure> {
        for shard in &server.shards {
            let doubtful = shard.cache_stats().doubtful;
            if self.quiet_disk && doubtful > 0 {
                return Err(format!(
                    "{doubtful} extents in doubt on a disk without faults"
                ));
            }
        }
        Ok(())
    }

    fn set_regime(&mut self) {
        let computer = &self.computer;
        self.regime = Regime::draw(&mut self.rng);
        if self.quiet_disk {
            self.regime.disk = DiskFaults::default();
        }
        computer
            .simulator
            .event(format_args!("regime {:?}", self.regime));
        computer.disk.set_faults(self.regime.disk);
        computer.store.set_faults(self.regime.store);
        computer.store.set_away(self.regime.store_away);
        computer.keys.set_away(self.regime.keys_away);
        if self.regime.damaged {
            for _ in 0..self.rng.between(1, 6) {
                let damage = [Damage::Flip, Damage::Cut, Damage::Gone, Damage::Replaced];
                let how = damage[self.rng.index(damage.len())];
                let names: Vec<String> = computer.store.names("");
                let layers: Vec<String> = names
                    .iter()
                    .filter(|name| name.contains("/layers/"))
                    .cloned()
                    .collect();
                let among = if self.rng.chance(700) && !layers.is_empty() {
                    layers
                } else {
                    names
                };
                computer.store.damage(&among, how);
            }
        }
    }

    fn calm(&mut self) {
        let computer = &self.computer;
        computer.disk.set_faults(DiskFaults::default());
        computer.store.set_faults(StoreFaults::default());
        if self.regime.store_away {
            computer.store.set_away(false);
        }
        computer.keys.set_away(false);
        computer.store.heal();
        self.regime = Regime::default();
    }

    async fn start(&mut self) -> Result<Server, Failure> {
        let rng = &mut self.rng;
        let cores = if rng.chance(100) { 7 } else { 1 + rng.index(3) };
        let tight = rng.chance(500);
        let slots = if tight {
            rng.between(2, 12)
        } else {
            rng.between(20, 100)
        };
        let index_bytes = 256 << 10;
        let config = ServerConfig {
            cores,
            cache: CacheConfig {
                cache_bytes: slots * SLOT_BYTES + index_bytes,
                index_delay: Duration::from_millis(1 + rng.below(50)),
                ..CacheConfig::tiny()
            },
            shard: ShardConfig {
                readers: 1 + rng.index(4),
                ram_bytes_max: if rng.chance(500) { 0 } else { 8 * 8192 },
                ..ShardConfig::tiny()
            },
            store: StoreConfig {
                reads_in_flight_max: 2 + rng.index(6),
                demand_queue_max: 2 + rng.index(30),
                ..StoreConfig::tiny()
            },
            store_threads: 1 + rng.index(2),
        };
        self.computer.coverage.enter(Phase::Starting);
        self.judged.starts += 1;
        let server = self.computer.start(config).await;
        let server = server.map_err(|error| format!("start: {error}"))?;
        // What a server does first: its branches are opened.
        for branch in 0..self.branches.len().min(4) {
            self.read_batch(&server, branch, 1).await?;
        }
        self.computer.coverage.enter(Phase::Serving);
        Ok(server)
    }

    async fn restart(&mut self, server: Server) -> Result<Server, Failure> {
        let disk = self.computer.disk.clone();
        match self.rng.below(3) {
            way if way == 0 || self.quiet_disk => {
                self.computer.coverage.enter(Phase::Stopping);
                self.computer.simulator.event(format_args!("stop"));
                server.stop(&disk).await;
            }
            way => {
                // In the middle of reads, and perhaps of an import.
                let shard = server.shards[self.rng.index(server.shards.len())].clone();
                let asks = self.draw_asks(0, 8);
                let (tenant, branch) = (self.tenant, self.branches[0].id);
                server.process.spawn(async move {
                    // Killed before it is of use to anybody.
                    let _answers = read_all(&shard, tenant, branch, asks).await;
                });
                let mut import = self.rng.chance(500).then(|| self.begin_import(&server));
                let wait_us = if import.is_some() { 100_000 } else { 3_000 };
                let wait = Duration::from_micros(self.rng.below(wait_us));
                let clock = self.computer.simulator.clone();
                let killed = std::pin::pin!(clock.sleep(wait));
                let outcome = match &mut import {
                    Some(import) => match select(import.ended.as_mut(), killed).await {
                        Either::Left((outcome, _)) => outcome,
                        Either::Right(_) => None,
                    },
                    None => {
                        killed.await;
                        None
                    }
                };
                self.computer.simulator.event(format_args!("end by {way}"));
                if way == 1 {
                    server.kill(&disk);
                } else {
                    server.lose_power(&disk);
                }
                if let Some(import) = import {
                    self.note_import(import, outcome)?;
                }
            }
        }
        if !self.quiet_disk && self.rng.chance(100) {
            disk.cut_file();
        }
        self.start().await
    }

    // Reads.

    async fn read_some(&mut self, server: &Server) -> Result<(), Failure> {
        let branch = self.rng.index(self.branches.len());
        let count = match self.rng.below(4) {
            0 => 1,
            1 => 4,
            _ => self.rng.between(2, 24),
        };
        self.read_batch(server, branch, count).await
    }

    /// Reads of one shape, from one core: keys, and the LSNs to read them at.
    fn draw_asks(&mut self, branch: usize, count: u64) -> Vec<(Key, Lsn)> {
        let rng = &mut self.rng;
        let model = &self.branches[branch];
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

    async fn read_batch(
        &mut self,
        server: &Server,
        branch: usize,
        count: u64,
    ) -> Result<(), Failure> {
        let asks = self.draw_asks(branch, count);
        self.read_and_judge(server, branch, asks).await
    }

    async fn read_everything(&mut self, server: &Server, branch: usize) -> Result<(), Failure> {
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
        let answers = std::pin::pin!(server.process.call(reads));
        let clock = self.computer.simulator.clone();
        let hangs = std::pin::pin!(clock.sleep(HANGS_AFTER));
        let answers = match select(answers, hangs).await {
            Either::Left((Some(answers), _)) => answers,
            Either::Left((None, _)) => return Err("a process ended by itself".to_owned()),
            Either::Right(_) => return Err("reads hang".to_owned()),
        };
        match answers {
            Ok(answers) => {
                for answer in answers {
                    self.judge_read(branch, answer)?;
                }
                Ok(())
            }
            Err(error) => self.judge_open(branch, &error),
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
        let model = &mut self.branches[branch];
        let place = format!("branch {} key {key:?} at {at}", model.name);
        if model.fate == Fate::Unfinished {
            return Err(format!(
                "{place}: the branch was never committed, and opens"
            ));
        }
        let expected = if at < model.readable_from {
            Err(ErrorKind::Gone)
        } else if at > model.last_lsn {
            Err(ErrorKind::NotYet)
        } else {
            model
                .newest(&key, at)
                .map(Version::bytes)
                .ok_or(ErrorKind::NotFound)
        };
        let simulator = &self.computer.simulator;
        match (&expected, &result) {
            (Ok(right), Ok(got)) if right == got => {
                simulator.event(format_args!("{place}: {:016x}", fnv1a(FNV_START, got)));
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
                "{place}: WRONG VALUE of {} bytes, expected {}",
                got.len(),
                match &expected {
                    Ok(right) => format!("{} other bytes", right.len()),
                    Err(kind) => format!("{kind:?}"),
                }
            )),
            (_, Err(error)) => Err(format!(
                "{place}: {error}, expected {}; nothing excuses it in {:?}",
                match &expected {
                    Ok(right) => format!("{} bytes", right.len()),
                    Err(kind) => format!("{kind:?}"),
                },
                self.regime
            )),
        }
    }

    // Branches.

    /// Begins to create a branch.
    fn begin_import(&mut self, server: &Server) -> Import {
        self.next_name += 1;
        let name = format!("b{}", self.next_name);
        self.begin_import_as(server, name)
    }

    fn begin_import_as(&mut self, server: &Server, name: String) -> Import {
        let model = draw_branch(&mut self.rng, name);
        let progress = Rc::new(Progress::default());
        let work = import(
            server.catalog.clone(),
            self.tenant,
            server.process.clone(),
            model.clone(),
            Rc::clone(&progress),
        );
        let process = server.process.clone();
        Import {
            model,
            progress,
            ended: Box::pin(async move { process.call(work).await }),
        }
    }

    /// Creates a branch, or gives up over it.
    async fn import(&mut self, server: &Server) -> Result<(), Failure> {
        self.computer.coverage.enter(Phase::Writing);
        let mut import = self.begin_import(server);
        let gives_up = self.rng.chance(200);
        let patience = if gives_up {
            Duration::from_micros(self.rng.below(300_000))
        } else {
            HANGS_AFTER
        };
        let clock = self.computer.simulator.clone();
        let given_up = std::pin::pin!(clock.sleep(patience));
        let outcome = match select(import.ended.as_mut(), given_up).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) if gives_up => {
                import.progress.cancel.set(true);
                None
            }
            Either::Right(_) => {
                return Err(format!("import {} hangs", import.model.name));
            }
        };
        self.computer.coverage.enter(Phase::Serving);
        self.note_import(import, outcome)
    }

    /// Two imports at once under one name: at most one of them may get it.
    async fn import_twins(&mut self, server: &Server) -> Result<(), Failure> {
        self.computer.coverage.enter(Phase::Writing);
        let mut one = self.begin_import(server);
        let mut other = self.begin_import_as(server, one.model.name.clone());
        let outcomes = futures_util::future::join(one.ended.as_mut(), other.ended.as_mut()).await;
        self.computer.coverage.enter(Phase::Serving);
        let name = one.model.name.clone();
        self.computer
            .simulator
            .event(format_args!("twins {name}: {outcomes:?}"));
        match outcomes {
            (Some(Ok(())), Some(Ok(()))) => Err(format!("two branches got the name {name}")),
            (won @ Some(Ok(())), _) => self.note_import(one, won),
            (_, won @ Some(Ok(()))) => self.note_import(other, won),
            // Nobody heard that it won; who did, if anybody, is not followed up.
            _ => Ok(()),
        }
    }

    /// What became of an import: its own answer, or none if it was cut off.
    fn note_import(
        &mut self,
        import: Import,
        outcome: Option<Result<(), CatalogError>>,
    ) -> Result<(), Failure> {
        let Import {
            mut model,
            progress,
            ..
        } = import;
        let name = model.name.clone();
        let fate = match &outcome {
            Some(Ok(())) => Fate::Committed,
            _ if progress.committing.get() => Fate::Doubtful,
            _ => Fate::Unfinished,
        };
        self.computer
            .simulator
            .event(format_args!("import {name} {fate:?}: {outcome:?}"));
        // One that did not even begin has no id.
        if let Some(id) = progress.branch.get() {
            self.judged.branches += u64::from(fate == Fate::Committed);
            model.id = id;
            model.fate = fate;
            self.branches.push(model);
        }
        match outcome {
            Some(Err(error)) if !self.regime.allows(ErrorKind::Unavailable) => Err(format!(
                "import {name}: {error}, and nothing excuses it in {:?}",
                self.regime
            )),
            _ => Ok(()),
        }
    }

    /// Looks a branch up by its name.
    async fn look_up(&mut self, server: &Server, branch: usize) -> Result<(), Failure> {
        let model = &mut self.branches[branch];
        let (catalog, tenant, name) = (server.catalog.clone(), self.tenant, model.name.clone());
        let find = async move {
            let tenant = catalog.tenant(tenant).await?;
            catalog.find_branch(&tenant, &name).await
        };
        let Some(found) = server.process.call(find).await else {
            return Err("a process ended by itself".to_owned());
        };
        self.computer
            .simulator
            .event(format_args!("look up {}: {found:?}", model.name));
        match (found, model.fate) {
            (Ok(id), Fate::Committed | Fate::Doubtful) if id == model.id => {
                model.fate = Fate::Committed;
                Ok(())
            }
            (Err(CatalogError::NoSuchBranch { .. }), Fate::Unfinished | Fate::Doubtful) => Ok(()),
            (Err(CatalogError::NoSuchBranch { .. }), _) if self.regime.damaged => {
                self.judged.excused += 1;
                Ok(())
            }
            (Err(error), _)
                if !matches!(error, CatalogError::NoSuchBranch { .. })
                    && (self.regime.allows(ErrorKind::Unavailable)
                        || self.regime.allows(ErrorKind::Corrupt)) =>
            {
                self.judged.excused += 1;
                Ok(())
            }
            (found, fate) => Err(format!(
                "branch {} is {fate:?}, its name says {found:?}",
                model.name
            )),
        }
    }
}

/// An import under way.
struct Import {
    model: ModelBranch,
    progress: Rc<Progress>,
    /// Its answer; `None` if it was killed. Begins when it is first polled.
    ended: LocalBoxFuture<'static, Option<Result<(), CatalogError>>>,
}

/// Asks for all of it through one window, in order, as many at once as it holds.
async fn read_all(
    shard: &Shard<SimPlatform>,
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

/// How far an import has come.
#[derive(Default)]
struct Progress {
    branch: Cell<Option<BranchId>>,
    committing: Cell<bool>,
    cancel: Cell<bool>,
}

/// A branch of random content.
fn draw_branch(rng: &mut Rng, name: String) -> ModelBranch {
    let base = 0x100_0000 + rng.below(1 << 30);
    let span = 1 + rng.below(10_000);
    let mut versions: BTreeMap<Key, BTreeMap<Lsn, Version>> = BTreeMap::new();
    let groups = rng.between(1, 4);
    for group in 0..groups {
        let group = u32::try_from(group).expect("few");
        let keys = rng.between(1, 60);
        let gaps = rng.chance(300);
        let mut number = 0;
        for _ in 0..keys {
            number += if gaps {
                u32::try_from(rng.between(1, 5)).expect("few")
            } else {
                1
            };
            for _ in 0..(if rng.chance(200) {
                rng.between(2, 5)
            } else {
                1
            }) {
                let lsn = Lsn(base + rng.below(span));
                versions
                    .entry(key(group, number))
                    .or_default()
                    .insert(lsn, Version::draw(rng));
            }
        }
    }
    let last_lsn = Lsn(base + span);
    ModelBranch {
        name,
        id: BranchId(Id([0; 16])),
        fate: Fate::Unfinished,
        readable_from: Lsn(base + rng.below(span)),
        last_lsn,
        versions,
    }
}

/// Writes the content of `model` as a new branch.
async fn import(
    catalog: Catalog<StoreClient>,
    tenant: TenantId,
    process: super::executor::Process,
    model: ModelBranch,
    progress: Rc<Progress>,
) -> Result<(), CatalogError> {
    let tenant: Arc<Tenant> = catalog.tenant(tenant).await?;
    let timeline = TimelineSpan {
        timeline: 1,
        from: Lsn(1),
        to: Lsn::MAX,
    };
    let begun = catalog
        .begin_branch(&tenant, &model.name, vec![timeline], WriterConfig::tiny())
        .await?;
    let (mut writer, uploads) = begun;
    progress.branch.set(Some(writer.id()));
    process.spawn(uploads.run(InlineCpu));
    for (key, lsn, version) in model.in_order_of_arrival() {
        if progress.cancel.get() {
            return Ok(());
        }
        writer.put(key, lsn, Value::Image(&version.bytes())).await?;
    }
    if progress.cancel.get() {
        return Ok(());
    }
    progress.committing.set(true);
    let facts = CommitFacts {
        readable_from: model.readable_from,
        last_lsn: model.last_lsn,
        base_backup: None,
    };
    writer.commit(facts).await?;
    Ok(())
}

/// No operation takes this long, whatever faults it meets: longer than all its deadlines and retries.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// Reads in flight of one batch.
const WINDOW: usize = 8;
