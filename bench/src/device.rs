//! The device baseline: uniformly random direct reads of one file by a plain ring, nothing else. What the engine
//! reaches is measured against it. `fio`, where it is installed, does the same reads beside it and has to agree.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use engine::io::raw_ring::{RawRing, RawRingConfig};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::Deserialize;

use crate::access::below;
use crate::clock::{as_ns, now_ns};
use crate::counters::{Counters, Used};
use crate::error::{BenchError, Doing, Result};
use crate::latency::Latencies;
use crate::rounds::Measured;

/// What to read and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceLoad {
    /// Reads in the kernel at once.
    pub(crate) depth: u32,
    /// Bytes per read.
    pub(crate) read_bytes: u32,
    /// Positions are multiples of this; the engine's blocks start where they happen to start.
    pub(crate) align_bytes: u32,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    pub(crate) seed: u64,
}

/// Reads `path` for one round.
///
/// # Errors
/// A file shorter than one read, and what the device refuses.
pub(crate) fn run(path: &Path, load: DeviceLoad) -> Result<Measured> {
    let doing = || format!("read {} directly", path.display());
    let config = RawRingConfig {
        depth: load.depth,
        read_bytes: load.read_bytes,
        registered_buffers: false,
    };
    let mut ring = RawRing::open(path, config).doing(doing)?;
    let span = ring
        .file_bytes()
        .doing(doing)?
        .checked_sub(u64::from(load.read_bytes));
    let positions = span
        .zip(std::num::NonZeroU64::new(load.align_bytes.into()))
        .map(|(span, align)| span / align + 1)
        .ok_or_else(|| BenchError::Unfit(format!("{} is too short", path.display())))?;

    let counters = Counters::new(Some(std::process::id()), Some(path));
    let start_ns = now_ns();
    let from_ns = start_ns + as_ns(load.warm_up);
    let to_ns = from_ns + as_ns(load.measure);
    // The clock is read once per completed read; `next_at` uses what `done` saw.
    let now = Cell::new(start_ns);
    let mut rng = ChaCha8Rng::seed_from_u64(load.seed);
    let before = RefCell::new(None);
    let after = RefCell::new(None);
    let mut latencies = Latencies::new();
    let next_at =
        || (now.get() < to_ns).then(|| below(&mut rng, positions) * u64::from(load.align_bytes));
    let done = |took: Duration, _: &[u8]| {
        let at = now_ns();
        now.set(at);
        if at >= to_ns {
            after
                .borrow_mut()
                .get_or_insert_with(|| (at, counters.sample()));
        } else if at >= from_ns {
            before
                .borrow_mut()
                .get_or_insert_with(|| (at, counters.sample()));
            latencies.record(as_ns(took));
        }
    };
    ring.run(next_at, done).doing(doing)?;
    let (Some((before_ns, before)), Some((after_ns, after))) = (before.take(), after.take()) else {
        return Err(BenchError::Unfit(
            "no read ended within the measured time".to_owned(),
        ));
    };
    Ok(Measured {
        ops: latencies.count(),
        elapsed: Duration::from_nanos(after_ns - before_ns),
        latencies,
        used: after.since(&before),
        errors: 0,
    })
}

/// Reads a file through once, in order, but for a last piece below a MiB. What lies below the device (the page cache of a host, a faster tier) has then seen all of
/// it, as it has the file it is compared with: without that, a cache that was just written came out twelve times slower
/// than a device file which had been read before.
///
/// # Errors
/// What the device refuses.
pub(crate) fn read_through(path: &Path) -> Result<()> {
    let doing = || format!("read {} through", path.display());
    let config = RawRingConfig {
        depth: 4,
        read_bytes: 1 << 20,
        registered_buffers: false,
    };
    let mut ring = RawRing::open(path, config).doing(doing)?;
    let steps = ring.file_bytes().doing(doing)? >> 20;
    let mut positions = (0..steps).map(|step| step << 20);
    ring.run(|| positions.next(), |_, _| {}).doing(doing)
}

/// Makes a file of at least `bytes` random bytes, unless it is there already, and makes it durable.
///
/// # Errors
/// A full disk: a tenth of it and a GiB are left free.
pub(crate) fn prepare(path: &Path, bytes: u64) -> Result<()> {
    let doing = || format!("write {}", path.display());
    if std::fs::metadata(path).is_ok_and(|m| m.len() >= bytes) {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).doing(doing)?;
        require_space(parent, bytes)?;
    }
    // Under another name until it is whole: a shorter file of an interrupted run is never measured.
    let part = path.with_extension("part");
    let mut file = File::create(&part).doing(doing)?;
    let mut chunk = vec![0; 8 << 20];
    let mut rng = ChaCha8Rng::seed_from_u64(bytes);
    let mut left = bytes;
    while left > 0 {
        rng.fill_bytes(&mut chunk);
        let take = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        file.write_all(&chunk[..take]).doing(doing)?;
        left -= take as u64;
    }
    file.sync_all().doing(doing)?;
    std::fs::rename(&part, path).doing(doing)
}

/// # Errors
/// `bytes` more would leave less than a tenth of the file system and a GiB free.
pub(crate) fn require_space(directory: &Path, bytes: u64) -> Result<()> {
    let stat =
        rustix::fs::statvfs(directory).doing(|| format!("look at {}", directory.display()))?;
    let free = stat.f_bavail * stat.f_frsize;
    let keep = (stat.f_blocks * stat.f_frsize / 10).min(20 << 30) + (1 << 30);
    if free >= bytes.saturating_add(keep) {
        return Ok(());
    }
    let text = format!(
        "{} has {} MiB free, and {} MiB are needed beside a reserve of {}",
        directory.display(),
        free >> 20,
        bytes >> 20,
        keep >> 20
    );
    Err(BenchError::Unfit(text))
}

/// Whether `fio` can be started.
pub(crate) fn fio_is_installed() -> bool {
    Command::new("fio")
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success())
}

/// The same reads by `fio`, for one round.
///
/// # Errors
/// `fio` does not start, fails, or prints something else than its JSON.
pub(crate) fn run_fio(path: &Path, load: DeviceLoad) -> Result<Measured> {
    // Like the plain ring: everything that became free is submitted in one call, whatever is complete is taken.
    let output = Command::new("fio")
        .args([
            "--name=baseline",
            "--ioengine=io_uring",
            "--rw=randread",
            "--direct=1",
        ])
        .args([
            "--time_based",
            "--randrepeat=0",
            "--norandommap",
            "--output-format=json+",
        ])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--bs={}", load.read_bytes))
        .arg(format!("--blockalign={}", load.align_bytes))
        .args(["--lat_percentiles=1", "--clat_percentiles=0"])
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--iodepth_batch_submit={}", load.depth))
        .arg("--iodepth_batch_complete_min=1")
        .arg(format!("--iodepth_batch_complete_max={}", load.depth))
        .arg(format!("--runtime={}ms", load.measure.as_millis()))
        .arg(format!("--ramp_time={}ms", load.warm_up.as_millis()))
        .output()
        .doing(|| "start fio")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BenchError::Unfit(format!("fio: {text}")));
    }
    parse_fio(&output.stdout)
}

/// What is needed of the `json+` output of fio 3.
#[derive(Deserialize)]
struct FioOutput {
    jobs: Vec<FioJob>,
}

#[derive(Deserialize)]
struct FioJob {
    read: FioRead,
    usr_cpu: f64,
    sys_cpu: f64,
    job_runtime: u64,
}

#[derive(Deserialize)]
struct FioRead {
    total_ios: u64,
    runtime: u64,
    /// From submission to completion, as the plain ring counts.
    lat_ns: FioLatency,
}

#[derive(Deserialize)]
struct FioLatency {
    #[serde(default)]
    bins: std::collections::BTreeMap<String, u64>,
}

fn parse_fio(json: &[u8]) -> Result<Measured> {
    let bad = |why: &str| BenchError::Protocol(format!("fio's output: {why}"));
    // Warnings may stand before the document.
    let start = json
        .iter()
        .position(|&b| b == b'{')
        .ok_or_else(|| bad("no JSON"))?;
    let output: FioOutput =
        serde_json::from_slice(&json[start..]).map_err(|e| bad(&e.to_string()))?;
    let job = output
        .jobs
        .into_iter()
        .next()
        .ok_or_else(|| bad("no job"))?;
    let mut latencies = Latencies::new();
    for (ns, count) in job.read.lat_ns.bins {
        let ns = ns.parse().map_err(|_| bad("a bin without a number"))?;
        latencies.record_many(ns, count);
    }
    let runtime = Duration::from_millis(job.job_runtime);
    Ok(Measured {
        ops: job.read.total_ios,
        elapsed: Duration::from_millis(job.read.runtime.max(1)),
        latencies,
        used: Used {
            cpu: Some(runtime.mul_f64(((job.usr_cpu + job.sys_cpu) / 100.0).max(0.0))),
            ..Used::default()
        },
        errors: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_a_file_are_counted_and_positions_stay_inside() {
        let directory = tempfile::tempdir_in(".").expect("a directory on a disk");
        let path = directory.path().join("data");
        prepare(&path, 1 << 20).expect("written");
        let made = std::fs::metadata(&path)
            .expect("there")
            .modified()
            .expect("known");
        prepare(&path, 1 << 20).expect("it is there");
        assert_eq!(
            std::fs::metadata(&path)
                .expect("there")
                .modified()
                .expect("known"),
            made
        );
        for (depth, read_bytes, align_bytes) in [(1, 8192, 8192), (16, 8704, 512)] {
            let load = DeviceLoad {
                depth,
                read_bytes,
                align_bytes,
                warm_up: Duration::from_millis(20),
                measure: Duration::from_millis(150),
                seed: 1,
            };
            let measured = run(&path, load).expect("reads");
            assert!(measured.ops > 20, "{}", measured.ops);
            assert_eq!(measured.ops, measured.latencies.count());
            assert!(
                measured.elapsed >= Duration::from_millis(100),
                "{:?}",
                measured.elapsed
            );
        }
        let load = DeviceLoad {
            depth: 1,
            read_bytes: 2 << 20,
            align_bytes: 4096,
            warm_up: Duration::ZERO,
            measure: Duration::from_millis(10),
            seed: 1,
        };
        assert!(
            run(&path, load).is_err(),
            "the file is shorter than one read"
        );
    }

    #[test]
    fn a_disk_too_small_is_refused_before_it_is_filled() {
        let error = require_space(Path::new("."), u64::MAX / 2).expect_err("too much");
        assert!(error.to_string().contains("MiB free"), "{error}");
    }

    #[test]
    fn the_output_of_fio_is_understood() {
        let json = br#"fio: a warning
            {"fio version": "fio-3.33", "jobs": [{"jobname": "baseline",
              "read": {"total_ios": 50000, "runtime": 2000, "iops": 25000.0,
                       "lat_ns": {"min": 1, "bins": {"40000": 30000, "90000": 20000}}},
              "usr_cpu": 5.0, "sys_cpu": 20.0, "job_runtime": 2000}]}"#;
        let measured = parse_fio(json).expect("valid");
        assert!((measured.rate() - 25_000.0).abs() < 0.1);
        assert_eq!(measured.used.cpu, Some(Duration::from_millis(500)));
        let p = measured.latencies.percentiles();
        assert_eq!((p.p50_us.round(), p.p90_us.round()), (40.0, 90.0));
        assert!(parse_fio(b"fio: no such file").is_err());
    }
}
