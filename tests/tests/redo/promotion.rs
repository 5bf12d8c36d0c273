//! The standby becomes a server of its own, on a timeline of its own: what it writes from there on is replayed as well.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use engine::types::Lsn;
use harness::postgres::TestCluster;
use harness::sql::Session;
use postgres::verify::{Report, Verifier};
use postgres::wal::SegmentFiles;

use crate::cluster::Run;
use crate::state::State;
use harness::cluster_state::Comparison;
use harness::standby::{control_file, pages_of};

/// Promotes the standby of `run`, works with it, and replays its WAL from where the standby had stopped, which is where
/// `state` is. Its files then hold what no WAL tells, hints on rows for example, so of its pages only images are judged.
pub(crate) fn prove(run: &Run, state: &mut State) -> (Report, Comparison) {
    let data = run.backup().data();
    let stopped = control_file(&run.cluster.data_directory()).checkpoint_lsn;
    let pages = pages_of(data);
    promote(data, &run.cluster);
    let mut files = SegmentFiles::open(&data.join("pg_wal"), None).expect("WAL files");
    assert_eq!(files.stream().timeline, 2);
    let mut verifier = Verifier::new(files.version(), run.mode.has_checksums(), false);
    verifier.begin_with(pages);
    let control = control_file(data);
    files
        .for_each(|record| -> Result<(), Box<dyn std::error::Error>> {
            if record.start >= stopped {
                verifier.observe(record)?;
                if record.start < control.checkpoint_lsn {
                    state.observe(record);
                }
            }
            Ok(())
        })
        .expect("WAL of one version");
    assert_eq!(files.damage(), None);
    assert_ne!(control.checkpoint_lsn, Lsn::INVALID);
    (verifier.into_report(), state.compare_with_primary(data))
}

fn promote(data: &Path, primary: &TestCluster) {
    fs::remove_file(data.join("recovery.signal")).expect("it was a standby");
    fs::write(data.join("standby.signal"), "").expect("a file");
    let wal = primary.data_directory().join("pg_wal");
    let settings = format!(
        "restore_command = 'cp \"{}/%f\" \"%p\"'\nhot_standby = on\n",
        wal.display()
    );
    fs::write(data.join("postgresql.auto.conf"), settings).expect("a file");
    let log = data.parent().expect("a folder").join("promoted.log");
    let control = |arguments: &[&str]| {
        let mut command: Command = primary.command("pg_ctl");
        let status = command
            .args(arguments)
            .arg("--wait")
            .arg("--pgdata")
            .arg(data)
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("pg_ctl runs");
        let said = fs::read_to_string(&log).unwrap_or_default();
        assert!(status.success(), "pg_ctl {arguments:?}:\n{said}");
    };
    control(&["start"]);
    control(&["promote"]);
    let mut session = Session::open(primary.port(), "postgres");
    session.run_each(&[
        "commit prepared 'loaded'",
        "create table promoted as select i a, md5(i::text) b from generate_series(1, 1000) i",
        "create index on promoted (b)",
        "begin; insert into promoted values (1); prepare transaction 'of its own'",
        "update promoted set a = -a where a % 3 = 0",
        "vacuum promoted",
        "insert into mixed select i, md5(i::text), array[i % 7], point(i, i) from generate_series(1, 50) i",
        "drop table regrown",
        "checkpoint",
    ]);
    drop(session);
    control(&["stop", "--mode=fast"]);
}
