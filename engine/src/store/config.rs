//! Limits of the store threads: deadlines, retries, hedges, places and queues.

use std::time::Duration;

/// How the store is asked. Applies to each store thread by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    /// Longest wait for the first byte of a read, per attempt. Range 1 ms..=5 min. Default 3 s.
    pub first_byte_deadline: Duration,
    /// Longest wait for the rest of a body, per attempt, beyond what `slowest_bytes_per_second` allows it. Time in
    /// which the reader does not ask is not counted. Range 1 ms..=10 min. Default 10 s.
    pub body_deadline: Duration,
    /// Longest wait for one attempt of a write, a listing or a deletion, beyond what `slowest_bytes_per_second`
    /// allows it. Range 1 ms..=10 min. Default 15 s.
    pub write_deadline: Duration,
    /// No retry starts later than this after the first attempt did. Range 1 ms..=1 h. Default 30 s.
    pub operation_deadline: Duration,
    /// A body that comes slower than this is late. Range 1 KiB/s..=10 GiB/s. Default 1 MiB/s.
    pub slowest_bytes_per_second: u64,
    /// Attempts of one operation, the first included. Range 1..=20. Default 5.
    pub attempts_max: u32,
    /// First backoff before jitter; doubles per retry. Range 0..=10 s. Default 25 ms.
    pub backoff_first: Duration,
    /// Longest backoff before jitter. Range 0..=60 s. Default 2 s.
    pub backoff_max: Duration,
    /// Retries that may be taken at once; each success gives back a tenth of one, so a store that is down sees
    /// at most a tenth more requests once this is used up. Range 0..=10,000. Default 100.
    pub retry_budget_max: u32,
    /// Hedges per hundred reads. Range 0..=5; 0 switches hedging off. Default 5.
    pub hedge_percent_max: u32,
    /// No hedge is sent earlier than this. Range 0..=60 s. Default 2 ms.
    pub hedge_delay_min: Duration,
    /// Fetches and small reads served at once, demand and read-ahead together. Range 1..=1,024. Default 64.
    pub reads_in_flight_max: usize,
    /// How many of those may be read-ahead. Range 1..=`reads_in_flight_max`. Default 8.
    pub ahead_in_flight_max: usize,
    /// Writes, listings and deletions served at once. Range 1..=256. Default 8.
    pub background_in_flight_max: usize,
    /// Demand that waits for a place. Range 1..=65,536. Default 1,024.
    pub demand_queue_max: usize,
    /// Read-ahead that waits for a place. Range 1..=65,536. Default 64.
    pub ahead_queue_max: usize,
    /// Writes, listings and deletions that wait for a place. Range 1..=65,536. Default 64.
    pub background_queue_max: usize,
    /// Memory for extents on their way to the cache. Range 1 MiB..=64 GiB. Default 64 MiB.
    pub fill_buffer_bytes_max: usize,
    /// Cache writes under way per fetch. Range 1..=64. Default 4.
    pub fill_writes_in_flight_max: usize,
    /// How long a fetch waits for room in its event channel before it goes on without the receiver. Range
    /// 1 ms..=60 s. Default 2 s.
    pub event_wait_max: Duration,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            first_byte_deadline: Duration::from_secs(3),
            body_deadline: Duration::from_secs(10),
            write_deadline: Duration::from_secs(15),
            operation_deadline: Duration::from_secs(30),
            slowest_bytes_per_second: MIB,
            attempts_max: 5,
            backoff_first: Duration::from_millis(25),
            backoff_max: Duration::from_secs(2),
            retry_budget_max: 100,
            hedge_percent_max: HEDGE_PERCENT_LIMIT,
            hedge_delay_min: Duration::from_millis(2),
            reads_in_flight_max: 64,
            ahead_in_flight_max: 8,
            background_in_flight_max: 8,
            demand_queue_max: 1024,
            ahead_queue_max: 64,
            background_queue_max: 64,
            fill_buffer_bytes_max: 64 << 20,
            fill_writes_in_flight_max: 4,
            event_wait_max: Duration::from_secs(2),
        }
    }
}

impl StoreConfig {
    /// Every limit as small as it works, so that tests reach the corners.
    pub fn tiny() -> StoreConfig {
        StoreConfig {
            first_byte_deadline: Duration::from_millis(100),
            body_deadline: Duration::from_millis(200),
            write_deadline: Duration::from_millis(200),
            operation_deadline: Duration::from_secs(2),
            attempts_max: 3,
            backoff_first: Duration::from_millis(1),
            backoff_max: Duration::from_millis(4),
            retry_budget_max: 20,
            reads_in_flight_max: 2,
            ahead_in_flight_max: 1,
            background_in_flight_max: 1,
            demand_queue_max: 2,
            ahead_queue_max: 1,
            background_queue_max: 1,
            fill_buffer_bytes_max: 1 << 20,
            fill_writes_in_flight_max: 1,
            event_wait_max: Duration::from_millis(50),
            ..StoreConfig::default()
        }
    }

    /// All problems at once: field, value, range. Empty if there are none.
    pub fn problems(&self) -> Vec<String> {
        let ms = Duration::from_millis;
        let secs = Duration::from_secs;
        let mut problems = Vec::new();
        let mut durations = |name: &str, value: Duration, min: Duration, max: Duration| {
            if value < min || value > max {
                problems.push(format!(
                    "store.{name}: {value:?} is not in {min:?}..={max:?}"
                ));
            }
        };
        durations(
            "first_byte_deadline",
            self.first_byte_deadline,
            ms(1),
            secs(300),
        );
        durations("body_deadline", self.body_deadline, ms(1), secs(600));
        durations("write_deadline", self.write_deadline, ms(1), secs(600));
        durations(
            "operation_deadline",
            self.operation_deadline,
            ms(1),
            secs(3600),
        );
        durations("backoff_first", self.backoff_first, ms(0), secs(10));
        durations("backoff_max", self.backoff_max, ms(0), secs(60));
        durations("hedge_delay_min", self.hedge_delay_min, ms(0), secs(60));
        durations("event_wait_max", self.event_wait_max, ms(1), secs(60));
        let mut numbers = |name: &str, value: u64, min: u64, max: u64| {
            if value < min || value > max {
                problems.push(format!("store.{name}: {value} is not in {min}..={max}"));
            }
        };
        numbers(
            "slowest_bytes_per_second",
            self.slowest_bytes_per_second,
            1024,
            10 << 30,
        );
        numbers("attempts_max", self.attempts_max.into(), 1, 20);
        numbers("retry_budget_max", self.retry_budget_max.into(), 0, 10_000);
        numbers(
            "hedge_percent_max",
            self.hedge_percent_max.into(),
            0,
            HEDGE_PERCENT_LIMIT.into(),
        );
        let sizes = [
            ("reads_in_flight_max", self.reads_in_flight_max, 1, 1024),
            (
                "ahead_in_flight_max",
                self.ahead_in_flight_max,
                1,
                self.reads_in_flight_max,
            ),
            (
                "background_in_flight_max",
                self.background_in_flight_max,
                1,
                256,
            ),
            ("demand_queue_max", self.demand_queue_max, 1, 65_536),
            ("ahead_queue_max", self.ahead_queue_max, 1, 65_536),
            ("background_queue_max", self.background_queue_max, 1, 65_536),
            (
                "fill_buffer_bytes_max",
                self.fill_buffer_bytes_max,
                1 << 20,
                64 << 30,
            ),
            (
                "fill_writes_in_flight_max",
                self.fill_writes_in_flight_max,
                1,
                64,
            ),
        ];
        for (name, value, min, max) in sizes {
            numbers(name, value as u64, min as u64, max as u64);
        }
        problems
    }
}

/// The most hedges per hundred reads that may be configured.
const HEDGE_PERCENT_LIMIT: u32 = 5;
const MIB: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_problem_is_named_at_once() {
        assert_eq!(StoreConfig::default().problems(), Vec::<String>::new());
        assert_eq!(StoreConfig::tiny().problems(), Vec::<String>::new());
        let bad = StoreConfig {
            attempts_max: 0,
            hedge_percent_max: 6,
            body_deadline: Duration::ZERO,
            ..StoreConfig::default()
        };
        let problems = bad.problems().join("\n");
        for name in [
            "attempts_max: 0",
            "hedge_percent_max: 6",
            "body_deadline: 0ns",
        ] {
            assert!(problems.contains(name), "{problems}");
        }
        assert_eq!(bad.problems().len(), 3);
    }
}
