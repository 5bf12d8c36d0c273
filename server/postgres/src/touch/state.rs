//! What has to be known of a cluster to tell what a record touches.

use std::collections::HashSet;

use super::control::Control;
use super::forks::Forks;
use super::slru::Slrus;
use crate::control_file::{ControlFile, ControlFileError};
use crate::key::{Fork, PostgresKey, Relation};
use crate::redo::DeltaScratch;
use crate::value::{
    CheckpointState, ClusterParameters, DatabaseBeginning, DatabaseDirectory, FormerBlocks,
    LatestEnd, RelationSize, ReplicationOrigin, SlruSegment, ValueError,
};

/// Sizes, segments and counters of a cluster as of a position in its WAL.
#[derive(Debug)]
pub struct ClusterState {
    pub(super) forks: Forks,
    pub(super) slrus: Slrus,
    pub(super) control: Control,
    pub(super) has_data_checksums: bool,
    pub(super) hint_bits_logged: bool,
    pub(super) delta_scratch: DeltaScratch,
    /// Directories (database, tablespace) that began as copies, with what they began with.
    copies: HashSet<(u32, u32)>,
}

/// A value that can't be taken into the state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// A small value.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The control file.
    #[error(transparent)]
    ControlFile(#[from] ControlFileError),
    /// A database that began as a copy: what it began with has to be loaded first, by
    /// [`load_copy`](ClusterState::load_copy).
    #[error("database {database} in tablespace {tablespace} began as a copy of what is not loaded")]
    Copy {
        /// The copy.
        database: u32,
        /// Its tablespace.
        tablespace: u32,
    },
}

impl ClusterState {
    /// An empty one, to be filled by [`load`](Self::load). The next transaction id is stored when it passes a
    /// multiple of `xid_step`; 1 stores every one.
    pub fn new(xid_step: u32) -> ClusterState {
        ClusterState {
            forks: Forks::default(),
            slrus: Slrus::default(),
            control: Control::new(xid_step),
            has_data_checksums: false,
            hint_bits_logged: false,
            delta_scratch: DeltaScratch::new(),
            copies: HashSet::new(),
        }
    }

    /// Takes over what a directory (database, tablespace) began with that is a copy: the stored values of the original's keys
    /// as of the copy's [beginning](DatabaseBeginning), of which only those of forks matter. Before
    /// [`load`](Self::load) is given what the copy has of its own.
    /// # Errors
    /// A value that does not decode.
    pub fn load_copy<'v>(
        &mut self,
        copy: (u32, u32),
        original: impl IntoIterator<Item = (PostgresKey, &'v [u8])>,
    ) -> Result<(), StateError> {
        self.copies.insert(copy);
        let copied = |relation: Relation| Relation {
            database: copy.0,
            tablespace: copy.1,
            ..relation
        };
        for (key, value) in original {
            match key {
                PostgresKey::RelationSize { relation, fork } => {
                    let relation = copied(relation);
                    self.load(PostgresKey::RelationSize { relation, fork }, value)?;
                }
                PostgresKey::FormerBlocks { relation, fork } => {
                    let relation = copied(relation);
                    self.load(PostgresKey::FormerBlocks { relation, fork }, value)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes over a stored value: all keys at one LSN, in their order, but for pages and chunks, which are ignored.
    /// # Errors
    /// A value that does not decode, or a database that began as a copy of what is [not
    /// loaded](Self::load_copy).
    pub fn load(&mut self, key: PostgresKey, value: &[u8]) -> Result<(), StateError> {
        if value.is_empty() {
            // Gone: also what a copy began with.
            if let PostgresKey::RelationSize { relation, fork } = key {
                self.forks.unload_size(relation, fork);
            }
            return Ok(());
        }
        match key {
            PostgresKey::RelationSize { relation, fork } => {
                let size = RelationSize::decode(value)?;
                self.forks.load_size(relation, fork, size);
            }
            PostgresKey::FormerBlocks { relation, fork } => {
                let former = FormerBlocks::decode(value)?;
                self.forks.load_former(relation, fork, former);
            }
            PostgresKey::DatabaseDirectory {
                database,
                tablespace,
            } => {
                let directory = DatabaseDirectory::decode(value)?;
                self.forks
                    .load_directory((database, tablespace), directory.is_own_tablespace);
            }
            PostgresKey::DatabaseBeginning {
                database,
                tablespace,
            } => {
                let is_copy = DatabaseBeginning::decode(value)?.copied_from.is_some();
                if is_copy && !self.copies.contains(&(database, tablespace)) {
                    return Err(StateError::Copy {
                        database,
                        tablespace,
                    });
                }
            }
            PostgresKey::SlruSegment { slru, segment } => {
                let value = SlruSegment::decode(value)?;
                self.slrus.load_segment(slru, segment, value);
            }
            PostgresKey::CheckpointState => {
                let checkpoint = CheckpointState::decode(value)?;
                self.slrus.load_next_multixact(checkpoint.next_multixact);
                self.control.load_checkpoint(checkpoint);
            }
            PostgresKey::ControlFile => {
                let control = ControlFile::decode(value)?;
                self.has_data_checksums = control.has_data_checksums();
                self.load_parameters(control.parameters);
            }
            PostgresKey::ClusterParameters => {
                self.load_parameters(ClusterParameters::decode(value)?);
            }
            PostgresKey::ReplicationOrigin { origin } => {
                let value = ReplicationOrigin::decode(value)?;
                self.control.load_origin(origin, value);
            }
            PostgresKey::LatestEnd => {
                self.control.load_latest_end(LatestEnd::decode(value)?);
            }
            PostgresKey::Block { .. }
            | PostgresKey::RelationMap { .. }
            | PostgresKey::Tablespace { .. }
            | PostgresKey::SlruPage { .. }
            | PostgresKey::TwoPhase { .. }
            | PostgresKey::PlainFile { .. }
            | PostgresKey::PlainFileChunk { .. }
            | PostgresKey::BackupFacts => {}
        }
        Ok(())
    }

    fn load_parameters(&mut self, parameters: ClusterParameters) {
        self.control.load_parameters(parameters);
        self.hint_bits_logged = self.has_data_checksums || parameters.wal_log_hints;
    }

    /// Blocks of a fork; `None` if there is no such fork.
    pub fn blocks(&self, relation: Relation, fork: Fork) -> Option<u32> {
        self.forks.blocks(relation, fork)
    }

    /// The counters as of the last record, the next transaction id exact.
    pub fn checkpoint(&self) -> &CheckpointState {
        self.control.checkpoint()
    }

    /// The parameters as of the last record.
    pub fn parameters(&self) -> &ClusterParameters {
        self.control.parameters()
    }
}
