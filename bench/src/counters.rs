//! The kernel's own counters: CPU time of a process and reads of the disk under a path. A load generator that asked the
//! server for these numbers would print what the server believes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is counted during a run: CPU of one process, and reads of one disk.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    pid: Option<u32>,
    disk: Option<DiskCounter>,
}

/// Counters at one moment; two of them make a difference.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    cpu: Option<Duration>,
    process_read_bytes: Option<u64>,
    disk: Option<DiskReads>,
}

/// What was used between two samples; `None` is what could not be counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Used {
    /// User and system time of all threads of the process.
    pub(crate) cpu: Option<Duration>,
    /// Bytes the process had read from block devices, as `/proc/PID/io` counts them.
    pub(crate) process_read_bytes: Option<u64>,
    /// Read requests the disk completed, of all processes: noise of others is in it.
    pub(crate) device_reads: Option<u64>,
    /// Bytes the disk read, of all processes.
    pub(crate) device_read_bytes: Option<u64>,
}

impl Counters {
    /// Counts for the process `pid` and the disk that holds `path`.
    pub(crate) fn new(pid: Option<u32>, path: Option<&Path>) -> Self {
        Self {
            pid,
            disk: path.and_then(DiskCounter::of_path),
        }
    }

    pub(crate) fn sample(&self) -> Sample {
        Sample {
            cpu: self.pid.and_then(|pid| process_cpu(pid).ok()),
            process_read_bytes: self.pid.and_then(|pid| process_read_bytes(pid).ok()),
            disk: self.disk.as_ref().and_then(|disk| disk.read().ok()),
        }
    }
}

impl Sample {
    pub(crate) fn since(&self, earlier: &Sample) -> Used {
        fn difference<T, U>(a: Option<T>, b: Option<T>, f: impl Fn(T, T) -> U) -> Option<U> {
            a.zip(b).map(|(a, b)| f(a, b))
        }
        Used {
            cpu: difference(self.cpu, earlier.cpu, Duration::saturating_sub),
            process_read_bytes: difference(
                self.process_read_bytes,
                earlier.process_read_bytes,
                u64::saturating_sub,
            ),
            device_reads: difference(self.disk, earlier.disk, |a, b| {
                a.requests.saturating_sub(b.requests)
            }),
            device_read_bytes: difference(self.disk, earlier.disk, |a, b| {
                a.bytes.saturating_sub(b.bytes)
            }),
        }
    }
}

/// User and system time of all threads of a process, those that ended included. Resolution 10 ms.
pub(crate) fn process_cpu(pid: u32) -> io::Result<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::Error::other("/proc/PID/stat has an unknown form"))
}

/// The most memory that a process had resident so far.
pub(crate) fn peak_memory_mib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib >> 10)
}

/// Fields 14 and 15 of `/proc/PID/stat`, in ticks of 1/100 s. The name in field 2 may hold blanks and brackets.
fn parse_stat(text: &str) -> Option<Duration> {
    let fields: Vec<&str> = text
        .get(text.rfind(')')? + 1..)?
        .split_ascii_whitespace()
        .collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // USER_HZ is 100 on every architecture this runs on.
    Some(Duration::from_millis(ticks * 10))
}

/// Bytes that a process had fetched from block devices.
fn process_read_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/PID/io has no read_bytes"))
}

#[derive(Debug, Clone)]
struct DiskCounter {
    stat: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct DiskReads {
    requests: u64,
    bytes: u64,
}

impl DiskCounter {
    /// The block device below `path`'s file system, if it is one that `/sys/dev/block` knows.
    fn of_path(path: &Path) -> Option<Self> {
        let device = fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        stat.exists().then_some(Self { stat })
    }

    fn read(&self) -> io::Result<DiskReads> {
        parse_disk_stat(&fs::read_to_string(&self.stat)?)
            .ok_or_else(|| io::Error::other("block device stat has an unknown form"))
    }
}

/// The first fields of `/sys/block/DEV/stat`: reads completed, reads merged, sectors of 512 bytes.
fn parse_disk_stat(text: &str) -> Option<DiskReads> {
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    let requests = fields.next()?.ok()?;
    let _merged = fields.next()?.ok()?;
    let bytes = fields.next()?.ok()?.checked_mul(512)?;
    Some(DiskReads { requests, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_of_the_kernel_are_read_whatever_the_process_is_called() {
        let line =
            "4021 (page) server (x) R 1 4021 4021 0 -1 4194304 5 0 0 0 250 75 0 0 20 0 3 0 9 8 7";
        assert_eq!(parse_stat(line), Some(Duration::from_millis(3250)));
        assert_eq!(parse_stat("1 (x R 1"), None);
        let disk = "  107532  12187  7901562   240648    15903    98691 32090728   219600 0";
        let want = DiskReads {
            requests: 107_532,
            bytes: 7_901_562 * 512,
        };
        assert_eq!(parse_disk_stat(disk), Some(want));
        assert_eq!(parse_disk_stat("1 2"), None);
    }

    #[test]
    fn cpu_that_this_process_burns_is_seen() {
        let counters = Counters::new(Some(std::process::id()), None);
        let before = counters.sample();
        let start = crate::clock::now_ns();
        let mut x = 1u64;
        // Other tests burn CPU of this process too: only the lower bound can be wrong.
        while crate::clock::now_ns() - start < 200_000_000 {
            x = crate::access::mix(x);
        }
        std::hint::black_box(x);
        let used = counters.sample().since(&before);
        // On a busy machine this thread may have run for a part of the 200 ms only.
        assert!(
            used.cpu.expect("this process is alive") >= Duration::from_millis(20),
            "{used:?}"
        );
        assert_eq!(used.device_reads, None, "no disk was asked for");
    }
}
