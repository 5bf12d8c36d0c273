//! `pageserver wal`: exit codes and what they mean, by WAL of a stock server, as it is and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use engine::types::Lsn;
use harness::postgres::TestCluster;
use harness::server::Site;
use harness::sql::Session;
use postgres::local_cluster::{ClusterOptions, StopMode};
use postgres::wal::{SegmentFiles, SegmentFilesError};
use serde_json::Value;

const SEGMENT_BYTES: u64 = 1 << 20;
const MARK: &[u8] = b"a mark in the WAL";

fn options() -> ClusterOptions {
    let settings = [
        "wal_consistency_checking = 'all'",
        "full_page_writes = off",
        "wal_keep_size = 1GB",
        "wal_recycle = off",
        "max_wal_size = 10GB",
    ];
    ClusterOptions {
        wal_segment_mib: Some(1),
        settings: settings.map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    }
}

/// Fills some segments, with the mark in the middle.
fn work(cluster: &TestCluster) {
    let mut session = Session::open(cluster.port(), "postgres");
    let mark = String::from_utf8_lossy(MARK);
    session.run_each(&[
        "create table filled (a int primary key, b text)",
        "insert into filled select i, 'text' from generate_series(1, 500) i",
        "create table marked (a text)",
        "insert into marked values ('the first')",
        &format!("insert into marked values ('{mark}')"),
        "insert into filled select i, 'text' from generate_series(501, 1000) i",
        "checkpoint",
    ]);
}

/// The WAL files of a stopped cluster, to be damaged.
struct Copy(PathBuf);

impl Copy {
    fn of(cluster: &TestCluster, site: &Site, name: &str) -> Copy {
        let copy = Copy(site.path(name));
        fs::create_dir(&copy.0).expect("a folder");
        for entry in fs::read_dir(cluster.data_directory().join("pg_wal")).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.file_name().expect("a name");
                fs::copy(&path, copy.0.join(name)).expect("copied");
            }
        }
        copy
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    fn file_of(&self, lsn: Lsn) -> PathBuf {
        self.0.join(format!(
            "{:024X}",
            (1 << 64 | u128::from(lsn.0 / SEGMENT_BYTES))
        ))
    }

    /// Start and length of the record that has the mark in its image and in its data, within one page.
    fn marked_record(&self) -> (Lsn, usize) {
        let mut found = None;
        let mut files = SegmentFiles::open(&self.0, None).expect("WAL");
        files
            .for_each(|record| -> Result<(), SegmentFilesError> {
                let has = |bytes: &[u8]| bytes.windows(MARK.len()).any(|part| part == MARK);
                let mut blocks = record.blocks();
                if blocks.any(|block| {
                    has(block.data) && block.image.is_some_and(|image| has(image.bytes()))
                }) {
                    found = Some((record.start, record.total_bytes()));
                }
                Ok(())
            })
            .expect("readable");
        let (start, bytes) = found.expect("the mark was inserted");
        assert!(start.0 % 8192 + bytes as u64 <= 8192, "it is on one page");
        (start, bytes)
    }

    /// Changes bytes of a file from a position on.
    fn change(&self, at: Lsn, bytes: usize, change: impl FnOnce(&mut [u8])) {
        let path = self.file_of(at);
        let mut content = fs::read(&path).expect("the segment");
        let from = usize::try_from(at.0 % SEGMENT_BYTES).expect("small");
        change(&mut content[from..from + bytes]);
        fs::write(&path, content).expect("written");
    }
}

fn position(of: &Value) -> Lsn {
    let text = of.as_str().expect("a position");
    text.parse().expect("a position")
}

/// Pages of a kind of record that were compared.
fn compared(report: &Value, manager: &str, kind: &str) -> u64 {
    let kinds = report["kinds"].as_array().expect("a list");
    let row = kinds
        .iter()
        .find(|row| row["manager"] == manager && row["kind"] == kind);
    row.and_then(|row| row["compared"].as_u64())
        .unwrap_or_else(|| panic!("no {manager} {kind} in {report}"))
}

#[test]
fn wal_files_are_verified_and_damage_is_told_from_their_end() {
    let mut cluster = TestCluster::start_new(options());
    work(&cluster);
    cluster.stop(StopMode::Fast).expect("stops");
    let site = Site::new(&[]);
    let pg_wal = cluster.data_directory().join("pg_wal");
    let pg_wal = pg_wal.to_str().expect("UTF-8");

    let report = site.json(&["wal", "verify", pg_wal, "--json"]);
    assert_eq!(report["is_damaged"], false, "{report}");
    assert_eq!(report["mismatches"].as_array().map(Vec::len), Some(0));
    assert_eq!(report["postgres_major"], 15);
    assert!(compared(&report, "Heap", "INSERT") > 900, "{report}");
    assert!(compared(&report, "Btree", "INSERT_LEAF") > 900, "{report}");
    let stats = site.json(&["wal", "stats", pg_wal, "--json"]);
    assert_eq!(
        (&stats["start"], &stats["end"]),
        (&report["start"], &report["end"])
    );
    let records = |of: &Value| of["volume"]["records"].as_u64().expect("a count");
    for list in ["managers", "kinds"] {
        let all: u64 = stats[list]
            .as_array()
            .expect("a list")
            .iter()
            .map(records)
            .sum();
        assert_eq!(Some(all), stats["total"]["records"].as_u64(), "{list}");
    }
    let text = site.succeed(&["wal", "stats", pg_wal, "--relations", "1"]);
    assert!(
        text.contains("INSERT_LEAF") && text.contains("WAL ends at"),
        "{text}"
    );
    let text = site.succeed(&["wal", "verify", pg_wal]);
    assert!(
        text.contains("INSERT_LEAF") && text.contains("WAL ends at"),
        "{text}"
    );

    // A flipped byte.
    let flipped = Copy::of(&cluster, &site, "flipped");
    let (marked, bytes) = flipped.marked_record();
    flipped.change(marked, bytes, |record| record[bytes - 5] ^= 1);
    for command in ["verify", "stats"] {
        let said = site.fail(7, &["wal", command, flipped.text()]);
        let wanted =
            format!("WAL record at {marked}, Heap: the checksum is wrong, and WAL goes on");
        assert!(said.contains(&wanted), "{said}");
    }
    let said = site.run(&["wal", "verify", flipped.text(), "--json"]);
    assert_eq!(said.status.code(), Some(7));
    let report: Value = serde_json::from_slice(&said.stdout).expect("JSON all the same");
    assert_eq!(report["is_damaged"], true, "{report}");

    // The same in a file that ends there: nobody can say that there was more.
    let cut = Copy::of(&cluster, &site, "cut");
    let cut_file = cut.file_of(marked);
    for entry in fs::read_dir(&cut.0).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path > cut_file {
            fs::remove_file(path).expect("removed");
        }
    }
    let length = marked.0 % SEGMENT_BYTES + bytes as u64 / 2;
    let file = fs::File::options()
        .write(true)
        .open(&cut_file)
        .expect("a file");
    file.set_len(length).expect("cut");
    let report = site.json(&["wal", "verify", cut.text(), "--json"]);
    assert_eq!(report["is_damaged"], false, "{report}");
    assert!(position(&report["end"]) <= marked, "{report}");

    // A file that is missing.
    let gap = Copy::of(&cluster, &site, "gap");
    fs::remove_file(gap.file_of(marked)).expect("removed");
    let name = gap.file_of(marked);
    let name = name
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    let said = site.fail(7, &["wal", "verify", gap.text()]);
    assert!(
        said.contains(&format!("there is no file {name}, and WAL goes on")),
        "{said}"
    );

    // An image that redo does not come to, with a right checksum.
    let other = Copy::of(&cluster, &site, "other");
    other.change(marked, bytes, other_image);
    let said = site.fail(7, &["wal", "verify", other.text()]);
    assert!(said.contains("1 pages came out otherwise"), "{said}");
    assert!(said.contains(&marked.to_string()), "{said}");
    site.succeed(&["wal", "stats", other.text()]);
}

/// Changes the mark in a record's image, which comes before the data.
fn other_image(record: &mut [u8]) {
    let mut places = record.windows(MARK.len()).enumerate();
    let at = places.find(|(_, part)| *part == MARK).expect("the mark").0;
    record[at] ^= 1;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_is_no_wal_is_refused() {
    let site = Site::new(&[]);
    let folder = site.path("folder");
    fs::create_dir(&folder).expect("a folder");
    let text = folder.to_str().expect("UTF-8");
    for command in ["verify", "stats"] {
        site.fail(4, &["wal", command, text]);
        site.fail(
            4,
            &[
                "wal",
                command,
                site.path("nowhere").to_str().expect("UTF-8"),
            ],
        );
        site.fail(2, &["wal", command, text, "--until", "0/1"]);
        site.fail(
            2,
            &[
                "wal",
                command,
                "host=127.0.0.1 port=1 user=a",
                "--timeline",
                "1",
            ],
        );
        site.fail(5, &["wal", command, "host=127.0.0.1 port=1 user=a"]);
    }
    let file = folder.join("000000010000000000000001");
    fs::write(&file, vec![7; 8192]).expect("written");
    let said = site.fail(8, &["wal", "verify", text]);
    assert!(said.contains("not a WAL segment"), "{said}");
}

#[test]
fn wal_of_a_running_server_is_verified() {
    let site = Site::new(&[]);
    for cluster in [
        TestCluster::start_new(options()),
        TestCluster::start_version(18, options()),
    ] {
        let server = cluster.connection_string();
        let mut session = Session::open(cluster.port(), "postgres");
        let from = session.value("select pg_current_wal_lsn()");
        work(&cluster);
        let report = site.json(&["wal", "verify", &server, "--from", &from, "--json"]);
        assert_eq!(report["is_damaged"], false, "{report}");
        assert_eq!(report["mismatches"].as_array().map(Vec::len), Some(0));
        assert!(compared(&report, "Heap", "INSERT") > 900, "{report}");
        assert!(compared(&report, "Btree", "INSERT_LEAF") > 900, "{report}");
        // It reads what the files say.
        let pg_wal = cluster.data_directory().join("pg_wal");
        let (start, end) = (position(&report["start"]), position(&report["end"]));
        let (of_files, files_end) = records_between(&pg_wal, start, end);
        let read: u64 = report["kinds"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| row["records"].as_u64().expect("a count"))
            .sum();
        assert_eq!((read, end), (of_files, files_end));

        // Where it ends may be yet to come.
        let until = Lsn(end.0 + SEGMENT_BYTES);
        let text = until.to_string();
        let mut reader = site.command(&["wal", "stats", &server, "--until", &text, "--json"]);
        let reader = reader
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let is_read = (0..600).any(|_| {
            session.run("select pg_sleep(0.1)");
            session.value("select count(*) from pg_stat_replication where state = 'streaming'")
                == "1"
        });
        assert!(is_read, "nobody reads");
        session.run("select pg_logical_emit_message(false, 'long', repeat('x', 3000000))");
        session.run("checkpoint");
        let output = reader.wait_with_output().expect("it ends");
        assert!(output.status.success());
        let stats: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(position(&stats["end"]) <= until, "{stats}");

        // No such WAL is there any more.
        let said = site.fail(8, &["wal", "verify", &server, "--from", "0/1"]);
        assert!(said.contains("server: "), "{said}");
    }
}

/// How many records of the files begin at or behind `start` and end at or before `end`, and where the last one does.
fn records_between(pg_wal: &Path, start: Lsn, end: Lsn) -> (u64, Lsn) {
    let (mut count, mut last) = (0, Lsn::INVALID);
    let mut files = SegmentFiles::open(pg_wal, None).expect("WAL");
    files
        .for_each(|record| -> Result<(), SegmentFilesError> {
            if record.start >= start && record.end <= end {
                count += 1;
                last = record.end;
            }
            Ok(())
        })
        .expect("readable");
    (count, last)
}
