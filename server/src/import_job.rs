//! One import: a source of key versions on one side, a new branch on the other. Talks to store and keys only, so it runs
//! beside a server or without one; nothing is visible before its last step.

use std::thread::Builder;

use engine::catalog::{
    BranchWriter, CatalogError, CommitFacts, LayerUploads, Tenant, WAL_PIECE_BYTES_MAX,
    WriterConfig,
};
use engine::layer::Value;
use engine::manifest::TimelineSpan;
use engine::store::StoreClient;
use engine::types::{BranchId, Key, Lsn};
use postgres::import::{
    ImportError, ImportSink, ImportSource, ImportStart, ImportSummary, SinkError,
};
use postgres::replication::ReplicationError;
use tokio::runtime::{Handle, Runtime};

use crate::catalog::ServerCatalog;
use crate::cpu::BlockingThreads;
use crate::exit::{Exit, Failure};

/// What an import became.
#[derive(Debug, Clone, Copy)]
pub struct Imported {
    /// The new branch.
    pub branch: BranchId,
    /// What the source said of itself.
    pub summary: ImportSummary,
}

/// Why there is no new branch.
#[derive(Debug, thiserror::Error)]
pub enum ImportJobError {
    /// The source, or what it was read into.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// No thread or runtime for it.
    #[error("start an import: {0}")]
    System(#[from] std::io::Error),
    /// The source ended without having begun.
    #[error("the source is empty")]
    Empty,
}

impl From<ImportJobError> for Failure {
    fn from(error: ImportJobError) -> Failure {
        match error {
            ImportJobError::Catalog(error) => error.into(),
            ImportJobError::Import(ImportError::Sink(error)) => {
                match error.downcast::<CatalogError>() {
                    Ok(error) => (*error).into(),
                    Err(error) => Failure::new(Exit::Other, error),
                }
            }
            ImportJobError::Import(error @ ImportError::CorruptPage { .. }) => {
                Failure::new(Exit::Corrupt, error)
            }
            ImportJobError::Import(
                error @ ImportError::Replication(
                    ReplicationError::Connect { .. } | ReplicationError::Lost(_),
                ),
            ) => Failure::new(Exit::Unavailable, error),
            ImportJobError::Import(error) => Failure::new(Exit::Refused, error),
            error @ (ImportJobError::System(_) | ImportJobError::Empty) => {
                Failure::new(Exit::Other, error)
            }
        }
    }
}

/// Imports `source` as a new branch called `name`; blocks until it is visible. `progress` hears how many bytes of the
/// source were read, and of how many if that is known; `replay_bytes_max` bounds the pages that the WAL of a backup changed in
/// memory; an error from it ends the import, with nothing visible.
pub fn run(
    catalog: &ServerCatalog,
    tenant: &str,
    name: &str,
    source: &ImportSource,
    replay_bytes_max: usize,
    progress: &mut dyn FnMut(u64, Option<u64>) -> Result<(), SinkError>,
) -> Result<Imported, ImportJobError> {
    let runtime = runtime()?;
    let tenant = runtime.block_on(catalog.find_tenant(tenant))?;
    if let Ok(id) = runtime.block_on(catalog.find_branch(&tenant, name)) {
        let name = if id.to_string() == name {
            id.to_string()
        } else {
            name.to_owned()
        };
        return Err(CatalogError::BranchExists {
            tenant: tenant.id(),
            name,
        }
        .into());
    }
    let mut sink = Sink {
        catalog,
        tenant,
        name,
        handle: runtime.handle().clone(),
        begun: None,
        wal: Wal::default(),
        replay_bytes_max,
        progress,
    };
    let summary = source.import(&mut sink)?;
    sink.flush_wal()?;
    let begun = sink.begun.take().ok_or(ImportJobError::Empty)?;
    let start = summary.start;
    let facts = CommitFacts {
        readable_from: summary.stop_lsn,
        last_lsn: summary.stop_lsn,
        base_backup: Some((start.timeline, start.start_lsn, summary.stop_lsn)),
    };
    let branch = runtime.block_on(begun.writer.commit(facts))?;
    Ok(Imported { branch, summary })
}

/// The thread that has layers sealed and hands them to the store threads, beside the one that reads the source.
pub(crate) fn spawn_uploads(uploads: LayerUploads<StoreClient>) -> std::io::Result<()> {
    let runtime = runtime()?;
    // It ends with its writer, which waits for it at the commit.
    Builder::new()
        .name("seal-layers".to_owned())
        .spawn(move || runtime.block_on(uploads.run(BlockingThreads)))?;
    Ok(())
}

/// A runtime for calls of the catalog, which themselves run on the store threads.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

struct Sink<'a> {
    catalog: &'a ServerCatalog,
    tenant: std::sync::Arc<Tenant>,
    name: &'a str,
    handle: Handle,
    begun: Option<Begun>,
    wal: Wal,
    replay_bytes_max: usize,
    progress: &'a mut dyn FnMut(u64, Option<u64>) -> Result<(), SinkError>,
}

struct Begun {
    writer: BranchWriter<StoreClient>,
    total_bytes: Option<u64>,
}

/// WAL collected into one object.
#[derive(Default)]
struct Wal {
    start: Lsn,
    bytes: Vec<u8>,
}

impl Sink<'_> {
    fn flush_wal(&mut self) -> Result<(), CatalogError> {
        let Some(begun) = &mut self.begun else {
            return Ok(());
        };
        if !self.wal.bytes.is_empty() {
            let put = begun.writer.put_wal(self.wal.start, &self.wal.bytes);
            self.handle.block_on(put)?;
            self.wal.bytes.clear();
        }
        Ok(())
    }
}

impl ImportSink for Sink<'_> {
    fn begin(&mut self, start: &ImportStart) -> Result<(), SinkError> {
        let timelines = vec![TimelineSpan {
            timeline: start.timeline,
            from: start.start_lsn,
            to: Lsn::MAX,
        }];
        let config = WriterConfig::default();
        let begin = self
            .catalog
            .begin_branch(&self.tenant, self.name, timelines, config);
        let (writer, uploads) = self.handle.block_on(begin)?;
        spawn_uploads(uploads)?;
        self.begun = Some(Begun {
            writer,
            total_bytes: start.total_bytes,
        });
        Ok(())
    }

    fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<(), SinkError> {
        let begun = self.begun.as_mut().expect("a source begins before it puts");
        let put = begun.writer.put(key, lsn, value);
        Ok(self.handle.block_on(put)?)
    }

    fn wal(&mut self, at: Lsn, mut bytes: &[u8]) -> Result<(), SinkError> {
        if self.wal.bytes.is_empty() {
            self.wal.start = at;
        }
        while !bytes.is_empty() {
            let room = WAL_PIECE_BYTES_MAX - self.wal.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.wal.bytes.extend_from_slice(now);
            bytes = later;
            if self.wal.bytes.len() == WAL_PIECE_BYTES_MAX {
                let next = self.wal.start.0 + WAL_PIECE_BYTES_MAX as u64;
                self.flush_wal()?;
                self.wal.start = Lsn(next);
            }
        }
        Ok(())
    }

    fn replay_bytes_max(&self) -> usize {
        self.replay_bytes_max
    }

    fn progress(&mut self, file_bytes_done: u64) -> Result<(), SinkError> {
        let total = self.begun.as_ref().and_then(|begun| begun.total_bytes);
        (self.progress)(file_bytes_done, total)
    }
}
