//! The oracle for what no logged image shows: a standby of the same version that starts from the same files, replays
//! the same WAL and stops where we do. Its pages have to be ours byte for byte, page LSN, command ids and hint bits
//! included; only the checksum, the hole and the padding behind rows are not compared, a map page of zeros is as good as
//! an empty one, and the free space map is left out (it is not logged).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::postgres::TestCluster;
use engine::types::Lsn;
use postgres::control_file::ControlFile;
use postgres::key::{BlockTag, Fork, Relation};
use postgres::verify::{Page, Verifier};

const PAGE: usize = 8192;

/// A copy of a stopped cluster's files: what both the standby and our replay begin with.
pub struct Backup {
    data: PathBuf,
    /// Where its checkpoint's record begins: replay begins with it.
    pub start: Lsn,
}

/// How many pages of redo's proof by images were compared, and what was not the same.
#[derive(Default)]
pub struct Verdict {
    /// Pages compared.
    pub pages: u64,
    /// Pages of free space maps, which are not.
    pub free_space_pages: u64,
    /// What was not the same.
    pub differences: Vec<String>,
}

impl Backup {
    /// Copies the files of a cluster that was shut down.
    ///
    /// # Panics
    /// `cp` fails.
    pub fn of(cluster: &TestCluster) -> Backup {
        let data = cluster
            .make_folder("standby")
            .expect("a folder")
            .join("data");
        let status = std::process::Command::new("cp")
            .arg("-a")
            .args([&cluster.data_directory(), &data])
            .status()
            .expect("cp runs");
        assert!(status.success(), "the copy is whole");
        let control = control_file(&data);
        Backup {
            start: control.checkpoint_lsn,
            data,
        }
    }

    /// Unpacks what `pg_basebackup -Ft` wrote: a base backup and its WAL.
    ///
    /// # Panics
    /// `tar` fails.
    pub fn of_tars(cluster: &TestCluster, tars: &Path) -> Backup {
        Backup::named("standby", cluster, tars)
    }

    /// The same in a folder of this name.
    ///
    /// # Panics
    /// As [`of_tars`](Self::of_tars).
    pub fn named(name: &str, cluster: &TestCluster, tars: &Path) -> Backup {
        let data = cluster.make_folder(name).expect("a folder").join("data");
        fs::create_dir(&data).expect("a new folder");
        for (archive, folder) in [
            ("base.tar", data.clone()),
            ("pg_wal.tar", data.join("pg_wal")),
        ] {
            let status = std::process::Command::new("tar")
                .arg("-xf")
                .arg(tars.join(archive))
                .arg("-C")
                .arg(&folder)
                .status()
                .expect("tar runs");
            assert!(status.success(), "{archive} is whole");
        }
        // The server runs as whoever owns the primary's files.
        let own = std::process::Command::new("chown")
            .arg("-R")
            .arg(format!(
                "--reference={}",
                cluster.data_directory().display()
            ))
            .arg(&data)
            .status()
            .expect("chown runs");
        assert!(own.success(), "the files have their owner");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&data, private).expect("our own folder");
        Backup {
            start: control_file(&data).checkpoint.redo,
            data,
        }
    }

    /// Its folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// All its pages.
    ///
    /// # Panics
    /// They can't be read.
    pub fn pages(&self) -> Vec<(BlockTag, Box<Page>)> {
        pages_of(&self.data)
    }

    /// Replays the WAL in `pg_wal` of `primary`, which was shut down, up to its shutdown checkpoint, with a stock
    /// server of the same version.
    ///
    /// # Panics
    /// It does not stop there, or has not written its pages.
    pub fn replay(&self, primary: &TestCluster) {
        self.replay_until(
            primary,
            control_file(&primary.data_directory()).checkpoint_lsn,
        );
    }

    /// The same up to any LSN where a record begins. For its pages to be written a checkpoint has to lie between.
    ///
    /// # Panics
    /// As [`replay`](Self::replay).
    pub fn replay_until(&self, primary: &TestCluster, target: Lsn) {
        let settings = [
            format!("recovery_target_lsn={target}"),
            "recovery_target_inclusive=off".to_owned(),
        ];
        self.replay_with(primary, &settings);
    }

    /// The same up to a time, as `recovery_target_time` takes it: the first transaction that ended later is not there.
    ///
    /// # Panics
    /// As [`replay`](Self::replay).
    pub fn replay_until_time(&self, primary: &TestCluster, time: &str) {
        self.replay_with(primary, &[format!("recovery_target_time={time}")]);
    }

    fn replay_with(&self, primary: &TestCluster, target: &[String]) {
        fs::write(self.data.join("recovery.signal"), "").expect("a file");
        let wal = primary.data_directory().join("pg_wal");
        let log = self.data.parent().expect("a folder").join("standby.log");
        let socket = self.data.parent().expect("a folder");
        let mut command = primary.command("postgres");
        command.arg("-D").arg(&self.data);
        let common = [
            // A second name of the same file, which nobody writes to any more: runs leave gigabytes.
            format!("restore_command=ln \"{}/%f\" \"%p\"", wal.display()),
            "wal_recycle=off".to_owned(),
            "recovery_target_action=shutdown".to_owned(),
            "hot_standby=off".to_owned(),
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", socket.display()),
            "checkpoint_timeout=1d".to_owned(),
            "max_wal_size=100GB".to_owned(),
            "wal_consistency_checking=".to_owned(),
        ];
        for setting in common.iter().chain(target) {
            command.arg("-c").arg(setting);
        }
        let output = fs::File::create(&log).expect("a file");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .status()
            .expect("the standby runs");
        let said = fs::read_to_string(&log).expect("its log");
        for line in ["recovery stopping before", "restartpoint complete"] {
            assert!(
                said.contains(line),
                "no {line:?} in the standby's log:\n{said}"
            );
        }
    }

    /// Compares the pages of its files with those of our replay.
    ///
    /// # Panics
    /// They can't be read.
    pub fn compare(&self, ours: &Verifier) -> Verdict {
        let mut verdict = Verdict::default();
        let theirs: BTreeMap<BlockTag, Box<Page>> = pages_of(&self.data).into_iter().collect();
        for (tag, page) in &theirs {
            if tag.fork == Fork::FreeSpaceMap {
                verdict.free_space_pages += 1;
                continue;
            }
            verdict.pages += 1;
            let own = ours.page(tag).copied().unwrap_or([0; PAGE]);
            if let Some(at) = first_difference(&own, page, tag.fork) {
                let line = at / 16 * 16;
                verdict.differences.push(format!(
                    "{tag}: differs from byte {at} on: ours {:02x?}, theirs {:02x?}",
                    &own[line..line + 16],
                    &page[line..line + 16],
                ));
            }
        }
        // Pages that we have and they do not, of forks that they do have: a truncation that we missed.
        let mut forks = BTreeMap::new();
        for tag in theirs.keys() {
            forks.insert((tag.relation, tag.fork), tag.block);
        }
        for (tag, page) in ours.pages() {
            let last = forks.get(&(tag.relation, tag.fork));
            let is_zero = page.iter().all(|byte| *byte == 0);
            if tag.fork != Fork::FreeSpaceMap
                && last.is_some_and(|last| tag.block > *last)
                && !is_zero
            {
                verdict
                    .differences
                    .push(format!("{tag}: behind the end of their file"));
            }
        }
        verdict
    }
}

/// The control file of a data directory.
///
/// # Panics
/// It has none.
pub fn control_file(data: &Path) -> ControlFile {
    let bytes = fs::read(data.join("global/pg_control")).expect("control file");
    ControlFile::decode(&bytes).expect("control file")
}

/// The pages of all relations of a data directory, by its files' names.
///
/// # Panics
/// It can't be read.
pub fn pages_of(data: &Path) -> Vec<(BlockTag, Box<Page>)> {
    let mut pages = Vec::new();
    for (tablespace, database, folder) in relation_folders(data) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let Some((number, fork)) = relation_file(name) else {
                continue;
            };
            let relation = Relation {
                tablespace,
                database,
                number,
            };
            let content = fs::read(&path).expect("a file of a relation");
            for (block, page) in (0..).zip(content.chunks_exact(PAGE)) {
                let tag = BlockTag {
                    relation,
                    fork,
                    block,
                };
                pages.push((tag, Box::new(page.try_into().expect("a page"))));
            }
        }
    }
    pages
}

/// Number and fork; none of the relations here has a second segment file.
pub fn relation_file(name: &str) -> Option<(u32, Fork)> {
    let (number, suffix) = match name.find('_') {
        Some(at) => name.split_at(at),
        None => (name, ""),
    };
    let fork = Fork::ALL.into_iter().find(|fork| fork.suffix() == suffix)?;
    Some((number.parse().ok()?, fork))
}

/// Tablespace, database and folder, tablespaces within the data directory included.
///
/// # Panics
/// It can't be read.
pub fn relation_folders(data: &Path) -> Vec<(u32, u32, PathBuf)> {
    let mut folders = vec![(1664, 0, data.join("global"))];
    let numbered = |folder: &Path| -> Vec<(u32, PathBuf)> {
        let entries = fs::read_dir(folder).expect("a folder");
        entries
            .filter_map(|entry| {
                let path = entry.expect("an entry").path();
                let number = path.file_name()?.to_str()?.parse().ok()?;
                Some((number, path))
            })
            .collect()
    };
    for (database, folder) in numbered(&data.join("base")) {
        folders.push((1663, database, folder));
    }
    for (tablespace, folder) in numbered(&data.join("pg_tblspc")) {
        for version in fs::read_dir(folder).expect("a tablespace") {
            for (database, folder) in numbered(&version.expect("an entry").path()) {
                folders.push((tablespace, database, folder));
            }
        }
    }
    folders
}

/// The first byte at which two pages differ, but for what no replay can know.
pub fn first_difference(ours: &Page, theirs: &Page, fork: Fork) -> Option<usize> {
    let is_empty_map = |page: &Page| page[24..].iter().all(|byte| *byte == 0);
    if fork == Fork::VisibilityMap && is_empty_map(ours) && is_empty_map(theirs) {
        return None;
    }
    let mut own = *ours;
    own[8..10].copy_from_slice(&theirs[8..10]);
    let short = |at: usize| usize::from(u16::from_le_bytes([theirs[at], theirs[at + 1]]));
    let (lower, upper, special) = (short(12), short(14), short(16));
    let has_hole = lower > 24 && lower <= upper && upper <= special && special <= PAGE;
    if has_hole && fork == Fork::Main {
        own[lower..upper].copy_from_slice(&theirs[lower..upper]);
        for pointer in (24..lower).step_by(4) {
            let word = theirs[pointer..pointer + 4].try_into().expect("four bytes");
            let word = u32::from_le_bytes(word);
            let (at, bytes) = ((word & 0x7fff) as usize, (word >> 17) as usize);
            let end = at + bytes;
            // Only rows of tables, which have no special space, are of any length.
            if bytes > 0 && special == PAGE && at >= upper && end <= PAGE {
                let padded = end.next_multiple_of(8).min(PAGE);
                own[end..padded].copy_from_slice(&theirs[end..padded]);
            }
        }
    }
    (0..PAGE).find(|at| own[*at] != theirs[*at])
}
