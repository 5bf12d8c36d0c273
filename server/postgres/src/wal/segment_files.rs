//! The WAL segment files of a directory (`pg_wal`, or an archive) as one run of records.
//!
//! Files are named by timeline and number, 24 hex digits. Of each number the file of the wanted timeline is read, which
//! is the highest that is there unless one is named; the run begins with the first record that begins in its first
//! file and ends where a file is missing or where what is in it is no WAL of this run: a server keeps used-up files
//! under future names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use engine::types::Lsn;

use super::decoder::{Decoded, WalDecoder, WalStream};
use super::page_header::{LONG_HEADER_BYTES, SHORT_HEADER_BYTES, WAL_PAGE_BYTES, WalPageHeader};
use super::record::Record;
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
    end: Option<String>,
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
            end: None,
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

    /// Hands every record of the run to `visit`.
    /// # Errors
    /// A file that is there cannot be read, or what `visit` answers.
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
                            visit(&record)?;
                        }
                        rest = &rest[consumed..];
                    }
                    Err(error) => {
                        self.end = Some(error.to_string());
                        break;
                    }
                }
            }
        }
        Ok(())
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
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.end = Some(format!("there is no file {}", self.name_of(segment)));
                    return Ok(0);
                }
                Err(error) => return Err(failed(error)),
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
            self.end = Some(format!("{} ends early", path.display()));
        }
        Ok(bytes)
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
