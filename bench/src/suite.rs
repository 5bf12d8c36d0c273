//! Everything the project wants to reach, measured: the data is made, engine and server are started, and each
//! figure's subjects take turns with their baselines.

use std::path::Path;
use std::time::Duration;

use engine::types::Id;
use pageserver::data_dir::DataDir;

use crate::access::Access;
use crate::clock::now_ns;
use crate::commands::{GoalsShown, finish, subject};
use crate::counters::{Counters, Used};
use crate::dataset::{Dataset, Place};
use crate::device::{self, DeviceLoad};
use crate::embedded::{Embedded, EmbeddedConfig, EngineLoad};
use crate::error::{BenchError, Doing, Result};
use crate::goals::{
    DEPTHS, DEVICE, DEVICE_GROUP, ENGINE, ENGINE_COMPRESSIBLE_GROUP, ENGINE_DISK_GROUP,
    ENGINE_RAM_GROUP, FIO, MISS_GROUP, PAGES_CROSS_GROUP, PAGES_DISK_GROUP, PAGES_RAM_GROUP,
    PAGES_SAME_GROUP, PAGESTREAM, RESTART_GROUP, SPARSE_RESTART, STORE_GET, WARM_RESTART, WIRE,
};
use crate::import;
use crate::latency::Latencies;
use crate::options::{Shape, SuiteOptions};
use crate::pages::{Check, Content};
use crate::pagestream::client::{self, Load, Locality, Target};
use crate::pagestream::codec::PAGE_BYTES;
use crate::pagestream::keyspace::Keyspace;
use crate::rounds::{Contestant, Measured, Series, interleave};
use crate::server_process::{ServerConfig, ServerProcess, session_of};
use crate::sparse_cache;
use crate::store_get;
use crate::wire::{self, EmptyServer};

/// Shards of the served runs, and cores of the empty server.
const CORES: u16 = 2;
/// Pages of the runs from RAM: 256 MiB, far more than any processor's cache.
const RAM_PAGES: u32 = 32_768;
/// Memory for those, with room for what the tier needs beside them.
const RAM_BYTES: u64 = 512 << 20;
/// The cache of the sparse restart.
const SPARSE_BYTES: u64 = 1 << 40;
/// Misses read one page of every so many, so that no two are in one extent.
const MISS_STRIDE: u32 = 64;
const SHAPES: [Shape; 4] = [
    Shape {
        connections: 1,
        depth: 1,
    },
    Shape {
        connections: 8,
        depth: 1,
    },
    Shape {
        connections: 1,
        depth: 16,
    },
    Shape {
        connections: 8,
        depth: 16,
    },
];

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Device,
    Engine,
    Cold,
    Server,
    Restart,
    Import,
}

impl Section {
    pub(crate) const ALL: [Section; 6] = [
        Section::Device,
        Section::Engine,
        Section::Cold,
        Section::Server,
        Section::Restart,
        Section::Import,
    ];
}

/// Runs the sections, prints the table and the goals.
///
/// # Errors
/// What the machine, the store, the engine or the server refuses; a wrong page.
pub(crate) fn run(options: &SuiteOptions, sections: &[Section]) -> Result<()> {
    let mut suite = Suite::prepare(options)?;
    for section in sections {
        match section {
            Section::Device => suite.device()?,
            Section::Engine => suite.engine()?,
            Section::Cold => suite.cold()?,
            Section::Server => suite.server()?,
            Section::Restart => suite.restart()?,
            Section::Import => suite.import()?,
        }
    }
    let mut notes = vec![
        format!(
            "{} pages of 8 KiB, incompressible; RAM runs use {RAM_PAGES} of them",
            suite.data.pages
        ),
        "served runs: client, server and baselines share this machine's cores".to_owned(),
    ];
    notes.append(&mut suite.notes);
    let goals_shown = if sections == Section::ALL {
        GoalsShown::All
    } else {
        GoalsShown::Measured
    };
    finish(&options.run, &suite.series, notes, goals_shown)
}

struct Suite<'a> {
    options: &'a SuiteOptions,
    place: Place,
    data: Dataset,
    series: Vec<Series>,
    notes: Vec<String>,
    started_ns: u64,
}

impl<'a> Suite<'a> {
    fn prepare(options: &'a SuiteOptions) -> Result<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 2^29 pages, checked by the option"
        )]
        #[expect(clippy::cast_sign_loss, reason = "checked by the option")]
        let pages = (options.gib * f64::from(1u32 << 30) / PAGE_BYTES as f64) as u32;
        let place = Place::below(&options.data)?;
        device::prepare(&place.device, u64::from(pages) * PAGE_BYTES as u64)?;
        let data = Dataset::prepare(&place, pages, Content::Incompressible)?;
        Ok(Self {
            options,
            place,
            data,
            series: Vec::new(),
            notes: Vec::new(),
            started_ns: now_ns(),
        })
    }

    /// Room for all pages, their tags and directories, and the slots' rounding.
    fn cache_bytes(&self) -> u64 {
        u64::from(self.data.pages) * PAGE_BYTES as u64 / 4 * 5 + (256 << 20)
    }

    fn compete(&mut self, contestants: Vec<Contestant<'_>>) -> Result<()> {
        let rounds = self.options.run.rounds;
        self.series
            .extend(interleave(contestants, rounds, self.started_ns)?);
        Ok(())
    }

    fn device_load(&self, depth: u32) -> DeviceLoad {
        let run = &self.options.run;
        DeviceLoad {
            depth,
            read_bytes: 8192,
            align_bytes: 8192,
            warm_up: run.warm_up,
            measure: run.seconds,
            seed: run.seed,
        }
    }

    fn engine_load(&self, depth: u32) -> EngineLoad {
        let run = &self.options.run;
        EngineLoad {
            depth,
            access: Access::Uniform,
            stride: 1,
            pages: u32::MAX,
            warm_up: run.warm_up,
            measure: run.seconds,
            seed: run.seed,
            cold: false,
        }
    }

    fn device(&mut self) -> Result<()> {
        for depth in DEPTHS {
            let (load, shape) = (self.device_load(depth), depth.to_string());
            let file = self.place.device.clone();
            let mut contestants: Vec<Contestant<'_>> = vec![(
                subject(DEVICE_GROUP, DEVICE, &shape, None),
                Box::new(|| device::run(&file, load)),
            )];
            if device::fio_is_installed() {
                let fio = subject(DEVICE_GROUP, FIO, &shape, Some(DEVICE));
                contestants.push((fio, Box::new(|| device::run_fio(&file, load))));
            }
            self.compete(contestants)?;
        }
        Ok(())
    }

    fn engine(&mut self) -> Result<()> {
        self.engine_from_disk(self.data, ENGINE_DISK_GROUP)?;
        let pages = (self.data.pages / 4).max(1);
        let compressible = Dataset::prepare(&self.place, pages, Content::Compressible)?;
        self.engine_from_disk(compressible, ENGINE_COMPRESSIBLE_GROUP)?;

        let config = EmbeddedConfig {
            ram_bytes: usize::try_from(RAM_BYTES).expect("half a GiB"),
            ..self.embedded_config()
        };
        let engine = Embedded::start(&self.place, self.data, config)?;
        // Counted in pages, not in seconds: on a slow day, too, all of it is in the tier.
        engine.warm(RAM_PAGES.min(self.data.pages))?;
        let load = EngineLoad {
            pages: RAM_PAGES,
            ..self.engine_load(128)
        };
        let measure = Box::new(|| engine.run(load));
        self.compete(vec![(
            subject(ENGINE_RAM_GROUP, ENGINE, "128", None),
            measure,
        )])
    }

    fn embedded_config(&self) -> EmbeddedConfig {
        EmbeddedConfig {
            cache_bytes: self.cache_bytes(),
            ram_bytes: 0,
            store: None,
            spin: Duration::from_micros(self.options.spin_us),
        }
    }

    /// The device's file and the files of a cache, each read through once before they are compared.
    fn read_through(&self, cache: &Path) -> Result<()> {
        device::read_through(&self.place.device)?;
        let doing = || format!("list {}", cache.display());
        for entry in std::fs::read_dir(cache).doing(doing)? {
            let entry = entry.doing(doing)?;
            if entry.file_name().to_string_lossy().starts_with("slots-") {
                device::read_through(&entry.path())?;
            }
        }
        Ok(())
    }

    fn engine_from_disk(&mut self, data: Dataset, group: &str) -> Result<()> {
        let engine = Embedded::start(&self.place, data, self.embedded_config())?;
        tracing::info!("{group}: reading every page once");
        engine.warm(data.pages)?;
        self.read_through(&self.place.embedded)?;
        for depth in DEPTHS {
            let (device_load, load) = (self.device_load(depth), self.engine_load(depth));
            let (file, shape) = (self.place.device.clone(), depth.to_string());
            let contestants: Vec<Contestant<'_>> = vec![
                (
                    subject(group, DEVICE, &shape, None),
                    Box::new(|| device::run(&file, device_load)),
                ),
                (
                    subject(group, ENGINE, &shape, Some(DEVICE)),
                    Box::new(|| engine.run(load)),
                ),
            ];
            self.compete(contestants)?;
        }
        Ok(())
    }

    fn cold(&mut self) -> Result<()> {
        let options = self.options;
        let distant = (
            Duration::from_millis(options.store_first_byte_ms),
            options.store_mib_per_second << 20,
        );
        let config = EmbeddedConfig {
            store: Some(distant),
            ..self.embedded_config()
        };
        let engine = Embedded::start(&self.place, self.data, config)?;
        let load = EngineLoad {
            access: Access::Scattered,
            stride: MISS_STRIDE.min(self.data.pages),
            cold: true,
            ..self.engine_load(1)
        };
        let (place, data, run) = (self.place.clone(), self.data, &options.run);
        let contestants: Vec<Contestant<'_>> = vec![
            (
                subject(MISS_GROUP, STORE_GET, "1", None),
                Box::new(|| store_get::run(&place, data, distant, run.seconds, run.seed)),
            ),
            (
                subject(MISS_GROUP, ENGINE, "1", Some(STORE_GET)),
                Box::new(|| engine.run(load)),
            ),
        ];
        self.compete(contestants)
    }

    fn server(&mut self) -> Result<()> {
        let config = ServerConfig {
            cores: CORES,
            cache_bytes: self.cache_bytes(),
            ram_bytes: 0,
            spin_us: self.options.spin_us,
        };
        let server = ServerProcess::start(&self.place, self.data, config)?;
        tracing::info!("server: reading every page once");
        server.warm(self.data)?;
        self.read_through(&self.place.served.join("cache"))?;
        let keyspace = self.data.keyspace();
        for (group, locality) in [
            (PAGES_DISK_GROUP, Locality::Any),
            (PAGES_SAME_GROUP, Locality::Same),
            (PAGES_CROSS_GROUP, Locality::Cross),
        ] {
            for shape in SHAPES {
                self.served(&server, &keyspace, group, locality, shape, true)?;
            }
        }
        server.stop()?;

        self.restarts(&self.place.clone(), config, WARM_RESTART)?;

        let config = ServerConfig {
            ram_bytes: RAM_BYTES,
            ..config
        };
        let server = ServerProcess::start(&self.place, self.data, config)?;
        let some = Dataset {
            pages: self.data.pages.min(RAM_PAGES),
            ..self.data
        };
        // Twice over: all of it is in the tier whatever it admits at first sight.
        server.warm(some)?;
        server.warm(some)?;
        let shape = Shape {
            connections: 8,
            depth: 16,
        };
        self.served(
            &server,
            &some.keyspace(),
            PAGES_RAM_GROUP,
            Locality::Any,
            shape,
            false,
        )?;
        server.stop()
    }

    /// A sparse cache of a size that no disk here has.
    fn restart(&mut self) -> Result<()> {
        let config = ServerConfig {
            cores: CORES,
            cache_bytes: SPARSE_BYTES,
            ram_bytes: 0,
            spin_us: self.options.spin_us,
        };
        let place = Place {
            served: self.options.data.join("served-sparse"),
            ..self.place.clone()
        };
        let cache = place.served.join("cache");
        // What an earlier run has left.
        let _ = std::fs::remove_dir_all(&place.served);
        sparse_cache::make_files(&cache, SPARSE_BYTES)?;
        let some = Dataset {
            pages: self.data.pages.min(RAM_PAGES),
            ..self.data
        };
        let server = ServerProcess::start(&place, self.data, config)?;
        server.warm(some)?;
        server.stop()?;
        let fresh = Id(*b"never to be used");
        let server_id = DataDir::new(&place.served)
            .server_id(fresh)
            .map_err(|e| BenchError::Unfit(e.to_string()))?;
        tracing::info!("sparse cache: filling its index");
        let slots = sparse_cache::fill_index(&cache, server_id, SPARSE_BYTES)?;
        self.notes
            .push(format!("sparse cache: {slots} extents in its index"));
        self.restarts(&place, config, SPARSE_RESTART)?;
        std::fs::remove_dir_all(&place.served).doing(|| "remove the sparse cache")
    }

    /// Starts the server below `place` again and again, each time up to its first page.
    fn restarts(&mut self, place: &Place, config: ServerConfig, shape: &str) -> Result<()> {
        let mut rounds = Vec::new();
        for _ in 0..self.options.run.rounds {
            let start = Duration::from_nanos(now_ns().saturating_sub(self.started_ns));
            let server = ServerProcess::start(place, self.data, config)?;
            tracing::info!(
                "restart, {shape}: first page after {:?}",
                server.first_page_after
            );
            rounds.push((start, first_page(server.first_page_after)));
            server.stop()?;
        }
        let subject = subject(RESTART_GROUP, PAGESTREAM, shape, None);
        self.series.push(Series { subject, rounds });
        Ok(())
    }

    fn import(&mut self) -> Result<()> {
        let options = self.options;
        if options.scale == 0 {
            self.notes.push("imports were left out".to_owned());
            return Ok(());
        }
        let rounds = options.run.rounds;
        let imports = import::run(&options.data, options.scale, rounds, self.started_ns)?;
        self.series.extend(imports.series);
        self.notes.extend(imports.notes);
        Ok(())
    }

    /// The server at one shape, with the wire beside it, and the device if pages come from there.
    fn served(
        &mut self,
        server: &ServerProcess,
        keyspace: &Keyspace,
        group: &str,
        locality: Locality,
        shape: Shape,
        from_disk: bool,
    ) -> Result<()> {
        let run = &self.options.run;
        let load = Load {
            connections: shape.connections,
            depth: shape.depth,
            access: Access::Uniform,
            rate: None,
            warm_up: run.warm_up,
            measure: run.seconds,
            locality,
            check: Check::Stamp,
            threads: 1,
            seed: run.seed,
            lsn: u64::MAX,
            not_modified_since: 0,
        };
        let target = Target {
            addresses: server.addresses.clone(),
            session: session_of(self.data),
            stripe_blocks: 1024,
        };
        let counters = Counters::new(Some(server.pid()), Some(&self.place.served));
        let empty = EmptyServer::start(CORES.into())?;
        let (file, device_load) = (
            self.place.device.clone(),
            self.device_load(shape.in_flight()),
        );
        let name = shape.to_string();
        let mut contestants: Vec<Contestant<'_>> = Vec::new();
        if from_disk {
            let measure = Box::new(|| device::run(&file, device_load));
            contestants.push((subject(group, DEVICE, &name, None), measure));
        }
        contestants.push((
            subject(group, WIRE, &name, None),
            Box::new(|| wire::run(&empty, &load)),
        ));
        let baseline = if from_disk { DEVICE } else { WIRE };
        contestants.push((
            subject(group, PAGESTREAM, &name, Some(baseline)),
            Box::new(|| client::run(&target, keyspace, &load, &counters)),
        ));
        self.compete(contestants)
    }
}

/// One start of the server, as a measurement of one operation.
fn first_page(after: Duration) -> Measured {
    let mut latencies = Latencies::new();
    latencies.record(crate::clock::as_ns(after));
    Measured {
        ops: 1,
        elapsed: after,
        latencies,
        used: Used::default(),
        errors: 0,
    }
}
