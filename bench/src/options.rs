//! The command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::access::Access;
use crate::pages::Check;
use crate::pagestream::client::Locality;
use crate::pagestream::keyspace::RelationSize;

/// Measures the pageserver against the device and the wire below it.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The device baseline: random direct reads of a file through a plain io_uring; and by fio, if it is installed.
    Device(DeviceOptions),
    /// The wire baseline: a server that answers without reading.
    Wire(WireOptions),
    /// Load on a running pageserver, with both baselines beside it.
    Pagestream(Box<PagestreamOptions>),
    /// The engine embedded, from disk and from RAM, with the device beside it.
    Engine(SuiteOptions),
    /// Misses: the engine with an empty cache before a distant store, with the store's own GET beside it.
    Cold(SuiteOptions),
    /// The server started by this program: from disk, from RAM, same core and other core, restarts.
    Server(SuiteOptions),
    /// Restarts with a sparse cache of 1 TiB, an extent in the index for every slot, up to the first page.
    Restart(SuiteOptions),
    /// Imports of a running cluster, with pg_basebackup beside it, and how much memory they take.
    Import(ImportOptions),
    /// Following a primary: how fast its WAL is taken in, with pg_receivewal beside it, and what commits cost that wait for it,
    /// with a stock standby beside it.
    Follow(FollowOptions),
    /// Making branches, with a bare put into the same store beside it.
    Branch(BranchOptions),
    /// Everything, and the goals.
    All(SuiteOptions),
    /// Decoding of WAL, in memory, on one core.
    Decode(ReplayOptions),
    /// Redo of short heap and btree records and of a long chain, in memory, on one core.
    Redo(ReplayOptions),
    /// What changed between two reports.
    Compare {
        /// report.json of the older commit.
        old: PathBuf,
        /// report.json of the newer commit.
        new: PathBuf,
    },
    /// Serves as empty server until it is killed; `wire` starts it.
    #[command(hide = true)]
    WireServer {
        #[arg(long)]
        cores: usize,
    },
}

/// What is decoded and replayed.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReplayOptions {
    /// Directory of WAL segment files, such as the `pg_wal` of a cluster that `pgbench` ran on.
    pub(crate) directory: PathBuf,
    /// Rounds, of which the fastest counts.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rounds: u32,
}

/// How long and how often, and where the report goes.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunOptions {
    /// Measured seconds of each round.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Seconds before them in each round that do not count.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub(crate) warm_up: Duration,
    /// Rounds; baseline and subject take turns in each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Seed of all choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Directory for report.json, report.html, report.txt and latencies.hlog.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// The file the device baseline reads.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileOptions {
    /// File to read; made of random bytes if it is not there.
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// Its size in GiB.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) gib: u64,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceOptions {
    #[command(flatten)]
    pub(crate) data: FileOptions,
    /// Reads in the kernel at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 128])]
    pub(crate) depth: Vec<u32>,
    /// Bytes per read.
    #[arg(long, default_value_t = 8192)]
    pub(crate) read_bytes: u32,
    /// What positions are multiples of; as `--read-bytes` if not given.
    #[arg(long)]
    pub(crate) align_bytes: Option<u32>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SuiteOptions {
    /// Directory for everything that is written: object store, caches, keyring, the device's file. Kept for the next
    /// run.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// GiB of incompressible pages; a quarter as many compressible ones.
    #[arg(long, default_value_t = 8.0, value_parser = gib)]
    pub(crate) gib: f64,
    /// First-byte latency of the distant store, in milliseconds.
    #[arg(long, default_value_t = 30)]
    pub(crate) store_first_byte_ms: u64,
    /// Bandwidth of each of its bodies, in MiB per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) store_mib_per_second: u64,
    /// Scale of pgbench's tables for imports; 0 leaves imports out.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) scale: u32,
    /// Microseconds that a core of the engine or the server, whose device is at work, spins before it sleeps.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    pub(crate) spin_us: u64,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ImportOptions {
    /// Directory on the disk that is written to; what is made there is removed again.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Scale of pgbench's tables, 15 MiB each; for the look at memory they are made twice as large.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) scale: u32,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FollowOptions {
    /// Directory on the disk that is written to; what is made there is removed again.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Scale of pgbench's tables, 15 MiB each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) scale: u32,
    /// MiB of WAL to catch up with in each round.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=100_000))]
    pub(crate) wal_mib: u32,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BranchOptions {
    /// Directory on the disk that is written to; what is made there is removed again.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Branches made in each round.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) creates: u32,
    /// Branches that are there already, where there are many.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) branches: u32,
    /// Latency of the distant store, in milliseconds.
    #[arg(long, default_value_t = 30)]
    pub(crate) store_first_byte_ms: u64,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WireOptions {
    /// Cores of the empty server, a listener on each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cores: u16,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// How a client asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadOptions {
    /// CONNECTIONSxDEPTH, several by comma.
    #[arg(long, value_delimiter = ',', default_value = "1x1,8x1,1x16,8x16")]
    pub(crate) shapes: Vec<Shape>,
    /// uniform, zipf (or zipf:EXPONENT), sequential or scattered.
    #[arg(long, default_value = "uniform")]
    pub(crate) access: Access,
    /// Requests per second in all (open loop, latency from when a request was due); closed loop if not given.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Threads of the client.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PagestreamOptions {
    /// Address of the server's pagestream; several for a sharded client or a port per core.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:64000")]
    pub(crate) address: Vec<SocketAddr>,
    /// Its admin HTTP, asked for the keyspace.
    #[arg(long, default_value = "http://127.0.0.1:9898")]
    pub(crate) http: String,
    /// 32 hex digits.
    #[arg(long)]
    pub(crate) tenant: String,
    /// The branch's id, 32 hex digits.
    #[arg(long)]
    pub(crate) timeline: String,
    /// File that holds the token, sent as password and to the admin HTTP.
    #[arg(long)]
    pub(crate) token_file: Option<PathBuf>,
    /// TABLESPACE/DATABASE/RELATION[.FORK]:BLOCKS instead of asking for the keyspace; several by comma.
    #[arg(long, value_delimiter = ',')]
    pub(crate) relations: Vec<RelationSize>,
    /// With several addresses: ask each for all pages, for its share as a sharded client, for those its core owns, or for
    /// those that others own.
    #[arg(long, value_enum, default_value = "any")]
    pub(crate) locality: Locality,
    /// Blocks per stripe of a sharded client.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stripe_blocks: u32,
    /// How pages are checked.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) check: Check,
    /// Process id of the server, to count its CPU time.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Where the server's cache is, to count reads of that disk.
    #[arg(long)]
    pub(crate) cache: Option<PathBuf>,
    /// With `--file`: the device beside it, at the same depth.
    #[command(flatten)]
    pub(crate) data: FileOptions,
    /// The empty server beside it, on so many cores.
    #[arg(long)]
    pub(crate) wire_cores: Option<u16>,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// Connections and requests in flight on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) connections: u32,
    pub(crate) depth: u32,
}

impl Shape {
    /// Requests in flight in all.
    pub(crate) fn in_flight(self) -> u32 {
        self.connections * self.depth
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.connections, self.depth)
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.trim()
                .parse::<u32>()
                .ok()
                .filter(|n| (1..=4096).contains(n))
        };
        text.split_once('x')
            .and_then(|(a, b)| {
                Some(Shape {
                    connections: number(a)?,
                    depth: number(b)?,
                })
            })
            .ok_or_else(|| format!("{text:?} is not CONNECTIONSxDEPTH, each in 1..=4096"))
    }
}

/// Seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds
        .filter(|s| *s <= Duration::from_secs(86_400))
        .ok_or_else(|| format!("{text:?} is not a number of seconds up to a day"))
}

fn gib(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|gib: &f64| (0.03..=4096.0).contains(gib))
        .ok_or_else(|| format!("{text:?} is not a number of GiB in 0.03..=4096"))
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| *rate > 0.0 && *rate < 1e9)
        .ok_or_else(|| format!("{text:?} is not a rate above zero"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn shapes_are_read_and_nonsense_is_refused() {
        assert_eq!(
            "8x16".parse(),
            Ok(Shape {
                connections: 8,
                depth: 16
            })
        );
        assert_eq!("8 x 16".parse::<Shape>().map(Shape::in_flight), Ok(128));
        for bad in ["8", "x", "0x1", "1x0", "5000x1", "-1x1"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad} parsed");
        }
        for bad in ["-1", "nan", "1e9", "a"] {
            assert!(seconds(bad).is_err(), "{bad} parsed");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }
}
