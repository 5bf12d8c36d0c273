//! When the next request is due.
//!
//! A closed loop sends as soon as a slot is free: its latency is that of a client that waits. An open loop sends at a
//! fixed rate whatever the answers do, and the latency of a request counts from the moment it *should* have been
//! sent. So a server that stalls for a second is charged with every request that was due in that second, not only
//! with those that happened to be under way (the error called coordinated omission). No queue is needed for that:
//! request i is due at `start + i / rate`, and a free slot always takes the oldest that is due.

/// A schedule of one client thread, in nanoseconds of its clock.
#[derive(Debug, Clone)]
pub(crate) enum Schedule {
    /// A request whenever there is a free slot, until `end_ns`.
    Closed {
        /// No request is sent from here on.
        end_ns: u64,
    },
    /// Requests at fixed times.
    Open {
        /// When the first is due.
        start_ns: u64,
        /// No request is due from here on.
        end_ns: u64,
        /// Per second, of this thread.
        rate: f64,
        /// How many were sent so far.
        sent: u64,
    },
}

/// What a free slot shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Send, and count the latency from here.
    Send {
        /// When the request was due.
        intended_ns: u64,
    },
    /// Nothing is due before this time.
    Wait {
        /// When to ask again.
        until_ns: u64,
    },
    /// All requests of the run have been sent.
    Finished,
}

impl Schedule {
    /// What a slot that is free at `now_ns` shall do. `Send` counts the request as sent.
    pub(crate) fn turn(&mut self, now_ns: u64) -> Turn {
        match self {
            Schedule::Closed { end_ns } if now_ns < *end_ns => Turn::Send {
                intended_ns: now_ns,
            },
            Schedule::Closed { .. } => Turn::Finished,
            Schedule::Open {
                start_ns,
                end_ns,
                rate,
                sent,
            } => {
                let due_ns = due(*start_ns, *rate, *sent);
                if due_ns >= *end_ns {
                    Turn::Finished
                } else if due_ns <= now_ns {
                    *sent += 1;
                    Turn::Send {
                        intended_ns: due_ns,
                    }
                } else {
                    Turn::Wait { until_ns: due_ns }
                }
            }
        }
    }

    /// Calls `late` with the due time of every request that was due before `now_ns` and has not been sent: what an
    /// open loop still owes when it is broken off.
    pub(crate) fn unsent(&self, now_ns: u64, mut late: impl FnMut(u64)) {
        if let Schedule::Open {
            start_ns,
            end_ns,
            rate,
            sent,
        } = self
        {
            let mut number = *sent;
            loop {
                let due_ns = due(*start_ns, *rate, number);
                if due_ns >= (*end_ns).min(now_ns) {
                    break;
                }
                late(due_ns);
                number += 1;
            }
        }
    }
}

fn due(start_ns: u64, rate: f64, number: u64) -> u64 {
    let after_ns = number as f64 * 1e9 / rate;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float to integer cast saturates"
    )]
    #[expect(clippy::cast_sign_loss, reason = "a float to integer cast saturates")]
    let after_ns = after_ns as u64;
    start_ns.saturating_add(after_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latencies;

    const MS: u64 = 1_000_000;

    /// One slot, one server that takes 0.1 ms, but answers nothing between 1.0 s and 1.5 s; in virtual time.
    fn run_against_stalling_server(mut schedule: Schedule) -> Latencies {
        let mut latencies = Latencies::new();
        let mut now = 0;
        loop {
            match schedule.turn(now) {
                Turn::Send { intended_ns } => {
                    now += MS / 10;
                    if (1000 * MS..1500 * MS).contains(&now) {
                        now = 1500 * MS;
                    }
                    latencies.record(now - intended_ns);
                }
                Turn::Wait { until_ns } => now = until_ns,
                Turn::Finished => return latencies,
            }
        }
    }

    #[test]
    fn an_open_loop_charges_a_stall_to_every_request_that_was_due_in_it() {
        let open = run_against_stalling_server(Schedule::Open {
            start_ns: 0,
            end_ns: 5000 * MS,
            rate: 1000.0,
            sent: 0,
        });
        // 500 of 5,000 requests were due during the stall, and a queue of 500 is worked off at 10 per ms while one
        // more arrives each ms: 56 more are late. The wait falls linearly from 500 ms.
        assert_eq!(open.count(), 5000);
        let p = open.percentiles();
        assert!((490_000.0..501_000.0).contains(&p.max_us), "{p:?}");
        assert!((440_000.0..465_000.0).contains(&p.p99_us), "{p:?}");
        assert!((45_000.0..60_000.0).contains(&p.p90_us), "{p:?}");
        assert!(p.p50_us < 200.0, "{p:?}");

        // The same stall in a closed loop is one slow request in tens of thousands: p99 does not see it.
        let closed = run_against_stalling_server(Schedule::Closed { end_ns: 5000 * MS });
        assert!(closed.percentiles().p999_us < 200.0);
    }

    #[test]
    fn an_open_loop_sends_exactly_its_rate_without_drift() {
        let mut schedule = Schedule::Open {
            start_ns: 17,
            end_ns: 17 + 1000 * MS,
            rate: 3.0,
            sent: 0,
        };
        assert_eq!(schedule.turn(0), Turn::Wait { until_ns: 17 });
        let mut due = Vec::new();
        while let Turn::Send { intended_ns } = schedule.turn(u64::MAX) {
            due.push(intended_ns);
        }
        assert_eq!(due, [17, 17 + 333_333_333, 17 + 666_666_666]);
        assert_eq!(schedule.turn(u64::MAX), Turn::Finished);
    }

    #[test]
    fn what_a_broken_off_open_loop_owes_is_listed() {
        let mut schedule = Schedule::Open {
            start_ns: 0,
            end_ns: 100 * MS,
            rate: 1000.0,
            sent: 0,
        };
        assert_eq!(schedule.turn(0), Turn::Send { intended_ns: 0 });
        let mut owed = Vec::new();
        schedule.unsent(4 * MS, |due| owed.push(due));
        assert_eq!(owed, [MS, 2 * MS, 3 * MS]);
    }
}
