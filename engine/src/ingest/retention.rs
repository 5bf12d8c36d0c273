//! How much history a branch keeps: its horizon follows its last LSN, and what lies below is given up a while later.
//!
//! In two steps, so that a branch that is being made below the horizon, by somebody who has not heard of it yet, is there
//! before anything it reads is given up. One that comes later still is refused when it is read, never served what is not
//! there.

use std::collections::VecDeque;
use std::time::Duration;

use crate::io::clock::Moment;
use crate::manifest::BranchFacts;
use crate::types::Lsn;

/// How much history a branch keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Bytes of WAL below the last LSN that stay readable; `None`: everything does.
    pub wal_bytes: Option<u64>,
    /// Time between the horizon and the giving up of what lies below: longer than it takes to make a branch. Default 1 min.
    pub settle: Duration,
}

impl Default for RetentionConfig {
    fn default() -> RetentionConfig {
        RetentionConfig {
            wal_bytes: None,
            settle: Duration::from_secs(60),
        }
    }
}

/// Follows the horizon of one branch.
#[derive(Debug)]
pub struct Retention {
    config: RetentionConfig,
    /// Horizons that were raised or found, and when; those that wait.
    raised: VecDeque<(Moment, Lsn)>,
    /// The highest that has waited long enough.
    settled: Lsn,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing now.
    Nothing,
    /// Nothing below this is shown any more.
    Raise(Lsn),
    /// Nothing below this has to stay, but for what branches see.
    GiveUp(Lsn),
}

impl Retention {
    /// For a branch that was opened `now`.
    pub fn new(config: RetentionConfig) -> Retention {
        Retention {
            config,
            raised: VecDeque::new(),
            settled: Lsn::INVALID,
        }
    }

    /// What the branch needs, as its manifest says it is now.
    pub fn due(&mut self, facts: &BranchFacts, now: Moment) -> Due {
        let Some(horizon) = facts.readable_from else {
            return Due::Nothing;
        };
        if self.raised.back().map_or(self.settled, |(_, lsn)| *lsn) < horizon {
            self.raised.push_back((now, horizon));
        }
        while let Some((since, lsn)) = self.raised.front().copied() {
            if now.since(since) < self.config.settle {
                break;
            }
            self.settled = lsn;
            self.raised.pop_front();
        }
        let Some(wal_bytes) = self.config.wal_bytes else {
            return Due::Nothing;
        };
        // In strides, so that the manifest hears of it now and then only.
        let stride = (wal_bytes / STRIDES).max(1);
        let is_worth =
            |from: Lsn, to: Lsn| to.bytes_since(from).is_some_and(|bytes| bytes >= stride);
        if is_worth(facts.kept.from, self.settled) {
            return Due::GiveUp(self.settled);
        }
        let wanted = Lsn(facts.last_lsn.0.saturating_sub(wal_bytes));
        if is_worth(horizon, wanted) {
            return Due::Raise(wanted);
        }
        Due::Nothing
    }
}

/// Steps in which the horizon goes over as much WAL as is kept.
const STRIDES: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Creation, KeptHistory};

    fn facts(horizon: u64, last_lsn: u64, kept: u64) -> BranchFacts {
        BranchFacts {
            creation: Creation {
                name_hash: [0; 16],
                key_space: [0; 8],
                parent: None,
                timelines: Vec::new(),
            },
            epoch: 1,
            last_lsn: Lsn(last_lsn),
            readable_from: Some(Lsn(horizon)),
            base_backup: None,
            wal: None,
            kept: KeptHistory::new(Lsn(kept), []),
            layers: 0,
            layer_bytes: 0,
        }
    }

    fn seconds(seconds: u64) -> Moment {
        Moment::default().after(Duration::from_secs(seconds))
    }

    #[test]
    fn the_horizon_follows_in_strides_and_is_given_up_later() {
        let mut retention = Retention::new(RetentionConfig {
            wal_bytes: Some(1600),
            settle: Duration::from_secs(60),
        });
        assert_eq!(
            retention.due(&facts(1000, 2000, 0), seconds(0)),
            Due::Nothing
        );
        let almost = facts(1000, 2699, 0);
        assert_eq!(retention.due(&almost, seconds(1)), Due::Nothing);
        let due = retention.due(&facts(1000, 2700, 0), seconds(2));
        assert_eq!(due, Due::Raise(Lsn(1100)));
        let raised = facts(1100, 2700, 0);
        assert_eq!(retention.due(&raised, seconds(3)), Due::Nothing);
        // What it was when it was opened settles first.
        assert_eq!(retention.due(&raised, seconds(61)), Due::GiveUp(Lsn(1000)));
        let given_up = facts(1100, 2700, 1000);
        assert_eq!(retention.due(&given_up, seconds(62)), Due::Nothing);
        assert_eq!(
            retention.due(&given_up, seconds(63)),
            Due::GiveUp(Lsn(1100))
        );
    }

    #[test]
    fn without_a_window_everything_stays() {
        let mut retention = Retention::new(RetentionConfig::default());
        for second in 0..200 {
            let due = retention.due(&facts(1000, 1 << 60, 0), seconds(second));
            assert_eq!(due, Due::Nothing);
        }
    }
}
