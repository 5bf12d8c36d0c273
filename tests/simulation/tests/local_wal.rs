//! The local WAL on a simulated disk, through kills, power losses and a disk that refuses now and then: what was
//! acknowledged is found by the next start, byte for byte, and what was not is found whole from the front or not at all.
//!
//! The disk makes a name durable only with its directory. It does not lie about syncs and loses no write: no log
//! survives that.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::crypto::page_seal::{Dek, DekId};
use engine::io::clock::Clock;
use engine::types::{BranchId, Id, Lsn, TenantId};
use engine::wal::{Appended, DekError, LocalWal, Recovered, WalConfig, WalDeks, WalError};
use simulation::coverage::Coverage;
use simulation::disk::{DiskFaults, SimDisk};
use simulation::executor::Simulator;
use simulation::rng::Rng;
use simulation::trace::Trace;

const OWNER: (TenantId, BranchId) = (TenantId(Id([1; 16])), BranchId(Id([2; 16])));
const DIR: &str = "wal";

/// Keys as a key table keeps them: they outlive the process.
#[derive(Default)]
struct Keys(RefCell<Vec<Arc<Dek>>>);

impl WalDeks for Keys {
    async fn next_dek(&self) -> Result<(DekId, Arc<Dek>), DekError> {
        let mut drawn = self.0.borrow_mut();
        let slot = u32::try_from(drawn.len())?;
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&slot.to_le_bytes());
        let dek = Arc::new(Dek::from_bytes(bytes));
        drawn.push(Arc::clone(&dek));
        Ok((DekId { table: 0, slot }, dek))
    }

    async fn dek(&self, id: DekId) -> Result<Arc<Dek>, DekError> {
        let drawn = self.0.borrow();
        drawn
            .get(usize::try_from(id.slot)?)
            .cloned()
            .ok_or_else(|| "no such key".into())
    }
}

/// A stretch of WAL on one timeline, as it was appended.
struct Run {
    timeline: u32,
    start: u64,
    bytes: Vec<u8>,
    /// Bytes that were acknowledged.
    acknowledged: usize,
    /// Everything below this may be gone.
    trimmed: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// What was appended and acknowledged, over all processes.
#[derive(Default)]
struct Model {
    runs: Vec<Run>,
    /// What was counted, to see that the test tests something.
    counts: Counts,
}

#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    starts: u32,
    commits: u32,
    commits_failed: u32,
    trims: u32,
    full: u32,
    lost_unacknowledged: u32,
    kept_unacknowledged: u32,
}

impl Model {
    /// Compares what a start found with what it may have found, and forgets what is gone for good.
    fn judge(&mut self, wal_end: (u32, Lsn), mut found: Vec<Found>) {
        self.counts.starts += 1;
        let last_run = self.runs.len().checked_sub(1);
        for (index, run) in self.runs.iter_mut().enumerate() {
            let here = found
                .iter()
                .position(|(timeline, ..)| *timeline == run.timeline);
            let Some((_, start, bytes)) = here.map(|position| found.remove(position)) else {
                let needed = run.start + run.acknowledged as u64;
                assert!(
                    run.acknowledged == 0 || needed <= run.trimmed,
                    "all of timeline {} is gone, up to {needed} was acknowledged",
                    run.timeline
                );
                if Some(index) == last_run && wal_end.0 == run.timeline {
                    assert!(wal_end.1.0 >= needed && wal_end.1.0 <= run.end());
                }
                continue;
            };
            let end = start + bytes.len() as u64;
            assert!(
                start == run.start || (run.start < start && start <= run.trimmed),
                "timeline {} begins at {start}, not trimmed",
                run.timeline
            );
            let acknowledged = run.start + run.acknowledged as u64;
            assert!(
                (acknowledged..=run.end()).contains(&end),
                "timeline {} ends at {end}, {acknowledged} was acknowledged, {} appended",
                run.timeline,
                run.end()
            );
            let from = usize::try_from(start - run.start).expect("small");
            assert!(
                run.bytes[from..from + bytes.len()] == bytes,
                "other bytes on timeline {}",
                run.timeline
            );
            if end < run.end() {
                self.counts.lost_unacknowledged += 1;
            } else if end > acknowledged {
                self.counts.kept_unacknowledged += 1;
            }
            run.bytes.truncate(from + bytes.len());
            run.acknowledged = run.bytes.len();
        }
        assert!(found.is_empty(), "nobody wrote {} ranges", found.len());
        // The log goes on at the end of a run, or that of the last one that has bytes.
        let ended = self.runs.iter().rev().find(|run| run.timeline == wal_end.0);
        match ended {
            Some(run) => {
                let position = usize::try_from(wal_end.1.0 - run.start).expect("small");
                let timeline = run.timeline;
                self.runs.retain(|run| run.timeline <= timeline);
                let last = self.runs.last_mut().expect("just found");
                last.bytes.truncate(position);
                last.acknowledged = last.bytes.len();
            }
            None => {
                assert!(!wal_end.1.is_valid(), "it goes on where nothing was");
                self.runs.clear();
            }
        }
    }
}

/// A range that a start found: its timeline, where it begins, its bytes.
type Found = (u32, u64, Vec<u8>);

async fn read_back(recovered: &Recovered<SimDisk>) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut reader = recovered.reader(Lsn(0));
    let mut failures = 0;
    loop {
        let chunk = match reader.next().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return found,
            Err(error) => {
                failures += 1;
                assert!(is_passing(&error) && failures < 100, "{error}");
                continue;
            }
        };
        match found.last_mut() {
            Some((timeline, start, bytes))
                if (*timeline, *start + bytes.len() as u64) == (chunk.timeline, chunk.start.0) =>
            {
                bytes.extend_from_slice(chunk.bytes);
            }
            _ => found.push((chunk.timeline, chunk.start.0, chunk.bytes.to_vec())),
        }
    }
}

/// An error that goes away by itself.
fn is_passing(error: &WalError) -> bool {
    matches!(error, WalError::Disk { .. })
}

/// What one process does until it is killed.
async fn process(
    disk: SimDisk,
    keys: Rc<Keys>,
    epoch: u32,
    model: Rc<RefCell<Model>>,
    mut rng: Rng,
) {
    let config = WalConfig {
        bytes_max: (6 + rng.below(20)) * (64 << 10),
        ..WalConfig::tiny()
    };
    let mut attempts = 0;
    let (mut wal, recovered) = loop {
        let opened = LocalWal::open(
            disk.clone(),
            Path::new(DIR),
            OWNER,
            epoch,
            Rc::clone(&keys),
            config.clone(),
        );
        match opened.await {
            Ok(opened) => break opened,
            Err(error) => {
                attempts += 1;
                assert!(is_passing(&error) && attempts < 100, "{error}");
            }
        }
    };
    let found = read_back(&recovered).await;
    model.borrow_mut().judge(wal.end(), found);
    loop {
        match rng.below(40) {
            0 => restart(&mut wal, &model, &mut rng),
            1..=3 => {
                let below = trim_to(&model, &mut rng);
                let _ = wal.trim(below).await;
            }
            4..=15 if wal.buffered_bytes() > 0 => commit(&mut wal, &model).await,
            _ if !wal.durable_lsn().is_valid() => restart(&mut wal, &model, &mut rng),
            _ => {
                let len = [10, 700, 5000, 40_000][rng.index(4)];
                let len = 1 + usize::try_from(rng.below(len)).expect("small");
                let mut bytes = vec![0; len];
                rng.fill(&mut bytes);
                let (timeline, start) = wal.end();
                let taken = wal.append(timeline, start, &bytes);
                match taken.expect("it goes on where the log ends") {
                    Appended::Buffered => {
                        let mut model = model.borrow_mut();
                        model.runs.last_mut().expect("begun").bytes.extend(bytes);
                    }
                    Appended::BufferFull => commit(&mut wal, &model).await,
                    Appended::Full => {
                        model.borrow_mut().counts.full += 1;
                        commit(&mut wal, &model).await;
                        let below = trim_to(&model, &mut rng);
                        let _ = wal.trim(below).await;
                    }
                }
            }
        }
    }
}

async fn commit(wal: &mut LocalWal<SimDisk, Rc<Keys>>, model: &RefCell<Model>) {
    let result = wal.commit().await;
    let mut model = model.borrow_mut();
    match result {
        Ok(durable) => {
            model.counts.commits += 1;
            let run = model.runs.last_mut().expect("begun");
            assert_eq!(durable.0, run.end(), "a commit takes everything");
            run.acknowledged = run.bytes.len();
        }
        Err(error) => {
            model.counts.commits_failed += 1;
            assert!(
                is_passing(&error) || matches!(error, WalError::Full { .. }),
                "{error}"
            );
        }
    }
}

/// Begins anew on the next timeline, somewhere around the end.
fn restart(wal: &mut LocalWal<SimDisk, Rc<Keys>>, model: &RefCell<Model>, rng: &mut Rng) {
    if wal.buffered_bytes() > 0 {
        return;
    }
    let mut model = model.borrow_mut();
    let (timeline, end) = wal.end();
    let start = (end.0 + rng.below(3000)).max(2000) - rng.below(1000);
    wal.restart_at(timeline + 1, Lsn(start));
    model.runs.push(Run {
        timeline: timeline + 1,
        start,
        bytes: Vec::new(),
        acknowledged: 0,
        trimmed: 0,
    });
}

/// Somewhere at or below what was acknowledged last, from where on everything has to stay.
fn trim_to(model: &RefCell<Model>, rng: &mut Rng) -> Lsn {
    let mut model = model.borrow_mut();
    model.counts.trims += 1;
    let Some(run) = model.runs.last() else {
        return Lsn(0);
    };
    let acknowledged = run.start + run.acknowledged as u64;
    let below = acknowledged.saturating_sub(rng.below(100_000));
    for run in &mut model.runs {
        run.trimmed = run.trimmed.max(below);
    }
    Lsn(below)
}

fn simulate(seed: u64) -> Counts {
    let mut rng = Rng::split(seed, "wal");
    let simulator = Simulator::new(Rng::split(seed, "scheduler"), Trace::new(false), 10_000_000);
    let sector_bytes = [512, 4096][rng.index(2)];
    let disk = SimDisk::new(
        &simulator,
        Rng::split(seed, "disk"),
        Coverage::default(),
        sector_bytes,
    );
    disk.names_need_sync();
    let faults = DiskFaults {
        read_error: 2,
        read_short: 2,
        read_flip: 2,
        read_slow: 2,
        write_error: 20,
        write_short: 20,
        sync_error: 20,
        open_error: 20,
        ..DiskFaults::default()
    };
    let model = Rc::new(RefCell::new(Model::default()));
    let keys = Rc::new(Keys::default());
    let (clock, result) = (simulator.clone(), Rc::clone(&model));
    let main = async move {
        for epoch in 1..=10 {
            // Half of the seeds have a disk that never refuses.
            if seed.is_multiple_of(2) {
                disk.set_faults(faults);
            }
            let running = clock.process();
            let rng_of_process = Rng::split(seed, &format!("process {epoch}"));
            running.spawn(process(
                disk.clone(),
                Rc::clone(&keys),
                epoch,
                Rc::clone(&model),
                rng_of_process,
            ));
            let lives = Duration::from_micros(500 + rng.below(60_000));
            clock.sleep(lives).await;
            running.kill();
            if rng.chance(500) {
                disk.power_lost();
            } else {
                disk.process_killed();
            }
        }
        disk.set_faults(DiskFaults::default());
        let opened = LocalWal::open(disk, Path::new(DIR), OWNER, 11, keys, WalConfig::tiny());
        let (wal, recovered) = opened.await.expect("nothing is damaged");
        let found = read_back(&recovered).await;
        model.borrow_mut().judge(wal.end(), found);
    };
    simulator
        .run(main)
        .unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
    simulator.shut_down();
    result.borrow().counts
}

#[test]
fn nothing_acknowledged_is_lost_over_kills_and_power_losses() {
    let mut total = Counts::default();
    for seed in 0..300 {
        println!("seed {seed}");
        let counts = simulate(seed);
        total.starts += counts.starts;
        total.commits += counts.commits;
        total.commits_failed += counts.commits_failed;
        total.trims += counts.trims;
        total.full += counts.full;
        total.lost_unacknowledged += counts.lost_unacknowledged;
        total.kept_unacknowledged += counts.kept_unacknowledged;
    }
    println!("{total:?}");
    let Counts {
        starts,
        commits,
        commits_failed,
        trims,
        full,
        lost_unacknowledged,
        kept_unacknowledged,
    } = total;
    assert!(starts > 2000 && commits > 10_000 && commits_failed > 500 && trims > 2000);
    assert!(full > 20 && lost_unacknowledged > 300 && kept_unacknowledged > 100);
}
