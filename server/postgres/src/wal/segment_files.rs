//! The WAL segment files of a directory (`pg_wal`, or an archive) as one run of records.
//!
//! Files are named by timeline and number, 24 hex digits. Of each number the file of the wanted timeline is read, which
//! is the highest that is there unless one is named; the run begins with the first record that begins in its first
//! file and ends where a file is missing or where what is in it is no WAL of this run: a server keeps used-up files
//! under future names.
//!
//! The end of WAL and damage look alike: a server that was killed leaves half a record. But behind an end no page is of
//! this run, since a server that goes on writes over what it left. So if there is one the run is [damaged](WalDamage).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use engine::types::Lsn;

use super::decoder::{Decoded, WalDecoder};
use super::page_header::{LONG_HEADER_BYTES, SHORT_HEADER_BYTES, WAL_PAGE_BYTES, WalPageHeader};
use super::record::Record;
use super::stream::WalStream;
use super::version::WalVersion;

/// Why a directory cannot be read as WAL.
#[derive(Debug, thiserror::Error)]
pub enum SegmentFilesError {
    /// A file operation.
    #[error("{}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing named like a segment.
    #[error("{}: no WAL segment files", .0.display())]
    None(PathBuf),
    /// The first file is not WAL of a version that is known.
    #[error("{}: not a WAL segment of PostgreSQL 15 to 18", .0.display())]
    NotWal(PathBuf),
}

/// Records stop, and WAL goes on behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}, and WAL goes on at {goes_on_at}")]
pub struct WalDamage {
    /// What was found instead of a record, and where.
    pub what: String,
    /// Position of a page behind it that is whole at its beginning.
    pub goes_on_at: Lsn,
}

/// A run of segment files, read in pieces.
#[derive(Debug)]
pub struct SegmentFiles {
    directory: PathBuf,
    version: WalVersion,
    decoder: WalDecoder,
    timeline: u32,
    segment_bytes: u64,
    start: Lsn,
    /// The open file and the segment it is.
    open: Option<(u64, File)>,
    /// End of the last record.
    records_end: Lsn,
    /// Where reading was begun again.
    read_again_at: Option<Lsn>,
    end: Option<String>,
    damage: Option<WalDamage>,
}

impl SegmentFiles {
    /// Opens a directory, for its highest timeline if `timeline` names none.
    /// # Errors
    /// It cannot be read, or has no WAL.
    pub fn open(
        directory: &Path,
        timeline: Option<u32>,
    ) -> Result<SegmentFiles, SegmentFilesError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SegmentFilesError::File { path, source }
        };
        let mut names: Vec<(u32, String)> = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let entry = entry.map_err(failed(directory))?;
            if let Some(name) = entry.file_name().to_str()
                && let Some(timeline) = timeline_of(name)
            {
                names.push((timeline, name.to_owned()));
            }
        }
        let none = || SegmentFilesError::None(directory.to_owned());
        let highest = names.iter().map(|(timeline, _)| *timeline).max();
        let timeline = timeline.or(highest).ok_or_else(none)?;
        names.retain(|(of, _)| *of == timeline);
        let first = names.into_iter().map(|(_, name)| name).min();
        let path = directory.join(first.ok_or_else(none)?);
        let mut file = File::open(&path).map_err(failed(&path))?;
        let mut header = [0; LONG_HEADER_BYTES];
        file.read_exact(&mut header).map_err(failed(&path))?;
        let not_wal = || SegmentFilesError::NotWal(path.clone());
        let header = WalPageHeader::decode(&header).ok_or_else(not_wal)?;
        let long = header.long.ok_or_else(not_wal)?;
        let version = WalVersion::from_magic(header.magic).ok_or_else(not_wal)?;
        let sizes = SEGMENT_BYTES_LEAST..=SEGMENT_BYTES_MOST;
        if !sizes.contains(&long.segment_bytes) || !long.segment_bytes.is_power_of_two() {
            return Err(not_wal());
        }
        let start = first_record(&header);
        let stream = WalStream {
            system_identifier: long.system_identifier,
            version,
            timeline,
            segment_bytes: long.segment_bytes,
        };
        Ok(SegmentFiles {
            directory: directory.to_owned(),
            version,
            decoder: WalDecoder::new(stream, start),
            timeline,
            segment_bytes: u64::from(long.segment_bytes),
            start,
            open: None,
            records_end: start,
            read_again_at: None,
            end: None,
            damage: None,
        })
    }

    /// The version of the run.
    pub fn version(&self) -> WalVersion {
        self.version
    }

    /// Where the first record begins.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Which WAL it is.
    pub fn stream(&self) -> WalStream {
        *self.decoder.stream()
    }

    /// File name of the segment so many behind the first.
    pub fn segment_name(&self, number: u64) -> String {
        self.name_of(self.start.0 / self.segment_bytes + number)
    }

    /// Why the run ended where it did; `None` while it goes on.
    pub fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// Whether the run ended where it should not have; known once it ended.
    pub fn damage(&self) -> Option<&WalDamage> {
        self.damage.as_ref()
    }

    /// Hands every record of the run to `visit`. Files may be written meanwhile.
    /// # Errors
    /// A file that is there cannot be read, or what `visit` answers. Damage is not an error here: the run ends.
    pub fn for_each<E: From<SegmentFilesError>>(
        &mut self,
        mut visit: impl FnMut(&Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; CHUNK_BYTES];
        while self.end.is_none() {
            let bytes = self.read(&mut buffer)?;
            let mut rest = &buffer[..bytes];
            while !rest.is_empty() {
                match self.decoder.decode(rest) {
                    Ok(Decoded { consumed, record }) => {
                        if let Some(record) = record {
                            self.records_end = record.end;
                            visit(&record)?;
                        }
                        rest = &rest[consumed..];
                    }
                    Err(error) => {
                        self.stop(error.to_string(), self.decoder.position())?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the run at `position`, and tells whether that is an end. Where WAL goes on it is read once more from behind
    /// the last record: a server may just have been writing, and writes in order.
    fn stop(&mut self, what: String, position: Lsn) -> Result<(), SegmentFilesError> {
        if let Some(goes_on_at) = self.next_page(position)? {
            if self.read_again_at != Some(self.records_end) {
                self.read_again_at = Some(self.records_end);
                self.decoder = WalDecoder::new(*self.decoder.stream(), self.records_end);
                self.open = None;
                return Ok(());
            }
            let what = what.clone();
            self.damage = Some(WalDamage { what, goes_on_at });
        }
        self.end = Some(what);
        Ok(())
    }

    /// The first page of this run behind the one at `position`: in its own segment, or at the beginning of a later one.
    fn next_page(&self, position: Lsn) -> Result<Option<Lsn>, SegmentFilesError> {
        let page_bytes = WAL_PAGE_BYTES as u64;
        let next = (position.0 / page_bytes + 1) * page_bytes;
        let segment = position.0 / self.segment_bytes;
        let segment_end = (segment + 1) * self.segment_bytes;
        let path = self.directory.join(self.name_of(segment));
        if let Some(file) = existing(&path)? {
            for at in (next..segment_end).step_by(WAL_PAGE_BYTES) {
                if self.has_page(&file, &path, Lsn(at))? {
                    return Ok(Some(Lsn(at)));
                }
            }
        }
        let directory = |source| SegmentFilesError::File {
            path: self.directory.clone(),
            source,
        };
        let mut later = None;
        for entry in fs::read_dir(&self.directory).map_err(directory)? {
            let entry = entry.map_err(directory)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| self.number_of(name));
            let Some(number) = number.filter(|number| *number > segment) else {
                continue;
            };
            let at = Lsn(number * self.segment_bytes);
            let path = entry.path();
            if later.is_none_or(|later| at < later)
                && let Some(file) = existing(&path)?
                && self.has_page(&file, &path, at)?
            {
                later = Some(at);
            }
        }
        Ok(later)
    }

    /// Whether the file at `path` has the page of this run that begins at `at`.
    fn has_page(&self, file: &File, path: &Path, at: Lsn) -> Result<bool, SegmentFilesError> {
        let mut header = [0; LONG_HEADER_BYTES];
        match file.read_exact_at(&mut header, at.0 % self.segment_bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(source) => {
                let path = path.to_owned();
                return Err(SegmentFilesError::File { path, source });
            }
        }
        let header = WalPageHeader::decode(&header);
        Ok(header.is_some_and(|header| {
            let stream = self.decoder.stream();
            let is_same = header
                .long
                .is_none_or(|long| long.system_identifier == stream.system_identifier);
            header.magic == stream.version.magic() && header.lsn == at && is_same
        }))
    }

    /// Reads from where the decoder is; 0, and the end is set, if nothing is there.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SegmentFilesError> {
        let at = self.decoder.position();
        let segment = at.0 / self.segment_bytes;
        let path = self.directory.join(self.name_of(segment));
        let failed = |source| SegmentFilesError::File {
            path: path.clone(),
            source,
        };
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let Some(mut file) = existing(&path)? else {
                let why = format!("there is no file {}", self.name_of(segment));
                self.stop(why, at)?;
                return Ok(0);
            };
            let offset = io::SeekFrom::Start(at.0 % self.segment_bytes);
            io::Seek::seek(&mut file, offset).map_err(failed)?;
            self.open = Some((segment, file));
        }
        let (_, file) = self.open.as_mut().expect("just opened");
        let left = self.segment_bytes - at.0 % self.segment_bytes;
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let bytes = file.read(&mut buffer[..wanted]).map_err(failed)?;
        if bytes == 0 {
            self.stop(format!("{} ends early", path.display()), at)?;
        }
        Ok(bytes)
    }

    /// The number of the segment that a file of this run's timeline is.
    fn number_of(&self, name: &str) -> Option<u64> {
        if timeline_of(name) != Some(self.timeline) {
            return None;
        }
        let high = u64::from_str_radix(&name[8..16], 16).ok()?;
        let low = u64::from_str_radix(&name[16..], 16).ok()?;
        Some(high * ((1 << 32) / self.segment_bytes) + low)
    }

    fn name_of(&self, segment: u64) -> String {
        let per_id = (1 << 32) / self.segment_bytes;
        format!(
            "{:08X}{:08X}{:08X}",
            self.timeline,
            segment / per_id,
            segment % per_id
        )
    }
}

/// Opens a file; `None` if there is none: a server renames those that it has used up.
fn existing(path: &Path) -> Result<Option<File>, SegmentFilesError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SegmentFilesError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The timeline in the name of a segment file.
fn timeline_of(name: &str) -> Option<u32> {
    let is_hex = name
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    if name.len() != 24 || !is_hex {
        return None;
    }
    u32::from_str_radix(&name[..8], 16).ok()
}

/// Where the first record begins of a segment that begins with these bytes, its header at least; `None` if they are no
/// beginning of one.
pub(crate) fn first_record_of_segment(bytes: &[u8]) -> Option<Lsn> {
    let header = WalPageHeader::decode(bytes.get(..LONG_HEADER_BYTES)?)?;
    header.long.is_some().then(|| first_record(&header))
}

/// Where the first record begins behind the page with this header: past what continues from the segment before.
fn first_record(header: &WalPageHeader) -> Lsn {
    let page = WAL_PAGE_BYTES as u64;
    let mut left = u64::from(header.continued_bytes.unwrap_or(0)).next_multiple_of(8);
    let mut at = header.lsn.0;
    let mut header_bytes = LONG_HEADER_BYTES as u64;
    while left >= page - header_bytes {
        left -= page - header_bytes;
        at += page;
        header_bytes = SHORT_HEADER_BYTES as u64;
    }
    Lsn(at + header_bytes + left)
}

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// What `initdb` allows.
const SEGMENT_BYTES_LEAST: u32 = 1 << 20;
const SEGMENT_BYTES_MOST: u32 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(continued_bytes: Option<u32>) -> WalPageHeader {
        WalPageHeader {
            magic: WalVersion::V15.magic(),
            unknown_flags: 0,
            timeline: 1,
            lsn: Lsn(0x100_0000),
            continued_bytes,
            overwrites_unfinished: false,
            long: None,
        }
    }

    #[test]
    fn the_first_record_is_behind_what_continues() {
        assert_eq!(first_record(&header(None)), Lsn(0x100_0028));
        assert_eq!(first_record(&header(Some(13))), Lsn(0x100_0038));
        let whole_page = 8192 - 40;
        let next = Lsn(0x100_2018);
        assert_eq!(first_record(&header(Some(whole_page))), next);
        let after = Lsn(0x100_4020);
        assert_eq!(first_record(&header(Some(whole_page + 8168 + 1))), after);
    }

    #[test]
    fn only_segments_have_a_timeline() {
        assert_eq!(timeline_of("0000000A0000000000000003"), Some(10));
        assert_eq!(timeline_of("0000000A.history"), None);
        assert_eq!(timeline_of("000000010000000000000003.partial"), None);
    }
}
