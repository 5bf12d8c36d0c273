//! The table of a terminal: one line per subject, groups apart.

use std::fmt::Write;

use super::{Bound, Goal, Report, Row, Verdict};
use crate::rounds::Spread;

const COLUMNS: [&str; 16] = [
    "subject",
    "shape",
    "rate/s",
    "low..high",
    "mean",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "p99.99",
    "cpu us",
    "reads",
    "KiB",
    "x base",
    "x p99",
    "errors",
];

/// The whole report as text; times in microseconds.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let h = &report.header;
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!(
        "{} | commit {} | {} UTC",
        h.command, h.commit, h.date
    ));
    line(format!(
        "{} x {} | {} GiB | {}",
        h.cpus, h.cpu, h.memory_gib, h.kernel
    ));
    for group in groups(report) {
        line(String::new());
        line(format!(
            "{group} (latencies in us; cpu, device reads and KiB per operation)"
        ));
        let mut cells = vec![COLUMNS.map(str::to_owned)];
        cells.extend(
            report
                .rows
                .iter()
                .filter(|row| row.group == group)
                .map(row_cells),
        );
        let mut widths = [0; COLUMNS.len()];
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        for row in &cells {
            let mut text = String::new();
            for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
                let aligned = if i < 2 {
                    format!("{cell:<width$}  ")
                } else {
                    format!("{cell:>width$}  ")
                };
                text.push_str(&aligned);
            }
            line(text);
        }
    }
    if !report.goals.is_empty() {
        line(String::new());
        line("goals".to_owned());
        let width = report
            .goals
            .iter()
            .map(|g| g.what.chars().count())
            .max()
            .unwrap_or(0);
        for goal in &report.goals {
            line(format!("{:<width$}  {}", goal.what, outcome(goal)));
        }
    }
    for note in &report.notes {
        line(format!("note: {note}"));
    }
    out
}

/// Groups in the order in which they first appear.
pub(super) fn groups(report: &Report) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !groups.contains(&row.group.as_str()) {
            groups.push(&row.group);
        }
    }
    groups
}

/// "at least 0.90, measured 0.93: PASS".
pub(super) fn outcome(goal: &Goal) -> String {
    let bound = match goal.bound {
        Bound::AtLeast(bound) => format!("at least {}", number(bound)),
        Bound::AtMost(bound) => format!("at most {}", number(bound)),
    };
    let measured = goal.measured.map_or_else(|| "-".to_owned(), number);
    format!("{bound}, measured {measured}: {}", verdict(goal))
}

pub(super) fn verdict(goal: &Goal) -> &'static str {
    match goal.verdict() {
        Verdict::Pass => "PASS",
        Verdict::Short => "SHORT",
        Verdict::NotMeasured => "NOT MEASURED",
    }
}

/// The cells of a row, in the order of the columns.
pub(super) fn row_cells(row: &Row) -> [String; COLUMNS.len()] {
    let l = &row.latency;
    let optional = |value: Option<Spread>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |v| format!("{:.digits$}", v.median))
    };
    let mut shown = String::new();
    if row.rounds > 1 {
        write!(shown, "{:.0}..{:.0}", row.rate.low, row.rate.high).expect("a String takes all");
    }
    let kib = row.device_bytes_per_op.map(|s| Spread {
        median: s.median / 1024.0,
        ..s
    });
    [
        row.subject.clone(),
        row.shape.clone(),
        format!("{:.0}", row.rate.median),
        shown,
        micros(l.mean_us),
        micros(l.p50_us),
        micros(l.p90_us),
        micros(l.p99_us),
        micros(l.p999_us),
        micros(l.p9999_us),
        optional(row.cpu_us_per_op, 2),
        optional(row.device_reads_per_op, 3),
        optional(kib, 2),
        optional(row.rate_ratio, 3),
        optional(row.p99_ratio, 2),
        row.errors.to_string(),
    ]
}

pub(super) fn columns() -> [&'static str; COLUMNS.len()] {
    COLUMNS
}

fn micros(us: f64) -> String {
    if us < 100.0 {
        format!("{us:.1}")
    } else {
        format!("{us:.0}")
    }
}

/// A goal's number: whole if it is large, else with digits that show a difference.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}
