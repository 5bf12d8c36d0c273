//! `START_REPLICATION` of a physical stream: from any byte of a timeline, with a slot or without.

use engine::types::Lsn;

use super::connection::{Connection, Incoming, StreamAnswer};
use super::message::Row;
use super::replication_error::{ReplicationError, unexpected};
use super::slot_name::SlotName;

/// Where a stream begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicationStart {
    /// Slot whose position is to follow what is reported as flushed. It may not be in use.
    pub slot: Option<SlotName>,
    /// Timeline of the first byte.
    pub timeline: u32,
    /// The first byte.
    pub at: Lsn,
}

/// A timeline of the server has ended; its WAL goes on with another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimelineSwitch {
    /// The next timeline.
    pub timeline: u32,
    /// Where it begins, which is the end of the one before.
    pub at: Lsn,
}

/// A connection on which a stream has begun: what a receiver is made of.
pub struct StartedReplication {
    pub(super) connection: Connection,
    pub(super) at: Lsn,
    /// The timeline ends where the stream would have begun.
    pub(super) switch: Option<TimelineSwitch>,
}

impl ReplicationStart {
    /// Asks for the stream; blocks until the server has answered.
    /// # Errors
    /// The server's: a timeline that is not in its history (XX000), a slot that is in use (55006, also for a while after a
    /// connection was lost), that is not there (42704), or that is a logical one or was invalidated (55000). A position
    /// beyond its WAL (XX000) and WAL that was removed (58P01) are told by the receiver.
    pub fn begin(
        &self,
        mut connection: Connection,
    ) -> Result<StartedReplication, ReplicationError> {
        let slot = match &self.slot {
            Some(name) => format!("SLOT \"{name}\" "),
            None => String::new(),
        };
        let (at, timeline) = (self.at, self.timeline);
        let answer = connection.start_copy_both(&format!(
            "START_REPLICATION {slot}PHYSICAL {at} TIMELINE {timeline}"
        ))?;
        let switch = match answer {
            StreamAnswer::Begins => None,
            StreamAnswer::Result => match connection.receive()? {
                Incoming::Row(row) => Some(decode_switch(&row)?),
                _ => return Err(unexpected("instead of the next timeline")),
            },
        };
        Ok(StartedReplication {
            connection,
            at,
            switch,
        })
    }
}

/// The row behind the end of a timeline.
pub(super) fn decode_switch(row: &Row) -> Result<TimelineSwitch, ReplicationError> {
    let switch = match row.as_slice() {
        [Some(timeline), Some(at)] => timeline.parse().ok().zip(at.parse().ok()),
        _ => None,
    };
    let (timeline, at) = switch.ok_or_else(|| unexpected("as the next timeline"))?;
    Ok(TimelineSwitch { timeline, at })
}
