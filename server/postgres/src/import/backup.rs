//! A base backup as its archives come: files first, then the WAL that is replayed onto them.

use std::io::Read;

use engine::types::Lsn;

use super::cluster_files::{ClusterFiles, FinishedFiles, Source, SourceFile};
use super::wal_stretch::{Until, WalStretch};
use super::{ImportError, ImportSink, ImportStart, ImportSummary};
use crate::data_files::{DataFile, WalSegmentName};
use crate::wal::WalStream;

/// Takes all that is in a backup.
pub(super) struct Backup {
    postgres_major: u16,
    part: Part,
    stretch: WalStretch,
}

/// How far it has come.
enum Part {
    Files(Box<ClusterFiles>),
    /// The last files are being put; stays if that fails.
    Between,
    Wal(Box<FinishedFiles>),
}

impl Backup {
    pub(super) fn new(start: ImportStart, replay_bytes_max: usize) -> Backup {
        let until = Until::BackupEnd {
            start: start.start_lsn,
        };
        Backup {
            postgres_major: start.postgres_major,
            part: Part::Files(Box::new(ClusterFiles::new(
                start,
                Source::AtWork,
                replay_bytes_max,
            ))),
            stretch: WalStretch::new(start.start_lsn, WalStream::of(&start), until),
        }
    }

    pub(super) fn postgres_major(&self) -> u16 {
        self.postgres_major
    }

    /// A tablespace made by a user.
    pub(super) fn tablespace(
        &mut self,
        tablespace: u32,
        path: &str,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        self.files(path)?.tablespace(tablespace, path, sink)
    }

    /// A file that is state.
    pub(super) fn file(
        &mut self,
        kind: DataFile,
        file: &SourceFile<'_>,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        self.files(file.path)?.file(kind, file, reader, sink)
    }

    /// A segment of WAL. With the first one that is wanted the files are complete.
    pub(super) fn segment(
        &mut self,
        timeline: u32,
        name: WalSegmentName,
        reader: &mut dyn Read,
        sink: &mut dyn ImportSink,
    ) -> Result<(), ImportError> {
        if !self.stretch.wants(timeline, name) {
            return Ok(());
        }
        let Backup { part, stretch, .. } = self;
        let finished = finished(part, sink)?;
        stretch.segment(name, reader, sink, &mut |record, sink| {
            finished.replay.record(record, sink)
        })
    }

    /// What is known at the end.
    pub(super) fn finish(
        mut self,
        sink: &mut dyn ImportSink,
    ) -> Result<ImportSummary, ImportError> {
        let stop = self.stretch.finish()?;
        finished(&mut self.part, sink)?;
        match self.part {
            Part::Wal(finished) => finished.complete(stop, sink),
            Part::Files(_) | Part::Between => unreachable!("just finished"),
        }
    }

    fn files(&mut self, path: &str) -> Result<&mut ClusterFiles, ImportError> {
        match &mut self.part {
            Part::Files(files) => Ok(files),
            Part::Wal(_) | Part::Between => Err(ImportError::MalformedFile {
                file: path.to_owned(),
                reason: "comes behind the WAL of the backup".to_owned(),
            }),
        }
    }
}

/// The files, which are complete.
fn finished<'p>(
    part: &'p mut Part,
    sink: &mut dyn ImportSink,
) -> Result<&'p mut FinishedFiles, ImportError> {
    *part = match std::mem::replace(part, Part::Between) {
        Part::Files(files) => Part::Wal(Box::new(files.finish(sink)?)),
        other => other,
    };
    match part {
        Part::Wal(finished) => Ok(finished),
        Part::Files(_) | Part::Between => unreachable!("an import that failed goes no further"),
    }
}

impl FinishedFiles {
    /// With no more WAL to come.
    pub(super) fn complete(
        self,
        stop: Lsn,
        sink: &mut dyn ImportSink,
    ) -> Result<ImportSummary, ImportError> {
        self.put_facts(stop, sink)?;
        let wal_records = self.replay.finish(stop, sink)?;
        Ok(ImportSummary {
            stop_lsn: stop,
            wal_records,
            ..self.summary
        })
    }
}
