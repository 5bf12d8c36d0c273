//! Rounds of measurement, interleaved: baseline and subject take turns (A B A B …), so that a neighbour on the machine, a
//! warming disk or a changed clock meets both. What is reported is the median over the rounds, and the lowest and
//! highest beside it; a ratio is taken within a round, then the median of those.

use std::time::Duration;

use crate::clock;
use crate::counters::Used;
use crate::error::Result;
use crate::latency::Latencies;

/// What one round of one subject measured.
#[derive(Clone)]
pub(crate) struct Measured {
    /// Operations that were answered within the measured time.
    pub(crate) ops: u64,
    /// The measured time.
    pub(crate) elapsed: Duration,
    /// Of those operations.
    pub(crate) latencies: Latencies,
    /// Kernel counters over the measured time: of the server, or of this process where it is the subject.
    pub(crate) used: Used,
    /// Answers that were errors.
    pub(crate) errors: u64,
}

impl Measured {
    pub(crate) fn rate(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64()
    }

    fn per_op(&self, total: Option<f64>) -> Option<f64> {
        total
            .filter(|_| self.ops > 0)
            .map(|total| total / self.ops as f64)
    }

    pub(crate) fn cpu_us_per_op(&self) -> Option<f64> {
        self.per_op(self.used.cpu.map(|cpu| cpu.as_secs_f64() * 1e6))
    }

    pub(crate) fn device_reads_per_op(&self) -> Option<f64> {
        self.per_op(self.used.device_reads.map(|n| n as f64))
    }

    pub(crate) fn device_bytes_per_op(&self) -> Option<f64> {
        let bytes = self.used.process_read_bytes.or(self.used.device_read_bytes);
        self.per_op(bytes.map(|n| n as f64))
    }
}

/// Who is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Part of the report, such as "from disk".
    pub(crate) group: String,
    /// What does the work: "device", "wire", "pagestream", "engine".
    pub(crate) name: String,
    /// Connections x depth, or the depth.
    pub(crate) shape: String,
    /// Name of the subject of the same group and shape that its ratio is taken to.
    pub(crate) baseline: Option<String>,
}

/// All rounds of one subject, in the order they ran.
pub(crate) struct Series {
    pub(crate) subject: Subject,
    /// When each round started, since the first round of the run, and what it measured.
    pub(crate) rounds: Vec<(Duration, Measured)>,
}

impl Series {
    /// All latencies of all rounds.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut all = Latencies::new();
        self.rounds.iter().for_each(|(_, m)| all.add(&m.latencies));
        all
    }

    /// One figure of each round.
    pub(crate) fn each(&self, figure: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.rounds.iter().map(|(_, m)| figure(m)).collect()
    }

    /// A figure that may be unknown, of each round that knows it.
    pub(crate) fn each_known(&self, figure: impl Fn(&Measured) -> Option<f64>) -> Vec<f64> {
        self.rounds.iter().filter_map(|(_, m)| figure(m)).collect()
    }
}

/// A contestant: measures itself for one round.
pub(crate) type Contestant<'a> = (Subject, Box<dyn FnMut() -> Result<Measured> + 'a>);

/// Lets the contestants take turns for `rounds` rounds. `started_ns` is when the whole run began.
///
/// # Errors
/// The first error of any contestant ends the run.
pub(crate) fn interleave(
    mut contestants: Vec<Contestant<'_>>,
    rounds: u32,
    started_ns: u64,
) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = contestants
        .iter()
        .map(|(subject, _)| Series {
            subject: subject.clone(),
            rounds: Vec::new(),
        })
        .collect();
    for round in 1..=rounds {
        for ((subject, measure), series) in contestants.iter_mut().zip(&mut series) {
            let start = Duration::from_nanos(clock::now_ns().saturating_sub(started_ns));
            let measured = measure()?;
            tracing::info!(
                "{} {} {} round {round}/{rounds}: {:.0}/s",
                subject.group,
                subject.name,
                subject.shape,
                measured.rate()
            );
            series.rounds.push((start, measured));
        }
    }
    Ok(series)
}

/// Median, lowest and highest; `None` of nothing. The median of an even number is the mean of the middle two.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some(Spread { median, low, high })
}

/// Median, lowest and highest of the rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn contestants_take_turns() {
        let order = RefCell::new(String::new());
        let contestant = |name: &'static str| -> Contestant<'_> {
            let subject = Subject {
                group: "test".to_owned(),
                name: name.to_owned(),
                shape: "1".to_owned(),
                baseline: None,
            };
            let order = &order;
            let measure = move || {
                order.borrow_mut().push_str(name);
                Ok(Measured {
                    ops: 10,
                    elapsed: Duration::from_secs(2),
                    latencies: Latencies::new(),
                    used: Used {
                        cpu: Some(Duration::from_micros(50)),
                        ..Used::default()
                    },
                    errors: 0,
                })
            };
            (subject, Box::new(measure))
        };
        let series = interleave(vec![contestant("a"), contestant("b")], 3, 0).expect("no errors");
        assert_eq!(order.borrow().as_str(), "ababab");
        assert_eq!(series[1].rounds.len(), 3);
        assert_eq!(series[1].each(Measured::rate), [5.0; 3]);
        assert_eq!(series[1].each_known(Measured::cpu_us_per_op), [5.0; 3]);
        assert!(
            series[1]
                .each_known(Measured::device_reads_per_op)
                .is_empty()
        );
    }

    #[test]
    fn the_spread_names_the_middle_and_both_ends() {
        assert_eq!(spread(&[]), None);
        let of = |values: &[f64]| spread(values).map(|s| (s.low, s.median, s.high));
        assert_eq!(of(&[3.0, 1.0, 9.0]), Some((1.0, 3.0, 9.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some((1.0, 3.0, 9.0)));
    }
}
