//! What the tests follow with: a receiver, and the bytes it got.

use std::fs;
use std::path::Path;
use std::time::Duration;

use engine::types::Lsn;
use harness::postgres::TestCluster;
use postgres::local_cluster::ClusterOptions;
use postgres::replication::{
    Connection, ConnectionDefaults, ConnectionSettings, ReplicationError, ReplicationStart, Report,
    WalData, WalEvent, WalReceiver, WalReceiverConfig,
};

/// All versions that are supported.
pub(crate) const MAJORS: [u32; 4] = [15, 16, 17, 18];

/// A running cluster whose WAL stays, in segments of 1 MiB.
pub(crate) fn cluster(major: u32, settings: &[&str]) -> TestCluster {
    let mut lines = vec!["wal_keep_size = '1GB'".to_owned()];
    lines.extend(settings.iter().map(|&line| line.to_owned()));
    let options = ClusterOptions {
        wal_segment_mib: Some(1),
        settings: lines,
        ..Default::default()
    };
    if major == 15 {
        TestCluster::start_new(options)
    } else {
        TestCluster::start_version(major, options)
    }
}

pub(crate) fn settings(text: &str) -> ConnectionSettings {
    ConnectionSettings::parse(text, &ConnectionDefaults::default()).expect("well formed")
}

/// Runs a test on a runtime of one thread, and not for ever.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let limited = async { tokio::time::timeout(PATIENCE, test).await };
    runtime.block_on(limited).expect("in time")
}

/// Connects and begins a stream.
pub(crate) async fn follow(
    settings: &ConnectionSettings,
    start: &ReplicationStart,
) -> Result<WalReceiver, ReplicationError> {
    follow_with(settings, start, &WalReceiverConfig::default()).await
}

pub(crate) async fn follow_with(
    settings: &ConnectionSettings,
    start: &ReplicationStart,
    config: &WalReceiverConfig,
) -> Result<WalReceiver, ReplicationError> {
    let (settings, start) = (settings.clone(), start.clone());
    let begun = tokio::task::spawn_blocking(move || start.begin(Connection::open(&settings)?));
    WalReceiver::new(begun.await.expect("no panic")?, config)
}

/// Without a slot.
pub(crate) fn from(timeline: u32, at: Lsn) -> ReplicationStart {
    ReplicationStart {
        slot: None,
        timeline,
        at,
    }
}

/// What is on the server's disk.
pub(crate) fn flushed(cluster: &TestCluster) -> Lsn {
    let text = cluster
        .sql("postgres", "select pg_current_wal_flush_lsn()")
        .expect("a position");
    text.parse().expect("a position")
}

/// Waits until the server's last process of a connection for replication is gone, which takes it a moment.
pub(crate) fn until_free(cluster: &TestCluster) {
    for _ in 0..100 {
        let senders = cluster.sql("postgres", "select count(*) from pg_stat_replication");
        if senders.expect("a count") == "0" {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("a connection for replication is left");
}

/// Everything received is said to be everywhere.
pub(crate) fn all(position: Lsn) -> Report {
    Report {
        write: position,
        flush: position,
        apply: position,
        reply_requested: false,
    }
}

/// WAL that was received, without a gap.
pub(crate) struct Received {
    begin: Lsn,
    bytes: Vec<u8>,
}

impl Received {
    pub(crate) fn new(begin: Lsn) -> Received {
        Received {
            begin,
            bytes: Vec::new(),
        }
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.begin.0 + self.bytes.len() as u64)
    }

    pub(crate) fn take(&mut self, data: &WalData<'_>) {
        assert_eq!(data.start, self.end(), "a gap");
        assert!(!data.bytes.is_empty());
        assert!(data.server_end >= data.start);
        self.bytes.extend(data.bytes);
    }

    /// Receives and reports until all before `until` is here.
    pub(crate) async fn receive_until(&mut self, receiver: &mut WalReceiver, until: Lsn) {
        while self.end() < until {
            self.receive(receiver).await.expect("the server is there");
        }
    }

    /// Receives one message and reports.
    pub(crate) async fn receive(
        &mut self,
        receiver: &mut WalReceiver,
    ) -> Result<(), ReplicationError> {
        match receiver.next().await? {
            WalEvent::Wal(data) => self.take(&data),
            WalEvent::Keepalive(_) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(receiver.position(), self.end());
        receiver.report(all(self.end())).await
    }

    /// Compares with the segment files below a data directory, of each the newest timeline's.
    pub(crate) fn assert_is_that_of(&self, data: &Path, wanted_bytes_min: usize) {
        let bytes = self.bytes.len();
        assert!(bytes >= wanted_bytes_min, "only {bytes} bytes were written");
        let mut at = self.begin.0;
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            let (segment, offset) = (at / SEGMENT_BYTES, at % SEGMENT_BYTES);
            let name = format!("{:08X}{:08X}", segment >> 12, segment & 0xfff);
            let file = [3, 2, 1]
                .iter()
                .map(|timeline| data.join(format!("pg_wal/{timeline:08X}{name}")))
                .find(|path| path.is_file())
                .unwrap_or_else(|| panic!("no file for {}", Lsn(at)));
            let content = fs::read(&file).expect("a segment");
            let from = usize::try_from(offset).expect("below a MiB");
            let count = rest.len().min(content.len() - from);
            let same = rest[..count] == content[from..from + count];
            assert!(same, "not what is in {}", file.display());
            rest = &rest[count..];
            at += count as u64;
        }
    }
}

/// Of clusters made here.
const SEGMENT_BYTES: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(240);
