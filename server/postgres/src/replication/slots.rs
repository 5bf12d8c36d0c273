//! Physical replication slots: what makes a primary keep WAL until we have it.
//!
//! Made, read and dropped over a connection for replication, looked at and advanced by SQL over one to a database. All of it
//! needs a superuser or a role with REPLICATION, in 15 to 18 alike; a role that may only connect can look at slots.
//! Advancing never takes a slot beyond the position that is given, nor beyond the server's own WAL, and never back.

use engine::types::Lsn;

use super::connection::Connection;
use super::message::Row;
use super::replication_error::{ReplicationError, unexpected};
use super::slot_name::SlotName;

/// Why a slot was not made, moved or dropped.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// There is none of this name.
    #[error("the server has no replication slot {0}")]
    Missing(SlotName),
    /// A connection uses it.
    #[error("the replication slot {slot} is in use: {said}")]
    InUse {
        /// Which.
        slot: SlotName,
        /// The server's words, with the process that uses it.
        said: String,
    },
    /// It is of the other kind.
    #[error("the replication slot {0} is a logical one; give the name of another")]
    Logical(SlotName),
    /// It keeps no WAL: it never did, or was invalidated.
    #[error(
        "the replication slot {0} keeps no WAL: it never did, or it was invalidated; \
         drop it (select pg_drop_replication_slot('{0}')) and begin with a new import"
    )]
    KeepsNothing(SlotName),
    /// It is further than it shall be.
    #[error(
        "the replication slot {slot} is at {at} already, beyond {wanted}: the WAL between may be gone"
    )]
    Ahead {
        /// Which.
        slot: SlotName,
        /// Where it is.
        at: Lsn,
        /// Where it was to be.
        wanted: Lsn,
    },
    /// The role may not.
    #[error(
        "the role {role} may not use replication slots: only a superuser or a role with REPLICATION may \
         (ALTER ROLE \"{role}\" REPLICATION)"
    )]
    NoRight {
        /// Which role.
        role: String,
    },
    /// All are taken.
    #[error("all replication slots of the server are taken: {0}")]
    NoneFree(String),
    /// Anything else.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
}

/// From where on a slot keeps WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotPosition {
    /// The oldest byte kept; `None` if nothing is.
    pub restart_lsn: Option<Lsn>,
    /// Its timeline.
    pub restart_timeline: Option<u32>,
}

/// What came of making a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotCreation {
    /// It was made, and keeps WAL from the server's last checkpoint on.
    Created(SlotPosition),
    /// A physical slot of that name was there already, at this position.
    Existed(SlotPosition),
}

/// A row of `pg_replication_slots`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotFacts {
    /// Physical, and not logical.
    pub is_physical: bool,
    /// The process that uses it.
    pub active_pid: Option<i32>,
    /// The oldest byte kept.
    pub restart_lsn: Option<Lsn>,
    /// Whether the WAL is there; `None` if the slot keeps none.
    pub wal: Option<SlotWal>,
    /// Bytes that may be written before WAL of the slot is removed; `None` without a limit. Negative if it may be removed
    /// at any moment.
    pub safe_wal_bytes: Option<i64>,
}

/// `wal_status` of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotWal {
    /// Within `max_wal_size`.
    Reserved,
    /// Beyond `max_wal_size`, and kept for slots or `wal_keep_size`.
    Extended,
    /// To be removed by the next checkpoint, unless the slot moves on before.
    Unreserved,
    /// Removed.
    Lost,
}

/// Makes a physical slot that keeps WAL at once. It may be there already.
/// # Errors
/// See [`SlotError`].
pub fn create_slot(
    connection: &mut Connection,
    name: &SlotName,
) -> Result<SlotCreation, SlotError> {
    let made = connection.query(&format!(
        "CREATE_REPLICATION_SLOT \"{name}\" PHYSICAL (RESERVE_WAL)"
    ));
    let is_new = match made {
        Ok(_) => true,
        Err(error) if error.code() == Some(DUPLICATE_OBJECT) => false,
        Err(error) => return Err(refused(connection, name, error)),
    };
    let position = read_slot(connection, name)?.ok_or_else(|| SlotError::Missing(name.clone()))?;
    Ok(if is_new {
        SlotCreation::Created(position)
    } else {
        SlotCreation::Existed(position)
    })
}

/// Where a physical slot is; `None` if there is none of that name.
/// # Errors
/// See [`SlotError`].
pub fn read_slot(
    connection: &mut Connection,
    name: &SlotName,
) -> Result<Option<SlotPosition>, SlotError> {
    let rows = connection
        .query(&format!("READ_REPLICATION_SLOT \"{name}\""))
        .map_err(|error| match error.code() {
            Some(NOT_SUPPORTED) => SlotError::Logical(name.clone()),
            _ => refused(connection, name, error),
        })?;
    match rows.first().map(Vec::as_slice) {
        Some([None, ..]) => Ok(None),
        Some([Some(_kind), restart_lsn, restart_timeline]) => Ok(Some(SlotPosition {
            restart_lsn: parsed(restart_lsn)?,
            restart_timeline: parsed(restart_timeline)?,
        })),
        _ => Err(unexpected("in answer to READ_REPLICATION_SLOT").into()),
    }
}

/// Drops a slot; answers whether there was one.
/// # Errors
/// It is in use, or see [`SlotError`].
pub fn drop_slot(connection: &mut Connection, name: &SlotName) -> Result<bool, SlotError> {
    match connection.query(&format!("DROP_REPLICATION_SLOT \"{name}\"")) {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(UNDEFINED_OBJECT) => Ok(false),
        Err(error) => Err(refused(connection, name, error)),
    }
}

/// Moves a slot on to `to`, over a connection to a database; answers where it is: less far if the server's own WAL ends
/// before.
/// # Errors
/// The slot is further already, is in use, keeps nothing, or see [`SlotError`].
pub fn advance_slot(
    connection: &mut Connection,
    name: &SlotName,
    to: Lsn,
) -> Result<Lsn, SlotError> {
    let rows = connection.query(&format!(
        "select end_lsn from pg_catalog.pg_replication_slot_advance('{name}', '{to}')"
    ));
    let rows = match rows {
        Ok(rows) => rows,
        // The server has one code for both.
        Err(error) if error.code() == Some(NOT_IN_PREREQUISITE_STATE) => {
            let facts = slot_facts(connection, name)?;
            let slot = name.clone();
            return Err(match facts.and_then(|facts| facts.restart_lsn) {
                Some(at) => SlotError::Ahead {
                    slot,
                    at,
                    wanted: to,
                },
                None => SlotError::KeepsNothing(slot),
            });
        }
        Err(error) => return Err(refused(connection, name, error)),
    };
    let position = rows.first().and_then(|row| row.first());
    let position = position.and_then(Option::as_deref);
    position
        .and_then(|position| position.parse().ok())
        .ok_or_else(|| unexpected("in answer to pg_replication_slot_advance").into())
}

/// What the server's view says of a slot, over a connection to a database; `None` if there is none of that name.
/// # Errors
/// The server's.
pub fn slot_facts(
    connection: &mut Connection,
    name: &SlotName,
) -> Result<Option<SlotFacts>, ReplicationError> {
    let rows = connection.query(&format!(
        "select slot_type, active_pid, restart_lsn, wal_status, safe_wal_size \
         from pg_catalog.pg_replication_slots where slot_name = '{name}'"
    ))?;
    rows.first().map(decode_facts).transpose()
}

fn decode_facts(row: &Row) -> Result<SlotFacts, ReplicationError> {
    let [Some(kind), active_pid, restart_lsn, wal, safe_wal_bytes] = row.as_slice() else {
        return Err(unexpected("as a row of pg_replication_slots"));
    };
    Ok(SlotFacts {
        is_physical: kind == "physical",
        active_pid: parsed(active_pid)?,
        restart_lsn: parsed(restart_lsn)?,
        wal: match wal.as_deref() {
            Some("reserved") => Some(SlotWal::Reserved),
            Some("extended") => Some(SlotWal::Extended),
            Some("unreserved") => Some(SlotWal::Unreserved),
            Some("lost") => Some(SlotWal::Lost),
            None => None,
            Some(_) => return Err(unexpected("as the state of a slot's WAL")),
        },
        safe_wal_bytes: parsed(safe_wal_bytes)?,
    })
}

/// A column that may be null.
fn parsed<T: std::str::FromStr>(column: &Option<String>) -> Result<Option<T>, ReplicationError> {
    let parse = |text: &String| text.parse().map_err(|_| unexpected("as a value of a slot"));
    column.as_ref().map(parse).transpose()
}

/// What a server's no means.
fn refused(connection: &Connection, slot: &SlotName, error: ReplicationError) -> SlotError {
    let ReplicationError::Server { code, message, .. } = &error else {
        return SlotError::Replication(error);
    };
    let (slot, said) = (slot.clone(), message.clone());
    match code.as_str() {
        UNDEFINED_OBJECT => SlotError::Missing(slot),
        OBJECT_IN_USE => SlotError::InUse { slot, said },
        INSUFFICIENT_PRIVILEGE => SlotError::NoRight {
            role: connection.user().to_owned(),
        },
        CONFIGURATION_LIMIT_EXCEEDED => SlotError::NoneFree(said),
        _ => SlotError::Replication(error),
    }
}

const NOT_SUPPORTED: &str = "0A000";
const UNDEFINED_OBJECT: &str = "42704";
const DUPLICATE_OBJECT: &str = "42710";
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
const NOT_IN_PREREQUISITE_STATE: &str = "55000";
const OBJECT_IN_USE: &str = "55006";
