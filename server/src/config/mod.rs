//! Settings of the server: a TOML file whose every key has a meaning, a unit, a range and a default, all of them in
//! `default.toml` beside this file, which `pageserver init` writes. Unknown keys are refused by name; a value outside its
//! range is refused, never rounded; [`Config::validate`] tells all problems at once, before any file is opened.
//!
//! Numbers only: clocks, stores and keys are parts, and are made from these by `parts.rs`.

mod quantity;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::ingest::{CompactionConfig, IngestConfig};
use serde::{Deserialize, Serialize};

pub use quantity::{QuantityError, Size, Span};

/// The commented file that `pageserver init` writes: every key, with its default, commented out.
pub const DEFAULT_TEXT: &str = include_str!("default.toml");

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The page service.
    pub pages: PagesConfig,
    /// The admin HTTP service.
    pub admin: AdminConfig,
    /// Object storage.
    pub store: StoreConfig,
    /// Keys.
    pub keys: KeysConfig,
    /// Local cache of sealed extents.
    pub cache: CacheConfig,
    /// Branches that follow a primary.
    pub follow: FollowConfig,
    /// Cores and threads.
    pub runtime: RuntimeConfig,
    /// Logs.
    pub log: LogConfig,
}

/// Who may connect to a listener, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// File with the token clients must send. Needed off loopback.
    pub token_file: Option<PathBuf>,
    /// Certificate chain, PEM. Needed off loopback.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Listen off loopback without token or TLS all the same. Default false.
    pub allow_insecure: bool,
}

/// The page service. Every limit is a bound on memory as well: see docs/OPERATIONS.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PagesConfig {
    /// Address and port.
    pub listen: SocketAddr,
    /// A port per core, counted up from `listen`'s, instead of one shared by all. Default false.
    pub port_per_core: bool,
    /// Connections in all. Range 1..=100000.
    pub connections_max: u32,
    /// Connections of one tenant. Range 1..=`connections_max`.
    pub connections_per_tenant_max: u32,
    /// Requests of one connection read at once. Range 1..=1024.
    pub requests_per_connection_max: u32,
    /// Requests of one tenant read at once on one core. Range 1..=65536.
    pub requests_per_tenant_max: u32,
    /// Requests read at once on one core. Range 1..=65536.
    pub requests_per_core_max: u32,
    /// Longest frame a client may send. Range 1KiB..=1MiB.
    pub frame_max: Size,
    /// From accept to an open session. Range 100ms..=5m.
    pub handshake_timeout: Span,
    /// Longest wait for a branch to open. Range 1s..=5m.
    pub open_timeout: Span,
    /// Silence after which a connection is closed. Range 1s..=7d.
    pub idle_timeout: Span,
    /// How long a client may leave an answer unread. Range 1s..=1h.
    pub write_timeout: Span,
    /// How long a request above the last ingested LSN waits. Range 0..=5m.
    pub lsn_wait_timeout: Span,
    /// Access.
    pub access: AccessConfig,
}

impl Default for PagesConfig {
    fn default() -> Self {
        PagesConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 64_000)),
            port_per_core: false,
            connections_max: 2_000,
            connections_per_tenant_max: 1_000,
            requests_per_connection_max: 64,
            requests_per_tenant_max: 1_024,
            requests_per_core_max: 4_096,
            frame_max: Size(8 << 10),
            handshake_timeout: Span(Duration::from_secs(10)),
            open_timeout: Span(Duration::from_secs(30)),
            idle_timeout: Span(Duration::from_secs(3_600)),
            write_timeout: Span(Duration::from_secs(60)),
            lsn_wait_timeout: Span(Duration::from_secs(5)),
            access: AccessConfig::default(),
        }
    }
}

/// The admin HTTP service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port.
    pub listen: SocketAddr,
    /// Connections in all. Range 1..=10000.
    pub connections_max: u32,
    /// Longest request body that is read. Range 1KiB..=16MiB.
    pub body_max: Size,
    /// Access.
    pub access: AccessConfig,
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 9_898)),
            connections_max: 64,
            body_max: Size(64 << 10),
            access: AccessConfig::default(),
        }
    }
}

/// Object storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `file:///dir`, `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`; empty for `objects` in the
    /// data directory.
    pub url: String,
    /// How often a branch that is read, and that another server may write, is compared with the store: one request each time, for
    /// it and each of its ancestors. 0 for never: it stays as it was when it was opened. Range 0, 10ms..=1h.
    pub refresh_every: Span,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            url: String::new(),
            refresh_every: Span(Duration::from_secs(1)),
        }
    }
}

/// Keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// The local keyring; empty for `pageserver/keyring` in the user's configuration directory. Never inside the data
    /// directory.
    pub keyring: PathBuf,
}

/// Local cache of sealed extents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Bytes of disk. Range 16MiB..=64TiB.
    pub size: Size,
    /// Bytes of opened pages kept in memory, over all cores; 0 for none. Range 0..=1TiB.
    pub ram: Size,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            size: Size(8 << 30),
            ram: Size(0),
        }
    }
}

/// Branches that follow a primary; limits of each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FollowConfig {
    /// Bytes of versions that are in no layer yet and in memory; those being flushed come on top, at most as much. Range
    /// 8MiB..=64GiB.
    pub memory: Size,
    /// Age at which what is in memory is flushed though it is less. Range 1s..=1d.
    pub flush_after: Span,
    /// Bytes of local WAL. Range 128MiB..=16TiB.
    pub wal_size: Size,
    /// For how long history stays readable. Range 1s..=10000d. With `retain_wal` whatever keeps more counts; without both all history
    /// stays. What branches see where they left stays in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_time: Option<Span>,
    /// How much WAL below the last LSN stays readable. Range 16MiB..=1PiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_wal: Option<Size>,
    /// How long history stays that is not shown any more: longer than it takes to make a branch. Range 1s..=1d.
    pub history_grace: Span,
    /// How long objects stay that no manifest names any more. Range 1s..=30d.
    pub delete_after: Span,
}

impl FollowConfig {
    /// What of it is for the engine's ingest.
    pub fn ingest(&self) -> IngestConfig {
        IngestConfig {
            compaction: CompactionConfig {
                delete_after: self.delete_after.0,
                ..CompactionConfig::default()
            },
            ..IngestConfig::default()
        }
    }
}

impl Default for FollowConfig {
    fn default() -> Self {
        FollowConfig {
            memory: Size(256 << 20),
            flush_after: Span(Duration::from_secs(300)),
            wal_size: Size(8 << 30),
            retain_time: None,
            retain_wal: None,
            history_grace: Span(Duration::from_secs(60)),
            delete_after: Span(Duration::from_secs(600)),
        }
    }
}

/// Cores and threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// Cores that own pages; 0 for all of the machine's. Range 0..=256.
    pub cores: u32,
    /// Threads that stream misses from the object store. Range 1..=16.
    pub store_threads: u32,
    /// How long a core whose device is at work looks for it before it sleeps. Range 0us..=1ms.
    pub spin: Span,
    /// Longest time from SIGTERM to the end. Range 1s..=10m.
    pub stop_timeout: Span,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig {
            cores: 0,
            store_threads: 1,
            spin: Span(Duration::ZERO),
            stop_timeout: Span(Duration::from_secs(9)),
        }
    }
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Lines for people or JSON for machines.
    pub format: LogFormat,
    /// What is logged, as `tracing` filters are written: `info`, `engine=debug,info`.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            format: LogFormat::Human,
            filter: "info".to_owned(),
        }
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind; the message names line and key.
    #[error("{path}: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// Values outside their range.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

/// A value that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub range: String,
}

fn list(problems: &[Problem]) -> String {
    let lines = problems
        .iter()
        .map(|p| format!("{} = {}: must be {}", p.key, p.value, p.range));
    lines.collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and validates the file at `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let config = Config::parse(&text).map_err(|e| ConfigError::Malformed {
            path: path.to_owned(),
            reason: e.to_string().trim_end().to_owned(),
        })?;
        config.validate()?;
        Ok(config)
    }

    /// Reads a configuration without judging its values.
    pub fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    /// Succeeds if every value is in its range and they fit together; else tells everything that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Problems(Vec::new());
        self.pages.check(&mut problems);
        self.admin.check(&mut problems);
        if !self.store.refresh_every.0.is_zero() {
            problems.span(
                "store.refresh_every",
                self.store.refresh_every,
                "10ms",
                "1h",
            );
        }
        problems.size("cache.size", self.cache.size, 16 << 20, 64 << 40);
        problems.size("cache.ram", self.cache.ram, 0, 1 << 40);
        problems.size("follow.memory", self.follow.memory, 8 << 20, 64 << 30);
        problems.span("follow.flush_after", self.follow.flush_after, "1s", "1d");
        problems.size("follow.wal_size", self.follow.wal_size, 128 << 20, 16 << 40);
        if let Some(span) = self.follow.retain_time {
            problems.span("follow.retain_time", span, "1s", "10000d");
        }
        if let Some(size) = self.follow.retain_wal {
            problems.size("follow.retain_wal", size, 16 << 20, 1 << 50);
        }
        problems.span(
            "follow.history_grace",
            self.follow.history_grace,
            "1s",
            "1d",
        );
        problems.span("follow.delete_after", self.follow.delete_after, "1s", "30d");
        problems.number("runtime.cores", self.runtime.cores, 0, 256);
        problems.number("runtime.store_threads", self.runtime.store_threads, 1, 16);
        problems.span("runtime.spin", self.runtime.spin, "0us", "1ms");
        problems.span(
            "runtime.stop_timeout",
            self.runtime.stop_timeout,
            "1s",
            "10m",
        );
        if !self.store.url.is_empty() && url::Url::parse(&self.store.url).is_err() {
            problems.add(
                "store.url",
                &self.store.url,
                "a URL like file:///dir or s3://bucket/prefix, or empty",
            );
        }
        if self
            .log
            .filter
            .parse::<tracing_subscriber::EnvFilter>()
            .is_err()
        {
            problems.add(
                "log.filter",
                &self.log.filter,
                "a filter like info or engine=debug,info",
            );
        }
        if problems.0.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid(problems.0))
        }
    }
}

impl PagesConfig {
    fn check(&self, problems: &mut Problems) {
        problems.number("pages.connections_max", self.connections_max, 1, 100_000);
        problems.number(
            "pages.connections_per_tenant_max",
            self.connections_per_tenant_max,
            1,
            self.connections_max.max(1),
        );
        problems.number(
            "pages.requests_per_connection_max",
            self.requests_per_connection_max,
            1,
            1_024,
        );
        problems.number(
            "pages.requests_per_tenant_max",
            self.requests_per_tenant_max,
            1,
            65_536,
        );
        problems.number(
            "pages.requests_per_core_max",
            self.requests_per_core_max,
            1,
            65_536,
        );
        problems.size("pages.frame_max", self.frame_max, 1 << 10, 1 << 20);
        problems.span(
            "pages.handshake_timeout",
            self.handshake_timeout,
            "100ms",
            "5m",
        );
        problems.span("pages.open_timeout", self.open_timeout, "1s", "5m");
        problems.span("pages.idle_timeout", self.idle_timeout, "1s", "7d");
        problems.span("pages.write_timeout", self.write_timeout, "1s", "1h");
        problems.span("pages.lsn_wait_timeout", self.lsn_wait_timeout, "0", "5m");
        problems.access(
            ["pages.access", "pages.access.tls_key"],
            self.listen.ip(),
            &self.access,
        );
        if self.port_per_core && self.listen.port() > u16::MAX - 256 {
            problems.add(
                "pages.listen",
                &self.listen.to_string(),
                "a port at most 65279 with pages.port_per_core",
            );
        }
    }
}

impl AdminConfig {
    fn check(&self, problems: &mut Problems) {
        problems.number("admin.connections_max", self.connections_max, 1, 10_000);
        problems.size("admin.body_max", self.body_max, 1 << 10, 16 << 20);
        problems.access(
            ["admin.access", "admin.access.tls_key"],
            self.listen.ip(),
            &self.access,
        );
    }
}

impl AccessConfig {
    /// Whether clients at `listen` must use TLS.
    pub fn tls_required(&self, listen: IpAddr) -> bool {
        !listen.is_loopback() && !self.allow_insecure
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: &'static str, value: &str, range: impl Into<String>) {
        self.0.push(Problem {
            key,
            value: value.to_owned(),
            range: range.into(),
        });
    }

    fn number(&mut self, key: &'static str, value: u32, min: u32, max: u32) {
        if !(min..=max).contains(&value) {
            self.add(key, &value.to_string(), format!("{min}..={max}"));
        }
    }

    fn size(&mut self, key: &'static str, value: Size, min_bytes: u64, max_bytes: u64) {
        let (min, max) = (Size(min_bytes), Size(max_bytes));
        if !(min..=max).contains(&value) {
            self.add(key, &value.to_string(), format!("{min}..={max}"));
        }
    }

    fn span(&mut self, key: &'static str, value: Span, min: &str, max: &str) {
        let bound = |text: &str| text.parse::<Span>().expect("bounds are written right");
        if !(bound(min)..=bound(max)).contains(&value) {
            self.add(key, &value.to_string(), format!("{min}..={max}"));
        }
    }

    fn access(&mut self, keys: [&'static str; 2], listen: IpAddr, access: &AccessConfig) {
        if access.tls_certificate.is_some() != access.tls_key.is_some() {
            let range = "set together with tls_certificate, or neither";
            self.add(keys[1], &format!("{:?}", access.tls_key), range);
        }
        let secured = access.token_file.is_some() && access.tls_certificate.is_some();
        if access.tls_required(listen) && !secured {
            let range = format!(
                "complete (token_file, tls_certificate, tls_key), since {listen} is not loopback; allow_insecure = true \
                 does without"
            );
            self.add(keys[0], "incomplete", range);
        }
    }
}

#[cfg(test)]
mod tests;
