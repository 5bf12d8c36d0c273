//! Which segment, and its file: `<epoch, 8 hex>-<sequence, 16 hex>.wal`, and `.new` instead while it is made. Epochs are
//! claimed once; sequences grow by one with each attempt to make a segment, over all epochs whose files are there. So a
//! name does not come back. No name carries an LSN or a key.

use std::path::{Path, PathBuf};

/// A segment of a branch's WAL; in the order in which they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SegmentId {
    pub(super) epoch: u32,
    pub(super) sequence: u64,
}

/// What a file's name says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SegmentName {
    /// A segment.
    Made(SegmentId),
    /// One that was never finished.
    Unfinished(SegmentId),
}

impl SegmentId {
    /// Its file.
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}.wal"))
    }

    /// Its file while it is made.
    pub(super) fn unfinished_path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}.new"))
    }
}

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}-{:016x}", self.epoch, self.sequence)
    }
}

impl SegmentName {
    /// What `name` says, or `None` if no segment is called so: such files are left alone.
    pub(super) fn parse(name: &str) -> Option<SegmentName> {
        let (stem, kind) = name.split_once('.')?;
        let (epoch, sequence) = stem.split_once('-')?;
        let id = SegmentId {
            epoch: u32::try_from(hex(epoch, 8)?).ok()?,
            // The next one has a number, too.
            sequence: hex(sequence, 16).filter(|sequence| *sequence < u64::MAX)?,
        };
        match kind {
            "wal" => Some(SegmentName::Made(id)),
            "new" => Some(SegmentName::Unfinished(id)),
            _ => None,
        }
    }

    pub(super) fn id(self) -> SegmentId {
        match self {
            SegmentName::Made(id) | SegmentName::Unfinished(id) => id,
        }
    }
}

fn hex(text: &str, digits: usize) -> Option<u64> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (plain && text.len() == digits)
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_nobodys() {
        let id = SegmentId {
            epoch: 0xfe,
            sequence: 0x1234_5678_9abc,
        };
        let dir = Path::new("d");
        let path = id.path(dir);
        assert_eq!(path, Path::new("d/000000fe-0000123456789abc.wal"));
        for (path, name) in [
            (path, SegmentName::Made(id)),
            (id.unfinished_path(dir), SegmentName::Unfinished(id)),
        ] {
            let text = path.file_name().and_then(|name| name.to_str());
            assert_eq!(text.and_then(SegmentName::parse), Some(name));
        }
        for other in [
            "",
            "lost+found",
            "000000fe-0000123456789abc",
            "000000fe-0000123456789abc.wal.bak",
            "000000FE-0000123456789abc.wal",
            "00000fe-0000123456789abc.wal",
            "+00000fe-0000123456789abc.wal",
            "000000fe-ffffffffffffffff.wal",
        ] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
