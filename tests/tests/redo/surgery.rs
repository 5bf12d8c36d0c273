//! Changes to the files of a stopped cluster that no server command makes in a test's time.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use postgres::control_file::ControlFile;

/// Makes `next_xid` the next transaction id, as `pg_resetwal -x -e` does.
///
/// # Panics
/// The cluster was not shut down.
pub(crate) fn set_next_xid(data: &Path, next_xid: u64) {
    set_in_checkpoint(data, NEXT_XID_AT, &next_xid.to_le_bytes());
}

/// Makes `next_oid` the next oid, as `pg_resetwal -o` does: what is used is passed over.
///
/// # Panics
/// The cluster was not shut down.
pub(crate) fn set_next_oid(data: &Path, next_oid: u32) {
    set_in_checkpoint(data, NEXT_OID_AT, &next_oid.to_le_bytes());
}

/// Makes `next` the next multixact and `next_offset` that of its members, as `pg_resetwal -m -O` does. Both have to be the
/// first of a page, which the server then makes.
///
/// # Panics
/// The cluster was not shut down.
pub(crate) fn set_next_multixact(data: &Path, next: u32, next_offset: u32) {
    let fields = [next.to_le_bytes(), next_offset.to_le_bytes()].concat();
    set_in_checkpoint(data, NEXT_MULTIXACT_AT, &fields);
}

/// Changes the shutdown checkpoint's record and the control file's copy of it.
fn set_in_checkpoint(data: &Path, at_field: usize, value: &[u8]) {
    let path = data.join("global/pg_control");
    let mut bytes = fs::read(&path).expect("control file");
    let control = ControlFile::decode(&bytes).expect("control file");
    bytes[CHECKPOINT_AT + at_field..][..value.len()].copy_from_slice(value);
    let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    let crc_at = if version == 1800 { 292 } else { 288 };
    let crc = crc32c::crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).expect("control file");

    let wal = Wal {
        directory: data.join("pg_wal"),
        timeline: control.checkpoint.timeline,
        segment_bytes: u64::from(control.wal_segment_bytes),
    };
    let lsn = control.checkpoint_lsn.0;
    let length = wal.read(lsn, size_of::<u32>());
    let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
    let mut record = wal.read(lsn, usize::try_from(length).expect("a short record"));
    let main_at = RECORD_HEADER_BYTES + 2;
    record[main_at + at_field..][..value.len()].copy_from_slice(value);
    let crc = crc32c::crc32c(&record[RECORD_HEADER_BYTES..]);
    let crc = crc32c::crc32c_append(crc, &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    wal.write(lsn, &record);
}

/// The WAL files of one timeline: bytes of records, without the page headers between them.
struct Wal {
    directory: PathBuf,
    timeline: u32,
    segment_bytes: u64,
}

impl Wal {
    fn read(&self, lsn: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (lsn, piece) in self.pieces(lsn, length) {
            self.file(lsn)
                .read_exact_at(&mut bytes[piece], lsn % self.segment_bytes)
                .expect("read");
        }
        bytes
    }

    fn write(&self, lsn: u64, bytes: &[u8]) {
        for (lsn, piece) in self.pieces(lsn, bytes.len()) {
            self.file(lsn)
                .write_all_at(&bytes[piece], lsn % self.segment_bytes)
                .expect("written");
        }
    }

    /// Where the bytes of a record lie, page by page.
    fn pieces(&self, mut lsn: u64, length: usize) -> Vec<(u64, Range<usize>)> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < length {
            if lsn.is_multiple_of(self.segment_bytes) {
                lsn += LONG_HEADER_BYTES;
            } else if lsn.is_multiple_of(PAGE_BYTES) {
                lsn += HEADER_BYTES;
            }
            let left = PAGE_BYTES - lsn % PAGE_BYTES;
            let take = usize::try_from(left).expect("a page").min(length - done);
            pieces.push((lsn, done..done + take));
            done += take;
            lsn += take as u64;
        }
        pieces
    }

    fn file(&self, lsn: u64) -> fs::File {
        let name = segment_name(self.timeline, lsn / self.segment_bytes, self.segment_bytes);
        fs::File::options()
            .read(true)
            .write(true)
            .open(self.directory.join(name))
            .expect("a WAL segment")
    }
}

/// Removes what is behind the first segment that holds `from`: a crash that lost the end of a record.
///
/// # Panics
/// Nothing is behind it.
pub(crate) fn lose_wal_behind(data: &Path, from: u64) {
    let kept = segment_name(1, from / SEGMENT_BYTES, SEGMENT_BYTES);
    let mut lost = 0;
    for entry in fs::read_dir(data.join("pg_wal")).expect("pg_wal") {
        let path: PathBuf = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.len() == 24 && name > kept.as_str() {
            fs::remove_file(path).expect("removed");
            lost += 1;
        }
    }
    assert!(lost > 0, "the record ended within its first segment");
}

fn segment_name(timeline: u32, segment: u64, segment_bytes: u64) -> String {
    let per_id = (1 << 32) / segment_bytes;
    format!(
        "{timeline:08X}{:08X}{:08X}",
        segment / per_id,
        segment % per_id
    )
}

/// `initdb`'s default.
const SEGMENT_BYTES: u64 = 16 << 20;
const RECORD_HEADER_BYTES: usize = 24;
const PAGE_BYTES: u64 = 8192;
/// Of a page of WAL; the first of a segment has the long one.
const HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;
/// Of the copy of the checkpoint in the control file.
const CHECKPOINT_AT: usize = 40;
/// In a checkpoint.
const NEXT_XID_AT: usize = 24;
const NEXT_OID_AT: usize = 32;
/// The offset is behind it.
const NEXT_MULTIXACT_AT: usize = 36;
