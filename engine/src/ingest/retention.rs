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

/// Follows the horizon of one branch.
#[derive(Debug)]
pub struct Retention {
    settle: Duration,
    /// Horizons that were raised or found, and when; those that wait.
    raised: VecDeque<(Moment, Lsn)>,
    /// The highest that has waited long enough.
    settled: Lsn,
    /// Up to where it was said that history is to be given up.
    given_up: Lsn,
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
    /// Of a branch that was opened just now. `settle` is the time between the horizon and the giving up of what lies below: longer
    /// than it takes to make a branch.
    pub fn new(settle: Duration) -> Retention {
        Retention {
            settle,
            raised: VecDeque::new(),
            settled: Lsn::INVALID,
            given_up: Lsn::INVALID,
        }
    }

    /// What the branch needs, as its manifest says it is now, if nothing below `wanted` has to be readable.
    pub fn due(&mut self, facts: &BranchFacts, wanted: Lsn, now: Moment) -> Due {
        let Some(horizon) = facts.readable_from else {
            return Due::Nothing;
        };
        if self.raised.back().map_or(self.settled, |(_, lsn)| *lsn) < horizon {
            self.raised.push_back((now, horizon));
        }
        while let Some((since, lsn)) = self.raised.front().copied() {
            if now.since(since) < self.settle {
                break;
            }
            self.settled = lsn;
            self.raised.pop_front();
        }
        // In strides, so that the manifest hears of it now and then only.
        let window = facts.last_lsn.bytes_since(wanted).unwrap_or(0);
        let stride = (window / STRIDES).max(1);
        let is_worth =
            |from: Lsn, to: Lsn| to.bytes_since(from).is_some_and(|bytes| bytes >= stride);
        if is_worth(self.given_up.max(facts.kept.from), self.settled) {
            self.given_up = self.settled;
            return Due::GiveUp(self.settled);
        }
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
        let mut retention = Retention::new(Duration::from_secs(60));
        let mut due_at = |facts: BranchFacts, now| {
            let wanted = Lsn(facts.last_lsn.0 - 1600);
            retention.due(&facts, wanted, now)
        };
        assert_eq!(due_at(facts(1000, 2000, 0), seconds(0)), Due::Nothing);
        let almost = facts(1000, 2699, 0);
        assert_eq!(due_at(almost, seconds(1)), Due::Nothing);
        let due = due_at(facts(1000, 2700, 0), seconds(2));
        assert_eq!(due, Due::Raise(Lsn(1100)));
        let raised = facts(1100, 2700, 0);
        assert_eq!(due_at(raised.clone(), seconds(3)), Due::Nothing);
        // What it was when it was opened settles first.
        assert_eq!(due_at(raised.clone(), seconds(61)), Due::GiveUp(Lsn(1000)));
        let given_up = facts(1100, 2700, 1000);
        assert_eq!(due_at(given_up.clone(), seconds(62)), Due::Nothing);
        assert_eq!(
            due_at(given_up.clone(), seconds(63)),
            Due::GiveUp(Lsn(1100))
        );
    }

    #[test]
    fn what_lies_below_the_horizon_already_is_not_wanted_again() {
        let mut retention = Retention::new(Duration::from_secs(60));
        for second in 0..200 {
            let due = retention.due(&facts(1000, 1 << 60, 1000), Lsn(0), seconds(second));
            assert_eq!(due, Due::Nothing);
        }
    }
}
