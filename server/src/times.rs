//! LSNs of times, and times of LSNs: by the latest end of a transaction, of which a branch has a version for each that was later
//! than all before (`postgres::value::LatestEnd`).

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use engine::types::Lsn;
use engine::{BranchHandle, Core, ErrorKind, ReadError};
use postgres::key::PostgresKey;
use postgres::value::LatestEnd;

use crate::config::Span;

/// A moment by a clock, to the microsecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Time {
    /// Since 2000-01-01 00:00 UTC, as Postgres counts.
    micros: i64,
}

impl Time {
    /// As Postgres stores it.
    pub fn of_postgres(micros: i64) -> Time {
        Time { micros }
    }

    /// Now, by the clock of this machine.
    pub fn now() -> Time {
        Time::of(wall_time())
    }

    /// So long ago, by the clock of this machine.
    pub fn ago(ago: Span) -> Time {
        Time::now().minus(ago)
    }

    /// So long before.
    pub fn minus(self, ago: Span) -> Time {
        let ago = i64::try_from(ago.0.as_micros()).unwrap_or(i64::MAX);
        Time {
            micros: self.micros.saturating_sub(ago),
        }
    }

    fn of(time: SystemTime) -> Time {
        Time {
            micros: DateTime::<Utc>::from(time).timestamp_micros() - EPOCH_MICROS,
        }
    }
}

/// Not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write 2026-11-27T20:15:00Z, or with an offset like +01:00")]
pub struct TimeParseError(pub String);

impl FromStr for Time {
    type Err = TimeParseError;

    fn from_str(text: &str) -> Result<Time, TimeParseError> {
        let refuse = || TimeParseError(text.to_owned());
        let parsed = DateTime::parse_from_rfc3339(text).map_err(|_| refuse())?;
        let micros = parsed.timestamp_micros();
        // What can be written in that form, too.
        let year = DateTime::<Utc>::from_timestamp_micros(micros).map(|time| time.year());
        if !year.is_some_and(|year| (0..=9999).contains(&year)) {
            return Err(refuse());
        }
        Ok(Time {
            micros: micros - EPOCH_MICROS,
        })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.micros.saturating_add(EPOCH_MICROS)) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{} microseconds after 2000", self.micros),
        }
    }
}

/// Why a time has no LSN.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// The branch can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Nothing is known of any transaction's end.
    #[error(
        "no transaction has ended since the branch was imported: there are no times, take an LSN"
    )]
    NoTimes,
    /// It lies before what can be read.
    #[error("{time} is before {first}, the first time that the branch can show")]
    TooEarly {
        /// What was asked for.
        time: Time,
        /// The first that there is.
        first: Time,
    },
    /// It is not sure yet what was committed by then.
    #[error(
        "{time} is not before {last}, the end of the last transaction that is known: leave the time out to have what is there"
    )]
    TooLate {
        /// What was asked for.
        time: Time,
        /// The last that there is.
        last: Time,
    },
}

/// Where a recovery to `time` stops (`recovery_target_time`, inclusive): before the first commit or abort that is later. Some eighty
/// reads at most, the last of them of the same few blocks.
///
/// # Errors
/// See [`TimeError`]: a time is answered if it lies between ends of transactions that are known.
pub async fn lsn_of(core: &Core, branch: &BranchHandle, time: Time) -> Result<Lsn, TimeError> {
    let (first, last) = (branch.readable_from(), branch.last_lsn());
    let Some(newest) = latest_end(core, branch, last).await? else {
        return Err(TimeError::NoTimes);
    };
    if newest.time <= time.micros {
        return Err(TimeError::TooLate {
            time,
            last: Time::of_postgres(newest.time),
        });
    }
    let oldest = match latest_end(core, branch, first).await? {
        Some(oldest) => oldest,
        None => first_that(core, branch, (first, newest), |_| true).await?,
    };
    if oldest.time > time.micros {
        return Err(TimeError::TooEarly {
            time,
            first: Time::of_postgres(oldest.time),
        });
    }
    let is_later = |end: &LatestEnd| end.time > time.micros;
    let stop = first_that(core, branch, (first, newest), is_later).await?;
    // The horizon may lie within that record.
    Ok(stop.begins_at.max(first))
}

/// The latest end of a transaction at `lsn`.
///
/// # Errors
/// The branch can't be read there.
pub async fn time_of(
    core: &Core,
    branch: &BranchHandle,
    lsn: Lsn,
) -> Result<Option<Time>, ReadError> {
    let end = latest_end(core, branch, lsn).await?;
    Ok(end.map(|end| Time::of_postgres(end.time)))
}

/// The first version for which it is so, if it is for `end`, not at `low`, and for all behind the first.
async fn first_that(
    core: &Core,
    branch: &BranchHandle,
    (mut low, mut end): (Lsn, LatestEnd),
    is_so: impl Fn(&LatestEnd) -> bool,
) -> Result<LatestEnd, ReadError> {
    loop {
        // From where its record begins nothing changes up to where it ends.
        let before = latest_end(core, branch, end.begins_at.max(low)).await?;
        match before.filter(&is_so) {
            Some(earlier) => end = earlier,
            None => return Ok(end),
        }
        let middle = Lsn(low.0 + end.begins_at.0.saturating_sub(low.0) / 2);
        match latest_end(core, branch, middle).await?.filter(&is_so) {
            Some(earlier) => end = earlier,
            None => low = middle,
        }
    }
}

async fn latest_end(
    core: &Core,
    branch: &BranchHandle,
    lsn: Lsn,
) -> Result<Option<LatestEnd>, ReadError> {
    match core
        .read(branch, PostgresKey::LatestEnd.encode(), lsn)
        .await
    {
        Ok(value) => match LatestEnd::decode(&value) {
            Ok(end) => Ok(Some(end)),
            Err(error) => Err(ReadError::Metadata {
                reason: error.to_string().into(),
            }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what somebody calls ten minutes ago"
)]
fn wall_time() -> SystemTime {
    SystemTime::now()
}

/// 2000-01-01 00:00 UTC since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_to_the_microsecond() {
        let time: Time = "2026-11-27T21:15:00.000007+01:00".parse().expect("a time");
        assert_eq!(time.to_string(), "2026-11-27T20:15:00.000007Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        let epoch: Time = "2000-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(epoch, Time::of_postgres(0));
        for text in [
            "",
            "yesterday",
            "2026-11-27",
            "2026-13-01T00:00:00Z",
            "9999-12-31T23:30:00-01:00",
            "0000-01-01T00:30:00+01:00",
            "9999-12-31T23:59:60Z",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_ago_is_before_now() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(946_684_800 + 3600);
        let ago = Span(std::time::Duration::from_secs(600));
        assert_eq!(
            Time::of(now).minus(ago).to_string(),
            "2000-01-01T00:50:00.000000Z"
        );
    }
}
