use std::time::Duration;

use super::*;
use crate::counters::Used;
use crate::latency::Latencies;
use crate::rounds::Subject;

fn measured(ops: u64, ns: u64) -> Measured {
    let mut latencies = Latencies::new();
    (0..ops).for_each(|i| latencies.record(ns + i % 10 * ns / 10));
    Measured {
        ops,
        elapsed: Duration::from_secs(1),
        latencies,
        used: Used {
            cpu: Some(Duration::from_micros(ops * 25)),
            process_read_bytes: Some(ops * 8704),
            device_reads: Some(ops),
            device_read_bytes: None,
        },
        errors: 0,
    }
}

fn series(name: &str, baseline: Option<&str>, rounds: Vec<Measured>) -> Series {
    Series {
        subject: Subject {
            group: "from <disk>".to_owned(),
            name: name.to_owned(),
            shape: "8 x 16".to_owned(),
            baseline: baseline.map(str::to_owned),
        },
        rounds: rounds.into_iter().map(|m| (Duration::ZERO, m)).collect(),
    }
}

fn header() -> Header {
    Header {
        date: "2026-01-02 03:04".to_owned(),
        command: "bench all".to_owned(),
        commit: "0123456789ab".to_owned(),
        cpu: "A CPU".to_owned(),
        cpus: 2,
        memory_gib: 24,
        kernel: "Linux 6.18".to_owned(),
    }
}

fn example() -> (Report, Vec<Series>) {
    let all = vec![
        series(
            "device",
            None,
            vec![measured(1000, 100_000), measured(2000, 100_000)],
        ),
        series(
            "pagestream",
            Some("device"),
            vec![measured(900, 200_000), measured(1500, 150_000)],
        ),
    ];
    let mut report = Report::new(header(), &all);
    let goal = |what: &str, bound, measured| Goal {
        what: what.to_owned(),
        bound,
        measured,
    };
    report.goals = vec![
        goal(
            "8 x 16, share of the device",
            Bound::AtLeast(0.8),
            Some(0.825),
        ),
        goal(
            "8 x 16, server CPU per page, us",
            Bound::AtMost(20.0),
            Some(25.0),
        ),
        goal("restart", Bound::AtMost(200.0), None),
    ];
    (report, all)
}

#[test]
fn ratios_are_taken_round_by_round() {
    let (report, _) = example();
    let row = report
        .row("from <disk>", "pagestream", "8 x 16")
        .expect("it ran");
    // 900 of 1,000 and 1,500 of 2,000, not 2,400 of 3,000.
    assert_eq!(
        row.rate_ratio,
        Some(Spread {
            median: 0.825,
            low: 0.75,
            high: 0.9
        })
    );
    assert_eq!(
        row.rate,
        Spread {
            median: 1200.0,
            low: 900.0,
            high: 1500.0
        }
    );
    let p99 = row.p99_ratio.expect("both have latencies");
    assert!(
        (p99.low - 1.5).abs() < 0.01 && (p99.high - 2.0).abs() < 0.01,
        "{p99:?}"
    );
    assert_eq!(report.rows[0].rate_ratio, None);
}

#[test]
fn the_table_is_the_stored_one() {
    let (report, _) = example();
    assert_eq!(report.text(), include_str!("golden.txt"));
}

#[test]
fn a_written_report_reads_back_and_its_page_stands_alone() {
    let (report, all) = example();
    let directory = tempfile::tempdir().expect("a temporary directory");
    report.write(directory.path(), &all).expect("written");
    let back = Report::read(&directory.path().join("report.json")).expect("read");
    // The last digit of a float may be lost in the text.
    assert_eq!(
        (back.text(), back.goals),
        (report.text(), report.goals.clone())
    );
    assert_eq!(back.rows[1].curve.len(), report.rows[1].curve.len());
    let page = fs::read_to_string(directory.path().join("report.html")).expect("read");
    assert_eq!(page.matches("<polyline").count(), 2);
    assert_eq!(page.matches("<rect").count(), 2);
    assert!(page.contains("from &lt;disk&gt;") && !page.contains("<disk>"));
    assert!(!page.contains("http"), "nothing is fetched from anywhere");
    let log = fs::read_to_string(directory.path().join("latencies.hlog")).expect("read");
    assert_eq!(log.lines().filter(|l| l.starts_with("Tag=")).count(), 4);
}

#[test]
fn a_report_of_another_version_is_refused() {
    let (mut report, all) = example();
    report.version = 2;
    let directory = tempfile::tempdir().expect("a temporary directory");
    report.write(directory.path(), &all).expect("written");
    let error = Report::read(&directory.path().join("report.json")).expect_err("refused");
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn a_comparison_calls_overlapping_rounds_noise_and_the_rest_by_name() {
    let (old, _) = example();
    let mut new = old.clone();
    new.header.commit = "ba9876543210".to_owned();
    new.rows[0].rate = Spread {
        median: 1600.0,
        low: 1100.0,
        high: 2100.0,
    };
    new.rows[1].rate = Spread {
        median: 2400.0,
        low: 2000.0,
        high: 2500.0,
    };
    new.goals[1].measured = Some(19.0);
    let text = compare::text(&old, &new);
    let line = |what: &str| {
        text.lines()
            .find(|l| l.contains(what))
            .expect("it is there")
    };
    assert!(line("/ device /").contains("+6.7%  noise"), "{text}");
    assert!(line("/ pagestream /").contains("+100.0%  faster"), "{text}");
    assert_eq!(
        line("server CPU"),
        "8 x 16, server CPU per page, us: SHORT -> PASS"
    );
    assert!(!text.contains("machines differ"));
    new.header.cpus = 96;
    assert!(compare::text(&old, &new).contains("machines differ"));
}
