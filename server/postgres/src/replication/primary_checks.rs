//! Whether a server can be followed: everything that would fail later is looked at before anything is changed, and all
//! problems are told at once, each with what to do about it.

use engine::types::Lsn;

use super::connection::Connection;
use super::primary_facts::PrimaryFacts;
use super::replication_error::ReplicationError;
use super::settings::ConnectionSettings;
use super::slot_name::SlotName;
use super::slots::SlotWal;
use super::timeline_history::TimelineHistory;
use super::wal_facts::{WalFacts, version};
use crate::control_file::SEGMENT_BLOCKS;

/// What a branch wants of its primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowRequest {
    /// Cluster that the branch is of.
    pub system_identifier: u64,
    /// Timeline that the branch is on.
    pub timeline: u32,
    /// The next byte of WAL that the branch wants.
    pub at: Lsn,
    /// The slot that keeps WAL for it. It need not be there yet.
    pub slot: Option<SlotName>,
}

/// A server that can be followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Primary {
    /// What it says in SQL.
    pub facts: PrimaryFacts,
    /// Its WAL.
    pub wal: WalFacts,
}

/// Why a server can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum PrimaryCheckError {
    /// As it is; at least one problem.
    #[error("the server cannot be followed: {}", listed(.0))]
    Problems(Vec<PrimaryProblem>),
    /// It could not be asked.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
}

/// A reason, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrimaryProblem {
    /// Too old, or too new.
    #[error("it is PostgreSQL {release}; versions 15 to 18 are supported")]
    Version {
        /// As the server calls it.
        release: String,
    },
    /// A standby.
    #[error("it is a standby; follow its primary, or promote it first")]
    InRecovery,
    /// `wal_level = minimal`.
    #[error(
        "wal_level is {wal_level}, and its WAL lacks changes; \
         ALTER SYSTEM SET wal_level = 'replica', max_wal_senders = 10, and restart it"
    )]
    WalLevel {
        /// The setting.
        wal_level: String,
    },
    /// Built with other sizes.
    #[error("{setting} is {found}, and only {wanted} is supported: it was built otherwise")]
    Size {
        /// Which size.
        setting: &'static str,
        /// The server's.
        found: u64,
        /// Ours.
        wanted: u64,
    },
    /// The role may not.
    #[error(
        "the role {role} may not replicate; as a superuser run ALTER ROLE \"{}\" REPLICATION",
        .role.replace('"', "\"\"")
    )]
    Role {
        /// Which role.
        role: String,
    },
    /// All connections for replication are taken.
    #[error(
        "all {max} connections for replication are taken; ALTER SYSTEM SET max_wal_senders = {} and restart it, \
         or end one of those in pg_stat_replication",
        .max + 2
    )]
    NoSender {
        /// `max_wal_senders`.
        max: u64,
    },
    /// All slots are taken.
    #[error(
        "all {max} replication slots are taken; ALTER SYSTEM SET max_replication_slots = {} and restart it, \
         or drop one that nobody needs (pg_replication_slots, pg_drop_replication_slot)",
        .max + 2
    )]
    NoSlot {
        /// `max_replication_slots`.
        max: u64,
    },
    /// The slot is of the other kind.
    #[error("the replication slot {slot} is a logical one; give the name of another")]
    SlotLogical {
        /// Which.
        slot: SlotName,
    },
    /// The slot is used by somebody.
    #[error(
        "the replication slot {slot} is in use by process {pid} of the server; give the name of another, \
         or end that one with select pg_terminate_backend({pid})"
    )]
    SlotInUse {
        /// Which.
        slot: SlotName,
        /// By whom.
        pid: i32,
    },
    /// The slot's WAL is gone.
    #[error(
        "the server has removed WAL that the replication slot {slot} was to keep; \
         select pg_drop_replication_slot('{slot}'), and import again"
    )]
    SlotLost {
        /// Which.
        slot: SlotName,
    },
    /// The server takes no such connection.
    #[error(
        "{said}; it needs a line like \"host {database} {role} <address> scram-sha-256\" in pg_hba.conf"
    )]
    NoConnection {
        /// The server's words.
        said: String,
        /// A database, or `replication`.
        database: String,
        /// The role.
        role: String,
    },
    /// Another cluster.
    #[error(
        "it is another cluster: its system identifier is {found}, and the branch is of {wanted}; \
         was it made anew, or upgraded with pg_upgrade? Import it as a new branch"
    )]
    SystemIdentifier {
        /// The server's.
        found: u64,
        /// The branch's.
        wanted: u64,
    },
    /// The branch has WAL that the server has not.
    #[error(
        "the branch is at {at}, and the server's WAL ends at {end}: it was restored from an older backup, or is \
         another copy of the cluster; import it as a new branch"
    )]
    Behind {
        /// Where the branch is.
        at: Lsn,
        /// Where the server's WAL of the branch's timeline ends.
        end: Lsn,
    },
    /// The branch has WAL that the server's timeline left out.
    #[error(
        "the branch is at {at} of timeline {timeline}, and the server left that timeline at {end}: it was \
         promoted before it had all; make a branch at {end} and follow with that"
    )]
    Forked {
        /// The branch's timeline.
        timeline: u32,
        /// Where the branch is.
        at: Lsn,
        /// Where the server's way left that timeline.
        end: Lsn,
    },
    /// The branch's timeline is not one the server came through.
    #[error(
        "the branch is on timeline {timeline}, which is not in the history of the server's timeline {found}: \
         another copy of the cluster; import it as a new branch"
    )]
    Timeline {
        /// The branch's.
        timeline: u32,
        /// The server's.
        found: u32,
    },
}

/// Looks at a server, by a connection to a database and one for replication; blocks.
/// # Errors
/// It can't be followed, or could not be asked.
pub fn check_primary(
    settings: &ConnectionSettings,
    request: &FollowRequest,
) -> Result<Primary, PrimaryCheckError> {
    check(settings, request.slot.as_ref(), Some(request))
}

/// The same for a branch that is yet to be made of the server: of any cluster, at any position.
/// # Errors
/// As [`check_primary`].
pub fn check_new_primary(
    settings: &ConnectionSettings,
    slot: Option<&SlotName>,
) -> Result<Primary, PrimaryCheckError> {
    check(settings, slot, None)
}

fn check(
    settings: &ConnectionSettings,
    slot: Option<&SlotName>,
    request: Option<&FollowRequest>,
) -> Result<Primary, PrimaryCheckError> {
    let mut connection = Connection::open_database(settings)
        .map_err(|error| not_let_in(error, settings, &settings.database, Vec::new()))?;
    if let Err(ReplicationError::Version(release)) = version(&connection) {
        let problem = PrimaryProblem::Version { release };
        return Err(PrimaryCheckError::Problems(vec![problem]));
    }
    let facts = PrimaryFacts::read(&mut connection, slot)?;
    let mut problems = problems_of(&facts, slot);
    let closed_to_us = |problem: &PrimaryProblem| {
        matches!(
            problem,
            PrimaryProblem::WalLevel { .. }
                | PrimaryProblem::Role { .. }
                | PrimaryProblem::NoSender { .. }
        )
    };
    if problems.iter().any(closed_to_us) {
        return Err(PrimaryCheckError::Problems(problems));
    }
    let mut connection = match Connection::open(settings) {
        Ok(connection) => connection,
        Err(error) => return Err(not_let_in(error, settings, "replication", problems)),
    };
    let wal = WalFacts::read(&mut connection)?;
    if let Some(request) = request {
        let found = wal.stream.system_identifier;
        if found == request.system_identifier {
            problems.extend(problem_of_position(&mut connection, &wal, request)?);
        } else {
            problems.push(PrimaryProblem::SystemIdentifier {
                found,
                wanted: request.system_identifier,
            });
        }
    }
    if problems.is_empty() {
        Ok(Primary { facts, wal })
    } else {
        Err(PrimaryCheckError::Problems(problems))
    }
}

/// Why a connection was not made: with the problems so far if the server does not let us in.
fn not_let_in(
    error: ReplicationError,
    settings: &ConnectionSettings,
    database: &str,
    mut problems: Vec<PrimaryProblem>,
) -> PrimaryCheckError {
    match error {
        ReplicationError::Server { code, message, .. } if code == NOT_AUTHORIZED => {
            problems.push(PrimaryProblem::NoConnection {
                said: message,
                database: database.to_owned(),
                role: settings.user.clone(),
            });
            PrimaryCheckError::Problems(problems)
        }
        other => other.into(),
    }
}

/// Problems that the server's own words show.
fn problems_of(facts: &PrimaryFacts, slot: Option<&SlotName>) -> Vec<PrimaryProblem> {
    let mut problems = Vec::new();
    if facts.is_in_recovery {
        problems.push(PrimaryProblem::InRecovery);
    }
    let is_enough = matches!(facts.wal_level.as_str(), "replica" | "logical");
    if !is_enough {
        problems.push(PrimaryProblem::WalLevel {
            wal_level: facts.wal_level.clone(),
        });
    }
    for (setting, found, wanted) in [
        ("block_size", facts.block_bytes, 8192),
        ("wal_block_size", facts.wal_block_bytes, 8192),
        ("segment_size", facts.segment_blocks, SEGMENT_BLOCKS.into()),
    ] {
        if found != wanted {
            problems.push(PrimaryProblem::Size {
                setting,
                found,
                wanted,
            });
        }
    }
    if !facts.can_replicate {
        problems.push(PrimaryProblem::Role {
            role: facts.role.clone(),
        });
    }
    // With wal_level = minimal there are none, and it says so itself.
    if is_enough && facts.senders >= facts.senders_max {
        problems.push(PrimaryProblem::NoSender {
            max: facts.senders_max,
        });
    }
    let Some(slot) = slot.cloned() else {
        return problems;
    };
    match &facts.slot {
        None if facts.slots >= facts.slots_max => problems.push(PrimaryProblem::NoSlot {
            max: facts.slots_max,
        }),
        None => {}
        Some(found) if !found.is_physical => problems.push(PrimaryProblem::SlotLogical { slot }),
        Some(found) if found.wal == Some(SlotWal::Lost) => {
            problems.push(PrimaryProblem::SlotLost { slot });
        }
        Some(found) => {
            let in_use = |pid| PrimaryProblem::SlotInUse { slot, pid };
            problems.extend(found.active_pid.map(in_use));
        }
    }
    problems
}

/// Whether the server's WAL goes through the position that the branch is at.
fn problem_of_position(
    connection: &mut Connection,
    wal: &WalFacts,
    request: &FollowRequest,
) -> Result<Option<PrimaryProblem>, ReplicationError> {
    let &FollowRequest { timeline, at, .. } = request;
    let found = wal.stream.timeline;
    if timeline == found {
        let end = wal.flushed;
        return Ok((at > end).then_some(PrimaryProblem::Behind { at, end }));
    }
    let history = TimelineHistory::read(connection, found)?;
    Ok(match history.span_of(timeline).and_then(|span| span.end) {
        None => Some(PrimaryProblem::Timeline { timeline, found }),
        Some(end) => (at > end).then_some(PrimaryProblem::Forked { timeline, at, end }),
    })
}

fn listed(problems: &[PrimaryProblem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; and ")
}

/// No line of pg_hba.conf, or one that rejects.
const NOT_AUTHORIZED: &str = "28000";
