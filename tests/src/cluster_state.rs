//! State of a cluster that is no page of a relation, part by part: as files show it, or as our replay has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::fs;
use std::path::Path;

use engine::types::{Lsn, PAGE_BYTES};
use postgres::key::{CHUNK_BYTES, Fork, PostgresKey, Relation, Slru};
use postgres::value::{
    DatabaseDirectory, RelationSize, ReplicationOrigin, SlruSegment, Tablespace,
};

use crate::standby::{relation_file, relation_folders};

/// What a version of a key, and the file that shows it, is a part of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// Pages of relations, and what comes with them: lengths of forks.
    Pages,
    /// Which forks there are.
    Forks,
    /// Commit status, multixacts, commit timestamps.
    Slrus,
    /// Which files system catalogs have.
    RelationMaps,
    /// Folders of databases in tablespaces.
    Directories,
    /// Where they are.
    Tablespaces,
    /// Files of prepared transactions.
    TwoPhase,
    /// Replication origins.
    Origins,
    /// What checkpoints tell, and the parameters.
    Counters,
}

impl Part {
    /// Of which part a key is; `None` for what no record changes and for hints.
    pub fn of(key: &PostgresKey) -> Option<Part> {
        match key {
            PostgresKey::Block { fork, .. } | PostgresKey::FormerBlocks { fork, .. } => {
                (*fork != Fork::FreeSpaceMap).then_some(Part::Pages)
            }
            PostgresKey::RelationSize { fork, .. } => {
                (*fork != Fork::FreeSpaceMap).then_some(Part::Forks)
            }
            PostgresKey::SlruPage { .. } | PostgresKey::SlruSegment { .. } => Some(Part::Slrus),
            PostgresKey::RelationMap { .. } => Some(Part::RelationMaps),
            PostgresKey::DatabaseDirectory { .. } | PostgresKey::DatabaseBeginning { .. } => {
                Some(Part::Directories)
            }
            PostgresKey::Tablespace { .. } => Some(Part::Tablespaces),
            PostgresKey::TwoPhase { .. } => Some(Part::TwoPhase),
            PostgresKey::ReplicationOrigin { .. } => Some(Part::Origins),
            PostgresKey::CheckpointState | PostgresKey::ClusterParameters => Some(Part::Counters),
            PostgresKey::ControlFile
            | PostgresKey::PlainFile { .. }
            | PostgresKey::PlainFileChunk { .. }
            | PostgresKey::BackupFacts
            | PostgresKey::LatestEnd => None,
        }
    }
}

/// All parts but pages and counters.
#[derive(Default)]
pub struct Files {
    /// Forks but free space maps, and their blocks.
    pub forks: BTreeMap<(Relation, Fork), u32>,
    /// Whole segments.
    pub slrus: BTreeMap<(Slru, u64), Vec<u8>>,
    /// By database and tablespace.
    pub maps: BTreeMap<(u32, u32), Vec<u8>>,
    /// By database and tablespace, whether it has the `PG_VERSION` of a database's own tablespace.
    pub directories: BTreeMap<(u32, u32), bool>,
    /// Where they are.
    pub tablespaces: BTreeMap<u32, String>,
    /// By transaction.
    pub two_phase: BTreeMap<u64, Vec<u8>>,
    /// How far each has come in its publisher's WAL: our own LSN is in no file.
    pub origins: BTreeMap<u16, Lsn>,
}

impl Files {
    /// What is in a data directory.
    ///
    /// # Panics
    /// It can't be read.
    pub fn read(data: &Path) -> Files {
        let mut files = Files::default();
        for (tablespace, database, folder) in relation_folders(data) {
            files.read_folder(tablespace, database, &folder);
        }
        for slru in Slru::ALL {
            for (name, content) in contents(&data.join(slru.directory())) {
                let segment = u64::from_str_radix(&name, 16).expect("a segment's number");
                files.slrus.insert((slru, segment), content);
            }
        }
        for (name, content) in contents(&data.join("pg_twophase")) {
            let xid = u64::from_str_radix(&name, 16).expect("a transaction's number");
            files.two_phase.insert(xid, content);
        }
        for entry in fs::read_dir(data.join("pg_tblspc")).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.expect("a number");
            let place = match fs::read_link(&path) {
                Ok(target) => target.display().to_string(),
                Err(_) => format!("pg_tblspc/{name}"),
            };
            let number = name.parse().expect("a number");
            files.tablespaces.insert(number, place);
        }
        let origins = fs::read(data.join("pg_logical/replorigin_checkpoint"));
        let origins = origins.unwrap_or_default();
        // Between a magic number and a checksum.
        let entries = origins.get(4..origins.len().saturating_sub(4));
        for entry in entries.unwrap_or_default().chunks_exact(16) {
            let number = u16::from_le_bytes([entry[0], entry[1]]);
            let lsn = entry[8..].try_into().expect("eight bytes");
            files.origins.insert(number, Lsn(u64::from_le_bytes(lsn)));
        }
        files
    }

    /// The same of versions of keys, each the newest.
    ///
    /// # Panics
    /// A value does not decode.
    pub fn of_values(values: &BTreeMap<PostgresKey, Vec<u8>>) -> Files {
        let mut files = Files::default();
        for (key, value) in values {
            match *key {
                PostgresKey::RelationSize { relation, fork } if fork != Fork::FreeSpaceMap => {
                    let blocks = RelationSize::decode(value).expect("a size").blocks;
                    files.forks.insert((relation, fork), blocks);
                }
                PostgresKey::SlruSegment { slru, segment } => {
                    let pages = SlruSegment::decode(value).expect("a segment").pages;
                    let mut content = Vec::new();
                    for block in 0..pages {
                        let page = PostgresKey::SlruPage {
                            slru,
                            segment,
                            block,
                        };
                        let page = values.get(&page).map(Vec::as_slice);
                        content.extend(page.unwrap_or(&[0; PAGE_BYTES]));
                    }
                    files.slrus.insert((slru, segment), content);
                }
                PostgresKey::RelationMap {
                    database,
                    tablespace,
                } => {
                    files.maps.insert((database, tablespace), value.clone());
                }
                PostgresKey::DatabaseDirectory {
                    database,
                    tablespace,
                } => {
                    let directory = DatabaseDirectory::decode(value).expect("a directory");
                    let place = (database, tablespace);
                    files.directories.insert(place, directory.is_own_tablespace);
                }
                PostgresKey::Tablespace { tablespace } => {
                    let path = Tablespace::decode(value).expect("a tablespace").path;
                    files.tablespaces.insert(tablespace, path);
                }
                PostgresKey::TwoPhase { xid, chunk: 0 } => {
                    files.two_phase.insert(xid, two_phase(values, xid));
                }
                PostgresKey::ReplicationOrigin { origin } => {
                    let value = ReplicationOrigin::decode(value).expect("an origin");
                    files.origins.insert(origin, value.remote_lsn);
                }
                _ => {}
            }
        }
        files
    }

    fn read_folder(&mut self, tablespace: u32, database: u32, folder: &Path) {
        if database != 0 {
            let is_own = folder.join("PG_VERSION").is_file();
            self.directories.insert((database, tablespace), is_own);
        }
        if let Ok(map) = fs::read(folder.join("pg_filenode.map")) {
            self.maps.insert((database, tablespace), map);
        }
        let mut forks = BTreeMap::new();
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some((number, fork)) = name.and_then(relation_file) else {
                continue;
            };
            let bytes = fs::metadata(&path).expect("a file").len();
            let blocks = u32::try_from(bytes / PAGE_BYTES as u64).expect("a short file");
            forks.insert((number, fork), blocks);
        }
        // Of an unlogged relation only what it is reset to is state.
        let unlogged: BTreeSet<u32> = forks
            .keys()
            .filter(|(_, fork)| *fork == Fork::Init)
            .map(|(number, _)| *number)
            .collect();
        for ((number, fork), blocks) in forks {
            let is_state = fork == Fork::Init || !unlogged.contains(&number);
            if fork != Fork::FreeSpaceMap && is_state {
                let relation = Relation {
                    tablespace,
                    database,
                    number,
                };
                self.forks.insert((relation, fork), blocks);
            }
        }
    }
}

/// Its chunks up to the first that is not full.
fn two_phase(values: &BTreeMap<PostgresKey, Vec<u8>>, xid: u64) -> Vec<u8> {
    let mut content = Vec::new();
    for chunk in 0.. {
        let value = values.get(&PostgresKey::TwoPhase { xid, chunk });
        let value = value.expect("a last chunk");
        content.extend(value);
        if value.len() < CHUNK_BYTES {
            break;
        }
    }
    content
}

/// Names and contents of a folder's files.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder");
    let files = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file());
    files
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let content = fs::read(&path).expect("a file");
            (name.expect("a plain name").to_owned(), content)
        })
        .collect()
}

/// What was compared, and what was not the same.
#[derive(Default)]
pub struct Comparison {
    compared: BTreeMap<Part, u64>,
    /// What was not the same.
    pub differences: Vec<(Part, String)>,
}

impl Comparison {
    /// Compares ours with theirs, without lengths of forks and without visibility maps, which come with the pages.
    pub fn of(ours: &Files, theirs: &Files) -> Comparison {
        let mut all = Comparison::default();
        let names = |forks: &BTreeMap<(Relation, Fork), u32>| -> BTreeMap<_, _> {
            let made = |(_, fork): &&(Relation, Fork)| *fork != Fork::VisibilityMap;
            forks.keys().filter(made).map(|fork| (*fork, ())).collect()
        };
        all.maps(Part::Forks, &names(&ours.forks), &names(&theirs.forks));
        all.maps(Part::Slrus, &ours.slrus, &theirs.slrus);
        all.maps(Part::RelationMaps, &ours.maps, &theirs.maps);
        all.maps(Part::Directories, &ours.directories, &theirs.directories);
        all.maps(Part::Tablespaces, &ours.tablespaces, &theirs.tablespaces);
        all.maps(Part::TwoPhase, &ours.two_phase, &theirs.two_phase);
        all.maps(Part::Origins, &ours.origins, &theirs.origins);
        all
    }

    /// Compares two maps of one part.
    pub fn maps<K: Ord + Debug, V: Shown>(
        &mut self,
        part: Part,
        ours: &BTreeMap<K, V>,
        theirs: &BTreeMap<K, V>,
    ) {
        let keys: BTreeSet<&K> = ours.keys().chain(theirs.keys()).collect();
        for key in keys {
            self.count(part);
            match (ours.get(key), theirs.get(key)) {
                (Some(own), Some(their)) if own == their => {}
                (Some(own), Some(their)) => {
                    let what = own.differs(their);
                    self.differ(part, format!("{key:?}: {what}"));
                }
                (Some(_), None) => self.differ(part, format!("{key:?}: only ours")),
                (None, _) => self.differ(part, format!("{key:?}: only theirs")),
            }
        }
    }

    /// Compares one field.
    pub fn field<T: PartialEq + Debug>(&mut self, name: &str, ours: T, theirs: T) {
        self.count(Part::Counters);
        if ours != theirs {
            self.differ(
                Part::Counters,
                format!("{name}: ours {ours:?}, theirs {theirs:?}"),
            );
        }
    }

    /// Counts one comparison.
    pub fn count(&mut self, part: Part) {
        *self.compared.entry(part).or_default() += 1;
    }

    /// Notes a difference.
    pub fn differ(&mut self, part: Part, what: String) {
        self.differences.push((part, what));
    }

    /// Whether there was something of this part, and all of it the same.
    pub fn proves(&self, part: Part) -> bool {
        self.compared.contains_key(&part) && self.differences.iter().all(|(of, _)| *of != part)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.compared)
    }
}

/// Values that can say how they differ.
pub trait Shown: PartialEq {
    /// How, in words.
    fn differs(&self, theirs: &Self) -> String;
}

impl Shown for Vec<u8> {
    fn differs(&self, theirs: &Self) -> String {
        let line = |bytes: &[u8], at: usize| {
            let from = at / 16 * 16;
            format!(
                "{:02x?}",
                &bytes[from.min(bytes.len())..bytes.len().min(from + 16)]
            )
        };
        let shorter = self.len().min(theirs.len());
        let at = (0..shorter).find(|at| self[*at] != theirs[*at]);
        match at {
            Some(at) => format!(
                "differs at byte {at}: ours {}, theirs {}",
                line(self, at),
                line(theirs, at)
            ),
            None => format!("ours has {} bytes, theirs {}", self.len(), theirs.len()),
        }
    }
}

macro_rules! shown {
    ($($of:ty),*) => {
        $(impl Shown for $of {
            fn differs(&self, theirs: &Self) -> String {
                format!("ours {self:?}, theirs {theirs:?}")
            }
        })*
    };
}

shown!((), u32, bool, String, Lsn);
