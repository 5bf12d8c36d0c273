//! Latencies of one round: an HDR histogram of nanoseconds, three significant digits, up to ten minutes. What is longer
//! counts as ten minutes and is not dropped: a lost tail would be a lie.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::{Deserialize, Serialize};

const LONGEST_NS: u64 = 600_000_000_000;

/// The percentiles every table shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) p9999_us: f64,
    pub(crate) max_us: f64,
}

/// A histogram of latencies.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid constants");
        Self(histogram)
    }

    /// Counts one operation that took `ns`.
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Counts `count` operations that took `ns` each.
    pub(crate) fn record_many(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns.max(1), count);
    }

    /// Adds everything `other` counted.
    pub(crate) fn add(&mut self, other: &Latencies) {
        self.0
            .add(&other.0)
            .expect("all histograms have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |q: f64| us(self.0.value_at_quantile(q));
        Percentiles {
            count: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: us(self.0.max()),
        }
    }

    /// Points of the percentile curve: ("one in n is slower", microseconds), with n growing by a quarter each,
    /// as far as the number of samples carries.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        let mut points = Vec::new();
        let mut one_in = 1.0_f64;
        while one_in <= self.0.len() as f64 {
            let quantile = 1.0 - 1.0 / one_in;
            points.push((one_in, us(self.0.value_at_quantile(quantile))));
            one_in *= 1.25;
        }
        points
    }
}

/// Writes histograms in the HDR "V2" log format, one line each, tagged with its name. `start` is when each began,
/// counted from the first, and `length` how long it was measured.
pub(crate) fn write_log<W: io::Write>(
    out: &mut W,
    comment: &str,
    rounds: &[(String, Duration, Duration, &Latencies)],
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(comment)
        .with_max_value_divisor(1e6)
        .begin_log_with(out, &mut serializer)?;
    for (name, start, length, latencies) in rounds {
        // A tag ends at a comma or a blank.
        let tag: String = name
            .chars()
            .map(|c| {
                if c == ',' || c.is_whitespace() {
                    '_'
                } else {
                    c
                }
            })
            .collect();
        log.write_histogram(&latencies.0, *start, *length, Tag::new(&tag))
            .map_err(|e| io::Error::other(format!("histogram log: {e:?}")))?;
    }
    Ok(())
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn percentiles_are_those_of_a_sorted_list_within_the_histograms_precision() {
        let mut latencies = Latencies::new();
        // A known skewed list: i^2 ns for i in 1..=10,000, so the value at quantile q is (10,000 q)^2.
        (1..=10_000u64).for_each(|i| latencies.record(i * i));
        let got = latencies.percentiles();
        for (q, us) in [
            (0.5, got.p50_us),
            (0.9, got.p90_us),
            (0.99, got.p99_us),
            (0.999, got.p999_us),
            (0.9999, got.p9999_us),
        ] {
            let want = (10_000.0_f64 * q).powi(2) / 1e3;
            assert!((us / want - 1.0).abs() < 0.002, "p{q}: {us} != {want}");
        }
        let mean = (1..=10_000u64).map(|i| i * i).sum::<u64>() as f64 / 1e7;
        assert!((got.mean_us / mean - 1.0).abs() < 0.002);
        assert_eq!(got.count, 10_000);
    }

    #[test]
    fn what_is_longer_than_the_histogram_reaches_is_kept_at_its_end() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX);
        latencies.record(0);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.percentiles().max_us >= 0.99 * LONGEST_NS as f64 / 1e3);
    }

    #[test]
    fn a_written_log_reads_back_with_names_and_counts() {
        let mut fast = Latencies::new();
        (0..100).for_each(|_| fast.record(50_000));
        let mut slow = Latencies::new();
        (0..7).for_each(|_| slow.record(90_000_000));
        let second = Duration::from_secs(1);
        let mut bytes = Vec::new();
        write_log(
            &mut bytes,
            "made by a test",
            &[
                ("device, depth 1".to_owned(), Duration::ZERO, second, &fast),
                ("slow".to_owned(), second, second, &slow),
            ],
        )
        .expect("a Vec takes everything");

        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(&bytes) {
            if let LogEntry::Interval(line) = entry.expect("the log parses") {
                let raw = base64_decode(line.encoded_histogram());
                let histogram: Histogram<u64> = Deserializer::new()
                    .deserialize(&mut raw.as_slice())
                    .expect("the histogram decodes");
                let tag = line.tag().expect("tagged").as_str().to_owned();
                found.push((tag, histogram.len(), histogram.max() / 1_000_000));
            }
        }
        assert_eq!(
            found,
            [
                ("device__depth_1".to_owned(), 100, 0),
                ("slow".to_owned(), 7, 90)
            ]
        );
    }

    fn base64_decode(text: &str) -> Vec<u8> {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => u32::from(c - b'A'),
            b'a'..=b'z' => u32::from(c - b'a') + 26,
            b'0'..=b'9' => u32::from(c - b'0') + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("not base64: {other}"),
        };
        let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(digit).collect();
        let mut bytes = Vec::new();
        for group in digits.chunks(4) {
            let value = group.iter().fold(0, |v, d| v << 6 | d) << (6 * (4 - group.len()));
            bytes.extend_from_slice(&value.to_be_bytes()[1..group.len()]);
        }
        bytes
    }
}
