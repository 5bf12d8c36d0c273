//! What a record touches: every key of which it makes a new version, with the change or the value.
//!
//! - the pages of the record's blocks, each with its [`Delta`];
//! - the pages it implies: visibility maps that heap records clear, the maps' last pages after a truncation, pages of
//!   commit status, multixacts and commit timestamps;
//! - sizes of forks, by extension, truncation, creation, drop (by commit, abort, and their prepared forms);
//! - databases made (a copy is named, never copied), dropped and moved, relation maps, tablespaces;
//! - two-phase files, replication origins, parameters, and the counters of the checkpoint state.
//!
//! All of it are versions at the record's end, and no key comes twice for one record. What is state of the server's
//! memory only (locks, invalidations, running transactions but the oldest) is not.
//!
//! [`ClusterState`] is what has to be known of the versions before to tell: sizes of all forks, which segments the
//! SLRUs have, counters. It takes memory with the number of relations (about 100 bytes each) and of SLRU segments,
//! nothing with the WAL.

mod blocks;
mod control;
mod database;
mod forks;
mod slru;
mod state;
mod storage;
mod transaction;

pub use state::{ClusterState, StateError};

use engine::types::Lsn;

use crate::key::PostgresKey;
use crate::redo::{Delta, RedoError};
use crate::wal::{Record, ResourceManager};

/// A new version of a key, at the end of the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched<'a> {
    /// Of what.
    pub key: PostgresKey,
    /// What it is.
    pub what: What<'a>,
}

/// What a new version is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// A change to the page before.
    Delta(Delta<'a>),
    /// The whole value.
    Value(&'a [u8]),
    /// It is no longer there: stored as an empty value.
    Removed,
}

/// Never the bytes of a value: they may be names.
impl std::fmt::Debug for What<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Delta(delta) => delta.fmt(f),
            What::Value(value) => write!(f, "{} bytes", value.len()),
            What::Removed => f.write_str("removed"),
        }
    }
}

/// A record that changes the cluster in a way that is not known. Nothing behind it can be taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record of {manager} {info:#04x} at {at}: {reason}")]
pub struct TouchError {
    /// Where it begins.
    pub at: Lsn,
    /// Whose it is.
    pub manager: ResourceManager,
    /// Its operation and flags.
    pub info: u8,
    /// What is wrong.
    pub reason: RedoError,
}

/// Where versions go.
type Out<'o> = &'o mut dyn FnMut(Touched<'_>);

/// Answers every version that `record` makes, and moves `state` behind it. Records have to come in order, none left
/// out. Blocks of resource managers that are not known are answered as well: redo of their pages fails and names
/// the record.
/// # Errors
/// A record of a built-in resource manager that is cut short or of an unknown kind. `state` is in no particular
/// state then.
pub fn touched(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: &mut impl FnMut(Touched<'_>),
) -> Result<(), TouchError> {
    touch(record, state, out).map_err(|reason| TouchError {
        at: record.start,
        manager: record.manager,
        info: record.info,
        reason,
    })
}

fn touch(record: &Record<'_>, state: &mut ClusterState, out: Out<'_>) -> Result<(), RedoError> {
    state.control.see_xid(record.xid);
    match record.manager {
        ResourceManager::XLOG => control::xlog(record, state, out)?,
        ResourceManager::TRANSACTION => transaction::transaction(record, state, out)?,
        ResourceManager::STORAGE => storage::storage(record, state, out)?,
        ResourceManager::CLOG => slru::clog(record, state, out)?,
        ResourceManager::DATABASE => database::database(record, state, out)?,
        ResourceManager::TABLESPACE => database::tablespace(record, state, out)?,
        ResourceManager::MULTIXACT => slru::multixact(record, state, out)?,
        ResourceManager::RELATION_MAP => database::relation_map(record, out)?,
        ResourceManager::STANDBY => control::standby(record, state)?,
        ResourceManager::COMMIT_TIMESTAMP => slru::commit_timestamp(record, state, out)?,
        ResourceManager::REPLICATION_ORIGIN => control::replication_origin(record, state, out)?,
        _ => {}
    }
    blocks::blocks(record, state, out)?;
    state.slrus.put(out);
    state.forks.put(out);
    state.control.put(out);
    Ok(())
}

/// Puts a value.
fn put(key: PostgresKey, value: &[u8], out: Out<'_>) {
    out(Touched {
        key,
        what: What::Value(value),
    });
}

/// Puts a change of a page.
fn put_delta(key: PostgresKey, delta: Delta<'_>, out: Out<'_>) {
    out(Touched {
        key,
        what: What::Delta(delta),
    });
}

/// Puts that something is gone.
fn remove(key: PostgresKey, out: Out<'_>) {
    out(Touched {
        key,
        what: What::Removed,
    });
}

#[cfg(test)]
mod tests;
