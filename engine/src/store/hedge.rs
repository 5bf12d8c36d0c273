//! When a second, identical read is sent: once the first has waited as long as the slowest twentieth of recent
//! reads did, and only within a budget of extra requests. Reads only: a doubled write would race with itself.
//!
//! "Recent" is two windows of first-byte latencies: the one being filled and the one before. A window ends after
//! [`WINDOW_SAMPLES`] or [`WINDOW_AGE`], whichever is first, so that yesterday's store does not set today's delay.
//! A read that lost to its hedge counts with the time it had waited by then: without it the slow ones would vanish
//! from the window, the p95 would sink, and every read would be hedged.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::io::clock::Moment;

/// Decides about hedges of one store thread.
#[derive(Debug)]
pub(super) struct HedgePolicy {
    percent_max: u32,
    delay_min: Duration,
    current: Histogram<u64>,
    previous: Histogram<u64>,
    window_began: Moment,
    /// The delay of now; `None` until there are enough samples.
    delay: Option<Duration>,
    /// Hundredths of a hedge that may be sent.
    credit: u32,
}

impl HedgePolicy {
    /// A policy without samples and without credit.
    pub(super) fn new(percent_max: u32, delay_min: Duration) -> HedgePolicy {
        let histogram =
            || Histogram::new_with_max(SAMPLE_US_MAX, 2).expect("two digits up to 5 min are valid");
        HedgePolicy {
            percent_max,
            delay_min,
            current: histogram(),
            previous: histogram(),
            window_began: Moment::default(),
            delay: None,
            credit: 0,
        }
    }

    /// A read starts: earns its share of a hedge. After how long it may be doubled; `None` if not at all.
    pub(super) fn on_request(&mut self) -> Option<Duration> {
        self.credit = (self.credit + self.percent_max).min(CREDIT_PER_HEDGE * HEDGES_SAVED_MAX);
        self.delay.filter(|_| self.percent_max > 0)
    }

    /// Takes a hedge from the budget if there is one.
    pub(super) fn take(&mut self) -> bool {
        let left = self.credit.checked_sub(CREDIT_PER_HEDGE);
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }

    /// A read got its first byte, or was given up, after `latency`.
    pub(super) fn record(&mut self, now: Moment, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.current.saturating_record(micros);
        let samples = self.current.len();
        if samples >= WINDOW_SAMPLES || now.since(self.window_began) >= WINDOW_AGE {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.reset();
            self.window_began = now;
            self.refresh();
        } else if samples.is_multiple_of(REFRESH_SAMPLES) {
            self.refresh();
        }
    }

    /// The delay from both windows. Costs microseconds: done every [`REFRESH_SAMPLES`] reads.
    fn refresh(&mut self) {
        let samples = self.current.len() + self.previous.len();
        if samples < SAMPLES_MIN {
            self.delay = None;
            return;
        }
        let mut both = self.previous.clone();
        both.add(&self.current)
            .expect("both windows have the same range");
        let p95 = Duration::from_micros(both.value_at_quantile(HEDGE_QUANTILE));
        self.delay = Some(p95.max(self.delay_min));
    }
}

const HEDGE_QUANTILE: f64 = 0.95;
/// Samples a window ends after.
const WINDOW_SAMPLES: u64 = 1_000;
/// Age a window ends at.
const WINDOW_AGE: Duration = Duration::from_secs(60);
/// Fewer samples than this say nothing about a twentieth.
const SAMPLES_MIN: u64 = 60;
const REFRESH_SAMPLES: u64 = 20;
const SAMPLE_US_MAX: u64 = 300_000_000;
const CREDIT_PER_HEDGE: u32 = 100;
/// Hedges that quiet times may save up.
const HEDGES_SAVED_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Latencies 1, 2, … 100 ms, over and over.
    fn warmed() -> HedgePolicy {
        let mut policy = HedgePolicy::new(5, ms(1));
        for n in 0..400 {
            policy.record(Moment::default(), ms(n % 100 + 1));
        }
        policy
    }

    #[test]
    fn the_delay_is_the_p95_of_recent_reads() {
        let delay = warmed().on_request().expect("enough samples");
        assert!((ms(94)..=ms(97)).contains(&delay), "{delay:?}");
    }

    #[test]
    fn there_is_no_delay_before_enough_samples() {
        let mut policy = HedgePolicy::new(5, ms(1));
        for _ in 0..SAMPLES_MIN - 1 {
            assert_eq!(policy.on_request(), None);
            policy.record(Moment::default(), ms(30));
        }
    }

    #[test]
    fn hedges_never_exceed_five_percent_of_ten_thousand_reads() {
        let mut policy = warmed();
        let mut hedges = 0;
        for request in 1..=10_000_u32 {
            assert!(policy.on_request().is_some());
            // Every read is slow: as many hedges are wanted as there are reads.
            hedges += u32::from(policy.take());
            assert!(hedges * 20 <= request, "{hedges} hedges in {request} reads");
        }
        assert_eq!(hedges, 500);
    }

    #[test]
    fn a_quiet_time_saves_up_ten_hedges_at_most() {
        let mut policy = warmed();
        for _ in 0..100_000 {
            policy.on_request();
        }
        assert_eq!((0..100).filter(|_| policy.take()).count(), 10);
    }

    #[test]
    fn old_latencies_are_forgotten_by_count_and_by_age() {
        let mut by_count = warmed();
        for _ in 0..2 * WINDOW_SAMPLES {
            by_count.record(Moment::default(), ms(5));
        }
        assert!(by_count.on_request().expect("samples") <= ms(6));

        let mut by_age = warmed();
        let mut now = Moment::default();
        for _ in 0..3 {
            now = now.after(WINDOW_AGE);
            (0..SAMPLES_MIN).for_each(|_| by_age.record(now, ms(5)));
        }
        assert!(by_age.on_request().expect("samples") <= ms(6));
    }

    #[test]
    fn zero_percent_switches_hedging_off() {
        let mut policy = HedgePolicy::new(0, ms(1));
        (0..400).for_each(|_| policy.record(Moment::default(), ms(30)));
        assert_eq!(policy.on_request(), None);
        assert!(!policy.take());
    }
}
