//! Why a branch does not follow its primary at the moment, and whether trying again can help.

use engine::ReadError;
use engine::ingest::IngestError;
use engine::types::Lsn;
use engine::wal::WalError as LocalWalError;
use postgres::control_file::ControlFileError;
use postgres::record_versions::RecordVersionsError;
use postgres::replication::ReplicationError;
use postgres::touch::StateError;
use postgres::wal::WalError;

/// Why a branch does not follow its primary.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The engine: another writer, the store, the keys.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The state of the cluster can't be read from the branch.
    #[error("state of the branch: {0}")]
    Read(#[from] ReadError),
    /// A stored value of that state.
    #[error("state of the branch: {0}")]
    State(#[from] StateError),
    /// The stored control file.
    #[error("control file of the branch: {0}")]
    ControlFile(#[from] ControlFileError),
    /// The engine stops.
    #[error("the engine is stopping")]
    Stopping,
    /// The branch was not made from a cluster.
    #[error("the branch has no control file: it was not imported from a cluster")]
    NotACluster,
    /// The local WAL.
    #[error("local WAL: {0}")]
    LocalWal(#[from] LocalWalError),
    /// Its directory.
    #[error("local WAL: {0}")]
    Directory(std::io::Error),
    /// The primary, or the way to it.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// What the primary sent, or what was stored of it.
    #[error("WAL: {0}")]
    Wal(#[from] WalError),
    /// A record that can't be taken in.
    #[error(transparent)]
    Record(#[from] RecordVersionsError),
    /// WAL that does not go on from what is there.
    #[error("WAL goes on at {found}, wanted is {wanted}")]
    Gap {
        /// Where it begins.
        found: Lsn,
        /// Where it should.
        wanted: Lsn,
    },
    /// Another cluster.
    #[error(
        "the primary is another cluster: its system identifier is {found}, the branch's is {wanted}"
    )]
    OtherCluster {
        /// The primary's.
        found: u64,
        /// The branch's.
        wanted: u64,
    },
    /// The primary's history left ours before the end of what is there.
    #[error(
        "timeline {timeline} left ours at {at}, and there is WAL up to {end}: that tail is not in the primary's history"
    )]
    Forked {
        /// The new timeline.
        timeline: u32,
        /// Where it begins.
        at: Lsn,
        /// Where ours ends.
        end: Lsn,
    },
    /// The local WAL goes on from the object store's with an older timeline than another server did.
    #[error(
        "another server went on with timeline {timeline} at {at}: the local WAL up to {end} is of an older one, and in no history any more"
    )]
    LocalTail {
        /// The timeline in the object store.
        timeline: u32,
        /// Where the object store's WAL ends.
        at: Lsn,
        /// Where the local WAL does.
        end: Lsn,
    },
    /// The branch does not end where a record of the primary's does.
    #[error("the branch ends at {at}, and no record of the primary's WAL begins there: {source}")]
    NoRecord {
        /// Where it ends.
        at: Lsn,
        /// What is there.
        source: WalError,
    },
    /// Nothing more can be taken for a while.
    #[error("stalled: {0}")]
    Stalled(String),
}

impl FollowError {
    /// For `status`: why the branch (tenant/branch) does not follow, and what may help.
    pub fn reason(&self, branch: &str) -> String {
        match self.advice(branch) {
            Some(advice) => format!("{self}. {advice}"),
            None => self.to_string(),
        }
    }

    fn advice(&self, branch: &str) -> Option<String> {
        match self {
            FollowError::Forked { at, .. } => Some(format!(
                "To go on with it: `pageserver detach {branch}`, `pageserver branch restore {branch}@{at}`, which keeps what \
                 is there as a branch of its own, and attach again"
            )),
            FollowError::LocalTail { .. } => Some(
                "To go on without it, remove the branch's folder below `wal/` in the data directory and attach again".to_owned(),
            ),
            FollowError::OtherCluster { .. } => {
                Some("Attach the right one, or this one as a new branch".to_owned())
            }
            FollowError::NoRecord { .. } => Some(
                "A branch can go on with a primary from where one of its records ends, such as the end of its parent or \
                 where a timeline forked".to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether no later try can succeed without somebody doing something first.
    pub fn is_final(&self) -> bool {
        match self {
            FollowError::Ingest(error) => matches!(error, IngestError::Fenced { .. }),
            FollowError::State(_)
            | FollowError::ControlFile(_)
            | FollowError::NotACluster
            | FollowError::Wal(_)
            | FollowError::Record(_)
            | FollowError::Gap { .. }
            | FollowError::Forked { .. }
            | FollowError::LocalTail { .. }
            | FollowError::NoRecord { .. } => true,
            FollowError::LocalWal(error) => is_damage(error),
            FollowError::Read(_)
            | FollowError::Stopping
            | FollowError::Directory(_)
            | FollowError::Replication(_)
            | FollowError::OtherCluster { .. }
            | FollowError::Stalled(_) => false,
        }
    }
}

/// Whether the local WAL will not get better by itself.
fn is_damage(error: &LocalWalError) -> bool {
    !matches!(
        error,
        LocalWalError::Disk { .. }
            | LocalWalError::Key { .. }
            | LocalWalError::NewKey { .. }
            | LocalWalError::Full { .. }
    )
}
