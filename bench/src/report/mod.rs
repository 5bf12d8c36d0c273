//! The result of a run: one row per subject, what was to be reached and what was, and where it was measured. The same
//! numbers go to the terminal, to a JSON file that [`compare`] reads, to an HTML page and, raw, to an HDR log.

pub(crate) mod compare;
pub(crate) mod header;
mod html;
mod table;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};
use crate::latency::{Percentiles, write_log};
use crate::rounds::{Measured, Series, Spread, spread};
use header::Header;

/// Version of the JSON file. A reader refuses others.
const VERSION: u32 = 1;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: u32,
    pub(crate) header: Header,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
    /// What a reader must know beside the numbers.
    pub(crate) notes: Vec<String>,
}

/// One subject.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) subject: String,
    pub(crate) shape: String,
    pub(crate) rounds: usize,
    /// Operations per second.
    pub(crate) rate: Spread,
    /// Of all rounds together.
    pub(crate) latency: Percentiles,
    /// User and system time.
    pub(crate) cpu_us_per_op: Option<Spread>,
    pub(crate) device_reads_per_op: Option<Spread>,
    pub(crate) device_bytes_per_op: Option<Spread>,
    pub(crate) errors: u64,
    pub(crate) baseline: Option<String>,
    /// Rate over the baseline's rate, round by round.
    pub(crate) rate_ratio: Option<Spread>,
    /// p99 over the baseline's p99, round by round.
    pub(crate) p99_ratio: Option<Spread>,
    /// ("one in n is slower", microseconds).
    pub(crate) curve: Vec<(f64, f64)>,
}

/// A figure that the project wants to reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) bound: Bound,
    /// `None` if the run did not measure it.
    pub(crate) measured: Option<f64>,
}

/// Which side of a number is good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// How a goal came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Short,
    NotMeasured,
}

impl Goal {
    pub(crate) fn verdict(&self) -> Verdict {
        match (self.bound, self.measured) {
            (_, None) => Verdict::NotMeasured,
            (Bound::AtLeast(bound), Some(got)) if got >= bound => Verdict::Pass,
            (Bound::AtMost(bound), Some(got)) if got <= bound => Verdict::Pass,
            // Also where `got` is not a number.
            (_, Some(_)) => Verdict::Short,
        }
    }
}

impl Report {
    /// A report of `series`; goals and notes are the caller's to add.
    pub(crate) fn new(header: Header, series: &[Series]) -> Self {
        let rows = series.iter().map(|one| row(one, series)).collect();
        Self {
            version: VERSION,
            header,
            rows,
            goals: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The row of a subject, if it ran.
    pub(crate) fn row(&self, group: &str, subject: &str, shape: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.group == group && row.subject == subject && row.shape == shape)
    }

    /// The table of a terminal.
    pub(crate) fn text(&self) -> String {
        table::text(self)
    }

    /// Writes `report.json`, `report.html`, `report.txt` and `latencies.hlog` into `directory`, which is made.
    pub(crate) fn write(&self, directory: &Path, series: &[Series]) -> Result<()> {
        fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            fs::write(&path, bytes).doing(|| format!("write {}", path.display()))
        };
        let json = serde_json::to_vec_pretty(self)
            .map_err(std::io::Error::from)
            .doing(|| "encode the report")?;
        put("report.json", &json)?;
        put("report.html", html::page(self).as_bytes())?;
        put("report.txt", self.text().as_bytes())?;
        let mut log = Vec::new();
        let rounds: Vec<_> = series
            .iter()
            .flat_map(|one| {
                one.rounds
                    .iter()
                    .enumerate()
                    .map(move |(i, (start, measured))| {
                        let s = &one.subject;
                        let name = format!("{}/{}/{}/round{}", s.group, s.name, s.shape, i + 1);
                        (name, *start, measured.elapsed, &measured.latencies)
                    })
            })
            .collect();
        let comment = format!("{} | commit {}", self.header.command, self.header.commit);
        write_log(&mut log, &comment, &rounds).doing(|| "encode histograms")?;
        put("latencies.hlog", &log)
    }

    /// Reads a report that [`Report::write`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let doing = || format!("read {}", path.display());
        let bytes = fs::read(path).doing(doing)?;
        let report: Report = serde_json::from_slice(&bytes)
            .map_err(std::io::Error::from)
            .doing(doing)?;
        if report.version == VERSION {
            Ok(report)
        } else {
            let text = format!("report of version {}, this reads {VERSION}", report.version);
            Err(std::io::Error::other(text)).doing(doing)
        }
    }
}

fn row(one: &Series, all: &[Series]) -> Row {
    let subject = &one.subject;
    let latencies = one.latencies();
    let baseline = subject.baseline.as_ref().and_then(|name| {
        all.iter().find(|other| {
            let other = &other.subject;
            other.name == *name && other.group == subject.group && other.shape == subject.shape
        })
    });
    let ratio = |figure: fn(&Measured) -> f64| {
        let baseline = baseline?;
        let ratios: Vec<f64> = one
            .each(figure)
            .into_iter()
            .zip(baseline.each(figure))
            .filter(|(_, b)| *b > 0.0)
            .map(|(a, b)| a / b)
            .collect();
        spread(&ratios)
    };
    Row {
        group: subject.group.clone(),
        subject: subject.name.clone(),
        shape: subject.shape.clone(),
        rounds: one.rounds.len(),
        rate: spread(&one.each(Measured::rate)).unwrap_or_default(),
        latency: latencies.percentiles(),
        cpu_us_per_op: spread(&one.each_known(Measured::cpu_us_per_op)),
        device_reads_per_op: spread(&one.each_known(Measured::device_reads_per_op)),
        device_bytes_per_op: spread(&one.each_known(Measured::device_bytes_per_op)),
        errors: one.rounds.iter().map(|(_, m)| m.errors).sum(),
        baseline: baseline.map(|b| b.subject.name.clone()),
        rate_ratio: ratio(Measured::rate),
        p99_ratio: ratio(|m| m.latencies.percentiles().p99_us),
        curve: latencies.curve(),
    }
}

#[cfg(test)]
mod tests;
