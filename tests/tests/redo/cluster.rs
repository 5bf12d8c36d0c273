//! A cluster of one version and mode, from which every record since its start is kept.

use std::fmt;
use std::process::Command;

use harness::postgres::{TestCluster, binaries, server_binaries};
use harness::sql::Session;
use postgres::local_cluster::{ClusterOptions, SUPERUSER, StopMode};

use crate::surgery;
use harness::standby::Backup;

/// How the cluster writes its WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// `full_page_writes = off`: every page goes on as a delta. No checksums.
    Deltas,
    /// `full_page_writes = on`, checksums, compressed images.
    FullPages,
}

impl Mode {
    pub(crate) fn has_checksums(self) -> bool {
        self == Mode::FullPages
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Deltas => "full page writes off",
            Mode::FullPages => "full page writes on",
        })
    }
}

/// What a workload runs in.
pub(crate) struct Run {
    pub(crate) cluster: TestCluster,
    pub(crate) mode: Mode,
    backup: Option<Backup>,
}

impl Run {
    /// A cluster that has used up as many transaction ids as make its next ones cross pages, segments and an epoch of
    /// the commit status; started.
    pub(crate) fn prepare(major: u32, mode: Mode) -> Run {
        let full_page_writes = if mode == Mode::FullPages { "on" } else { "off" };
        let compression = match (mode, major) {
            // The others are built without it, and the server's own method is slow; the workload has a little of it.
            (Mode::FullPages, 15) => "lz4",
            _ => "off",
        };
        let settings = [
            "wal_level = logical",
            "wal_consistency_checking = 'all'",
            &format!("full_page_writes = {full_page_writes}"),
            &format!("wal_compression = {compression}"),
            "synchronous_commit = off",
            "track_commit_timestamp = on",
            "max_prepared_transactions = 10",
            "allow_in_place_tablespaces = on",
            "checkpoint_timeout = 1d",
            "max_wal_size = 100GB",
            "wal_keep_size = 100GB",
            "wal_recycle = off",
            "shared_buffers = 128MB",
            // A background writer that logs what is running at its own pace would be one thing more that varies.
            "bgwriter_lru_maxpages = 0",
            // Against wraparound it would vacuum even though it is off, and what it cuts off then is not cut off later.
            "autovacuum_freeze_max_age = 2000000000",
        ];
        let cluster = TestCluster::create_with(
            server_binaries(major),
            ClusterOptions {
                data_checksums: mode.has_checksums(),
                settings: settings.map(str::to_owned).to_vec(),
                ..ClusterOptions::default()
            },
        );
        let mut run = Run {
            cluster,
            mode,
            backup: None,
        };
        if mode == Mode::Deltas {
            run.age();
            // In the last pages of a segment each: what comes goes on in others, and these can be cut off.
            let data = run.cluster.data_directory();
            surgery::set_next_multixact(&data, 4 * 65_536 - 2_048, 5 * 52_352 - 1_636);
        }
        run.begin_state();
        run.backup = Some(Backup::of(&run.cluster));
        run.cluster.start().expect("the server starts");
        run
    }

    /// State that the workload's records find and change.
    fn begin_state(&mut self) {
        self.cluster.start().expect("the server starts");
        self.session().run_each(&[
            "create table before (a int)",
            "begin; insert into before values (1); prepare transaction 'early'",
            "select pg_replication_origin_create('old')",
            "select pg_replication_origin_advance('old', '0/77')",
            "select pg_replication_origin_create('old and gone')",
            "select pg_replication_origin_advance('old and gone', '0/88')",
        ]);
        self.cluster.stop(StopMode::Fast).expect("stops");
    }

    /// Brings the next transaction id near its epoch's end, in strides after each of which everything is frozen.
    fn age(&mut self) {
        for next_xid in [1_500_000_000, 3_000_000_000, (1 << 32) - 20_000] {
            // The first id of a page of the commit status: the page is then made, and need not be there.
            let next_xid = u64::div_ceil(next_xid, 32_768) * 32_768
                - u64::from(next_xid == (1 << 32) - 20_000) * 32_768;
            surgery::set_next_xid(&self.cluster.data_directory(), next_xid);
            self.cluster.start().expect("the server starts");
            if next_xid < 4_000_000_000 {
                self.freeze_all();
            }
            self.cluster.stop(StopMode::Fast).expect("stops");
        }
    }

    /// Freezes every row of every database.
    pub(crate) fn freeze_all(&mut self) {
        let mut names = Vec::new();
        {
            let mut session = self.session();
            session.run("alter database template0 allow_connections true");
            for row in session.run("select datname from pg_database") {
                names.extend(row.into_iter().flatten());
            }
        }
        for name in names {
            Session::open(self.cluster.port(), &name).run("vacuum (freeze)");
        }
        self.session()
            .run("alter database template0 allow_connections false");
    }

    /// The files that the workload began with.
    pub(crate) fn backup(&self) -> &Backup {
        self.backup.as_ref().expect("made before the start")
    }

    pub(crate) fn session(&self) -> Session {
        Session::open(self.cluster.port(), "postgres")
    }

    /// A client program of this machine, to connect to the server: those of newer versions come without. It begins in the
    /// cluster's folder.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(binaries().program(program));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.cluster.port().to_string())
            .env("PGUSER", SUPERUSER)
            .current_dir(self.cluster.folder());
        command
    }

    pub(crate) fn restart(&mut self, stop: StopMode) {
        self.cluster.stop(stop).expect("stops");
        self.cluster.start().expect("the server starts again");
    }

    /// The end of the workload: a clean stop, with all WAL in files.
    pub(crate) fn finish(&mut self) {
        self.cluster.stop(StopMode::Fast).expect("stops");
    }
}
