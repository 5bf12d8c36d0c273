//! The one place where time is read. Everything below takes nanoseconds since the start of the process, so that tests
//! can hand in a time of their own.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the first call in this process. About 25 ns through the vdso.
pub(crate) fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "a load generator measures real time"
    )]
    let now = Instant::now();
    as_ns(now.duration_since(*START.get_or_init(|| now)))
}

/// The origin of an engine's clock.
pub(crate) fn origin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the origin of a clock")]
    Instant::now()
}

/// Seconds since 1970, for the header of a report.
pub(crate) fn unix_seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a report says when it was made")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A duration in nanoseconds; `u64::MAX` (584 years) if it is longer.
pub(crate) fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
