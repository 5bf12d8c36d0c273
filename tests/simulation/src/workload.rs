//! What is done to the engine in one run, and the judgement of its answers.
//!
//! A run is a row of episodes. Each has its own faults, drawn from the seed, and some dozens of operations: reads of
//! several shapes, new branches and branches of branches, kills, power losses, stops, starts with other numbers of cores and other
//! sizes of the cache, damage to objects. Between two episodes all faults end, objects are healed, and what was under
//! way settles. At the end of the run everything must be readable.
//!
//! - `starts`: starts, stops, kills, power losses;
//! - `reading`: reads and the judgement of their answers;
//! - `writing`: new branches, and what must have become of them: a branch is visible as a whole or not at all, and
//!   once visible it stays;
//! - `branching`: branches of branches that are made by one put, and written to later if at all;
//! - `regime`: the faults of an episode, and which errors they excuse.

mod branching;
mod reading;
mod regime;
mod starts;
mod writing;

use std::time::Duration;

use engine::io::clock::Clock;
use engine::shard::Shard;
use engine::types::{Id, TenantId};

use self::regime::Regime;
use crate::computer::{Computer, End, Server};
use crate::disk::DiskFaults;
use crate::key_source::KeyFaults;
use crate::model::ModelBranch;
use crate::rng::Rng;
use crate::store::{Damage, StoreFaults};

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
    /// Those among them that have a parent.
    pub children: u64,
    /// Those among these that were made by one put.
    pub children_of_one_put: u64,
    /// Races of two for one name, by one put each.
    pub races: u64,
    /// Ranges of keys that were listed.
    pub scans: u64,
    /// Extents that were fetched ahead of a sequential reader.
    pub extents_ahead: u64,
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
        self.children += other.children;
        self.children_of_one_put += other.children_of_one_put;
        self.races += other.races;
        self.scans += other.scans;
        self.extents_ahead += other.extents_ahead;
        self.starts += other.starts;
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
        self.end(server, End::Kill);
        let server = self.start().await?;
        for branch in 0..self.branches.len() {
            self.look_up(&server, branch).await?;
            self.read_everything(&server, branch).await?;
        }
        self.end(server, End::Exit);
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
                19 | 20 => self.branch(&server).await?,
                21 => self.branch_twins(&server).await?,
                4..=7 => {
                    server = self.restart(server).await?;
                    // Now and then the first that a process does is to write, or to end again.
                    match self.rng.below(5) {
                        0 => self.import(&server).await?,
                        1 => server = self.restart(server).await?,
                        _ => {}
                    }
                }
                8..=10 => {
                    let branch = self.rng.index(self.branches.len());
                    self.look_up(&server, branch).await?;
                }
                11 => self.rot_sometimes(),
                12 => server.shards.iter().for_each(Shard::empty_cache),
                13..=15 => self.read_in_sequence(&server).await?,
                16..=18 => self.scan(&server).await?,
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
        computer.keys.set_faults(self.regime.keys);
        if self.regime.damaged {
            for _ in 0..self.rng.between(1, 6) {
                self.damage_something();
            }
        }
    }

    /// Damages an object: mostly a layer, often of a branch that every process opens when it starts.
    fn damage_something(&mut self) {
        let rng = &mut self.rng;
        let damage = [Damage::Flip, Damage::Cut, Damage::Gone, Damage::Replaced];
        let how = damage[rng.index(damage.len())];
        let mut names = self.computer.store.names("");
        if how == Damage::Gone {
            let written = self.branches.iter().filter(|branch| branch.is_written);
            let logs: Vec<String> = written.map(|b| format!("{}/manifest/", b.id)).collect();
            names.retain(|name| !logs.iter().any(|log| name.contains(log)));
        }
        let mut narrow = |wanted: &dyn Fn(&String) -> bool, chance| {
            if rng.chance(chance) && names.iter().any(wanted) {
                names.retain(wanted);
            }
        };
        narrow(&|name| name.contains("/layers/"), 700);
        let first = &self.branches[..self.branches.len().min(FIRST_BRANCHES)];
        let ids: Vec<String> = first.iter().map(|branch| branch.id.to_string()).collect();
        narrow(&|name| ids.iter().any(|id| name.contains(id)), 600);
        self.computer.store.damage(&names, how);
    }

    /// Bits of the disk flip now and then, some dozens at once.
    fn rot_sometimes(&mut self) {
        if !self.quiet_disk && self.rng.chance(400) {
            for _ in 0..self.rng.between(1, 40) {
                self.computer.disk.rot();
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
        computer.keys.set_faults(KeyFaults::default());
        computer.store.heal();
        self.regime = Regime::default();
    }
}

/// No operation takes this long, whatever faults it meets: longer than all its deadlines and retries.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// Branches that a process opens when it starts.
const FIRST_BRANCHES: usize = 4;
