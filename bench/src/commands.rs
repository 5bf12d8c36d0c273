//! What each command lets compete, and what becomes of the result.

use std::path::Path;

use crate::branches;
use crate::clock;
use crate::counters::Counters;
use crate::device::{self, DeviceLoad};
use crate::error::{Doing, Result};
use crate::follow;
use crate::goals;
use crate::import;
use crate::options::{
    Command, DeviceOptions, LoadOptions, Options, PagestreamOptions, RunOptions, Shape, WireOptions,
};
use crate::pages::Check;
use crate::pagestream::client::{self, Load, Locality, Target};
use crate::pagestream::keyspace::{Keyspace, RelationSize};
use crate::pagestream::session::Session;
use crate::replay;
use crate::report::Report;
use crate::report::header::Header;
use crate::rounds::{Contestant, Series, Subject, interleave};
use crate::suite::{self, Section};
use crate::wire::{self, EmptyServer};

/// Runs the command and prints its result.
///
/// # Errors
/// Why it could not be run.
pub(crate) fn run(options: Options) -> Result<()> {
    match options.command {
        Command::Device(options) => run_device(&options),
        Command::Wire(options) => run_wire(&options),
        Command::Pagestream(options) => run_pagestream(&options),
        Command::Engine(options) => suite::run(&options, &[Section::Engine]),
        Command::Cold(options) => suite::run(&options, &[Section::Cold]),
        Command::Server(options) => suite::run(&options, &[Section::Server]),
        Command::Restart(options) => suite::run(&options, &[Section::Restart]),
        Command::All(options) => suite::run(&options, &Section::ALL),
        Command::Import(options) => {
            let started_ns = clock::now_ns();
            let imports =
                import::run(&options.data, options.scale, options.run.rounds, started_ns)?;
            finish(
                &options.run,
                &imports.series,
                imports.notes,
                GoalsShown::Measured,
            )
        }
        Command::Follow(options) => {
            let followed = follow::run(&options, clock::now_ns())?;
            finish(
                &options.run,
                &followed.series,
                followed.notes,
                GoalsShown::Measured,
            )
        }
        Command::Branch(options) => {
            let series = branches::run(&options, clock::now_ns())?;
            let note = "shapes: the parent's size, and how many branches of it were there before"
                .to_owned();
            finish(&options.run, &series, vec![note], GoalsShown::Measured)
        }
        Command::Decode(options) => replay::decode(&options.directory, options.rounds),
        Command::Redo(options) => replay::replay(&options.directory, options.rounds),
        Command::Compare { old, new } => {
            let (old, new) = (Report::read(&old)?, Report::read(&new)?);
            print!("{}", crate::report::compare::text(&old, &new));
            Ok(())
        }
        Command::WireServer { cores } => wire::serve(cores),
    }
}

fn run_device(options: &DeviceOptions) -> Result<()> {
    let file = options
        .data
        .file
        .as_deref()
        .unwrap_or(Path::new("bench-data/device.bin"));
    device::prepare(file, options.data.gib << 30)?;
    let with_fio = device::fio_is_installed();
    let mut series = Vec::new();
    let started_ns = clock::now_ns();
    for &depth in &options.depth {
        let load = DeviceLoad {
            depth,
            read_bytes: options.read_bytes,
            align_bytes: options.align_bytes.unwrap_or(options.read_bytes),
            warm_up: options.run.warm_up,
            measure: options.run.seconds,
            seed: options.run.seed,
        };
        let group = format!("device, {} bytes", options.read_bytes);
        let shape = depth.to_string();
        let subject = |name, baseline| subject(&group, name, &shape, baseline);
        let mut contestants: Vec<Contestant<'_>> = vec![(
            subject("device", None),
            Box::new(|| device::run(file, load)),
        )];
        if with_fio {
            let fio = Box::new(|| device::run_fio(file, load));
            contestants.push((subject("fio", Some("device")), fio));
        }
        series.extend(interleave(contestants, options.run.rounds, started_ns)?);
    }
    let mut notes = Vec::new();
    if !with_fio {
        notes.push("fio is not installed: the device baseline stands alone".to_owned());
    }
    finish(&options.run, &series, notes, GoalsShown::None)
}

fn run_wire(options: &WireOptions) -> Result<()> {
    let server = EmptyServer::start(options.cores.into())?;
    let mut series = Vec::new();
    let started_ns = clock::now_ns();
    for &shape in &options.load.shapes {
        let load = load(&options.load, &options.run, shape);
        let subject = subject("wire", "wire", &shape.to_string(), None);
        let contestants: Vec<Contestant<'_>> =
            vec![(subject, Box::new(|| wire::run(&server, &load)))];
        series.extend(interleave(contestants, options.run.rounds, started_ns)?);
    }
    finish(&options.run, &series, Vec::new(), GoalsShown::None)
}

fn run_pagestream(options: &PagestreamOptions) -> Result<()> {
    let token = match &options.token_file {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(path)
                .doing(|| format!("read {}", path.display()))?
                .trim()
                .to_owned(),
        ),
    };
    let mut keyspace = Keyspace::default();
    if options.relations.is_empty() {
        let (tenant, timeline) = (&options.tenant, &options.timeline);
        keyspace = Keyspace::discover(&options.http, tenant, timeline, token.as_deref())?;
    }
    for &RelationSize(first, blocks) in &options.relations {
        keyspace.push(first, blocks);
    }
    let target = Target {
        addresses: options.address.clone(),
        session: Session {
            tenant: options.tenant.clone(),
            timeline: options.timeline.clone(),
            token,
        },
        stripe_blocks: options.stripe_blocks,
    };
    if let Some(file) = &options.data.file {
        device::prepare(file, options.data.gib << 30)?;
    }
    let empty = match options.wire_cores {
        None => None,
        Some(cores) => Some(EmptyServer::start(cores.into())?),
    };
    let counters = Counters::new(options.pid, options.cache.as_deref());
    let group = format!("pagestream, {}", options.load.access);
    let mut series = Vec::new();
    let started_ns = clock::now_ns();
    for &shape in &options.load.shapes {
        let load = Load {
            locality: options.locality,
            check: options.check,
            ..load(&options.load, &options.run, shape)
        };
        let name = shape.to_string();
        let mut contestants: Vec<Contestant<'_>> = Vec::new();
        if let Some(file) = &options.data.file {
            let load = DeviceLoad {
                depth: shape.in_flight(),
                read_bytes: 8192,
                align_bytes: 8192,
                warm_up: options.run.warm_up,
                measure: options.run.seconds,
                seed: options.run.seed,
            };
            let measure = Box::new(move || device::run(file, load));
            contestants.push((subject(&group, "device", &name, None), measure));
        }
        if let Some(empty) = &empty {
            let load = load.clone();
            let measure = Box::new(move || wire::run(empty, &load));
            contestants.push((subject(&group, "wire", &name, None), measure));
        }
        // The ratio is to the first baseline there is.
        let baseline = contestants.first().map(|(first, _)| first.name.clone());
        let measure = Box::new(|| client::run(&target, &keyspace, &load, &counters));
        contestants.push((
            subject(&group, "pagestream", &name, baseline.as_deref()),
            measure,
        ));
        series.extend(interleave(contestants, options.run.rounds, started_ns)?);
    }
    finish(&options.run, &series, Vec::new(), GoalsShown::None)
}

/// The load of a shape, before what is particular to a subject.
fn load(options: &LoadOptions, run: &RunOptions, shape: Shape) -> Load {
    Load {
        connections: shape.connections,
        depth: shape.depth,
        access: options.access,
        rate: options.rate,
        warm_up: run.warm_up,
        measure: run.seconds,
        locality: Locality::Any,
        check: Check::None,
        threads: options.threads,
        seed: run.seed,
        lsn: u64::MAX,
        not_modified_since: 0,
    }
}

pub(crate) fn subject(group: &str, name: &str, shape: &str, baseline: Option<&str>) -> Subject {
    Subject {
        group: group.to_owned(),
        name: name.to_owned(),
        shape: shape.to_owned(),
        baseline: baseline.map(str::to_owned),
    }
}

/// Which goals a report lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoalsShown {
    /// None: the run is of the user's making.
    None,
    /// Those the run measured: it was a part of the suite.
    Measured,
    /// Those it did not measure, too.
    All,
}

/// Prints the report, and writes it where it was asked to.
///
/// # Errors
/// It can't be written.
pub(crate) fn finish(
    run: &RunOptions,
    series: &[Series],
    notes: Vec<String>,
    goals_shown: GoalsShown,
) -> Result<()> {
    let mut report = Report::new(Header::here(), series);
    report.notes = notes;
    report.goals = match goals_shown {
        GoalsShown::None => Vec::new(),
        GoalsShown::Measured => {
            let goals = goals::goals(&report).into_iter();
            goals.filter(|goal| goal.measured.is_some()).collect()
        }
        GoalsShown::All => goals::goals(&report),
    };
    if let Some(directory) = &run.out {
        report.write(directory, series)?;
    }
    print!("{}", report.text());
    Ok(())
}
