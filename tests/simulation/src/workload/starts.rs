//! Processes: how they start, what they do first, and how they end.

use std::pin::pin;
use std::time::Duration;

use engine::cache::{CacheConfig, SLOT_BYTES};
use engine::io::clock::Clock;
use engine::shard::ShardConfig;
use engine::store::StoreConfig;
use futures_util::future::{Either, select};

use super::reading::read_all;
use super::{Driver, FIRST_BRANCHES, Failure};
use crate::computer::{End, Server, ServerConfig};
use crate::coverage::Phase;

impl Driver {
    /// Starts a process; now and then only after others that were killed while they started.
    pub(super) async fn start(&mut self) -> Result<Server, Failure> {
        self.computer.coverage.enter(Phase::Starting);
        while !self.branches.is_empty() && !self.quiet_disk && self.rng.chance(100) {
            self.start_and_kill().await;
        }
        self.judged.starts += 1;
        let config = self.draw_config();
        let process = self.computer.simulator.process();
        let server = self.computer.start(process, config).await;
        let server = server.map_err(|error| format!("start: {error}"))?;
        // What a server does first: its branches are opened. Else the key service is called later, in another phase.
        if self.rng.chance(600) {
            for branch in 0..self.branches.len().min(FIRST_BRANCHES) {
                self.read_batch(&server, branch, 10).await?;
            }
        }
        self.computer.coverage.enter(Phase::Serving);
        Ok(server)
    }

    /// A process that is killed before it serves, or when it has just begun to.
    async fn start_and_kill(&mut self) {
        let config = self.draw_config();
        let asks = self.draw_asks(0, 16);
        let (tenant, branch) = (self.tenant, self.branches[0].id);
        let how = self.draw_violent_end();
        let wait = Duration::from_micros(self.rng.below(15_000));
        let process = self.computer.simulator.process();
        {
            let starting = pin!(async {
                let server = self.computer.start(process.clone(), config).await;
                if let Ok(server) = server {
                    let shard = server.shards[0].clone();
                    // Killed before it is of use to anybody.
                    let _answers = read_all(&shard, tenant, branch, asks).await;
                }
            });
            let killed = pin!(self.computer.simulator.sleep(wait));
            let _either = select(starting, killed).await;
        }
        self.computer
            .simulator
            .event(format_args!("end of a start by {how:?}"));
        self.computer.end(&process, how);
    }

    fn draw_config(&mut self) -> ServerConfig {
        let rng = &mut self.rng;
        let cores = if rng.chance(100) { 7 } else { 1 + rng.index(3) };
        let tight = rng.chance(500);
        let slots = if tight {
            rng.between(2, 12)
        } else {
            rng.between(20, 100)
        };
        let index_bytes = 256 << 10;
        ServerConfig {
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
        }
    }

    fn draw_violent_end(&mut self) -> End {
        if self.rng.chance(500) {
            End::Kill
        } else {
            End::PowerLoss
        }
    }

    /// Ends the process of a server.
    pub(super) fn end(&mut self, server: Server, how: End) {
        self.computer
            .simulator
            .event(format_args!("end by {how:?}"));
        let ahead = server.counters.iter().map(|core| core.extents_ahead.get());
        self.judged.extents_ahead += ahead.sum::<u64>();
        self.computer.end(&server.process, how);
    }

    /// Ends a process one way or another, and starts the next.
    pub(super) async fn restart(&mut self, server: Server) -> Result<Server, Failure> {
        if self.quiet_disk || self.rng.chance(400) {
            self.stop(server).await?;
        } else {
            self.cut_off(server).await?;
        }
        self.computer.coverage.enter(Phase::Starting);
        if !self.quiet_disk && self.rng.chance(100) {
            self.computer.disk.cut_file();
        }
        self.start().await
    }

    /// A clean stop: what is under way is answered, then the cache index is saved; now and then that is cut off, too.
    async fn stop(&mut self, server: Server) -> Result<(), Failure> {
        self.computer.coverage.enter(Phase::Stopping);
        self.rot_sometimes();
        let mut cut_import = None;
        if self.rng.chance(600) {
            let mut import = self.begin_import(&server);
            let patience = Duration::from_micros(self.rng.below(100_000));
            let outcome = self.read_beside(&server, &mut import, patience).await?;
            cut_import = Some((import, outcome));
        }
        for branch in 0..self.branches.len().min(FIRST_BRANCHES) {
            self.look_up(&server, branch).await?;
            self.read_batch(&server, branch, 10).await?;
        }
        let shards = server.shards.clone();
        let save = server.process.call(async move {
            for shard in &shards {
                shard.save_cache_index().await;
            }
        });
        let how = if !self.quiet_disk && self.rng.chance(500) {
            let wait = Duration::from_micros(self.rng.below(300));
            let violent = self.draw_violent_end();
            let cut = self.computer.simulator.sleep(wait);
            match select(pin!(save), pin!(cut)).await {
                Either::Left(_) => End::Exit,
                Either::Right(_) => violent,
            }
        } else {
            save.await;
            End::Exit
        };
        self.end(server, how);
        match cut_import {
            Some((import, outcome)) => self.note_import(import, outcome),
            None => Ok(()),
        }
    }

    /// A kill or a power loss in the middle of reads, and perhaps of an import.
    async fn cut_off(&mut self, server: Server) -> Result<(), Failure> {
        let shard = server.shards[self.rng.index(server.shards.len())].clone();
        let asks = self.draw_asks(0, 8);
        let (tenant, branch) = (self.tenant, self.branches[0].id);
        let clock = self.computer.simulator.clone();
        let reader_clock = clock.clone();
        server.process.spawn(async move {
            // Killed before they are of use to anybody.
            loop {
                let _answers = read_all(&shard, tenant, branch, asks.clone()).await;
                shard.empty_cache();
                reader_clock.sleep(Duration::from_micros(100)).await;
            }
        });
        let how = self.draw_violent_end();
        if !self.rng.chance(500) {
            clock
                .sleep(Duration::from_micros(self.rng.below(3_000)))
                .await;
            self.end(server, how);
            return Ok(());
        }
        self.computer.coverage.enter(Phase::Writing);
        self.rot_sometimes();
        let mut import = self.begin_import(&server);
        let killed = clock.sleep(Duration::from_micros(self.rng.below(100_000)));
        let outcome = match select(import.ended.as_mut(), pin!(killed)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => None,
        };
        self.end(server, how);
        self.note_import(import, outcome)
    }
}
