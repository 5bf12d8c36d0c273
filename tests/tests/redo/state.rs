//! Our replay of everything: every key's newest version, made of what `touch` says of each record, from the values that an
//! import of the files finds.

use std::collections::BTreeMap;
use std::path::Path;

use engine::types::PAGE_BYTES;
use harness::postgres::MapSink;
use postgres::import::ImportSource;
use postgres::key::{BlockTag, Fork, PostgresKey, Relation, Slru};
use postgres::redo::redo;
use postgres::touch::{ClusterState, What, touched};
use postgres::value::{CheckpointState, DatabaseBeginning, RelationSize};
use postgres::verify::Page;
use postgres::wal::Record;

use crate::standby::{control_file, first_difference, pages_of, relation_file, relation_folders};

/// The newest version of every key.
pub(crate) struct State {
    values: BTreeMap<PostgresKey, Vec<u8>>,
    cluster: ClusterState,
    /// Pages that redo failed on, and why.
    pub(crate) failures: Vec<String>,
}

impl State {
    /// As an import of a stopped data directory finds it.
    pub(crate) fn import(data: &Path) -> State {
        let mut sink = MapSink::default();
        let source = ImportSource::of_path(data).expect("a data directory");
        source.import(&mut sink).expect("an import");
        let mut cluster = ClusterState::new(1);
        for (key, value) in &sink.values {
            cluster.load(*key, value).expect("values of the import");
        }
        State {
            values: sink.values,
            cluster,
            failures: Vec::new(),
        }
    }

    /// Takes what a record makes.
    pub(crate) fn observe(&mut self, record: &Record<'_>) {
        let (values, failures) = (&mut self.values, &mut self.failures);
        let mut copies = Vec::new();
        touched(record, &mut self.cluster, &mut |version| {
            let key = version.key;
            match version.what {
                What::Delta(delta) => {
                    let page = values.entry(key).or_insert_with(|| vec![0; PAGE_BYTES]);
                    let page = page.as_mut_slice().try_into().expect("a page");
                    if let Err(failure) = redo(&delta, page) {
                        failures.push(format!("{key:?}: {failure}"));
                    }
                }
                What::Value(value) => {
                    if let PostgresKey::DatabaseBeginning {
                        database,
                        tablespace,
                    } = key
                    {
                        let beginning = DatabaseBeginning::decode(value).expect("a beginning");
                        copies.push(((database, tablespace), beginning.copied_from));
                    }
                    // A fork that begins anew shows nothing of its former life.
                    if let PostgresKey::RelationSize { relation, fork } = key
                        && RelationSize::decode(value).expect("a size").blocks == 0
                    {
                        remove_blocks(values, relation, fork);
                    }
                    values.insert(key, value.to_vec());
                }
                What::Removed => {
                    if let PostgresKey::RelationSize { relation, fork } = key {
                        remove_blocks(values, relation, fork);
                    }
                    if let PostgresKey::DatabaseDirectory {
                        database,
                        tablespace,
                    } = key
                    {
                        // What is in a directory goes with it.
                        values.retain(|key, _| {
                            moved(*key, (0, 0)).is_none_or(|(at, _)| at != (database, tablespace))
                        });
                    }
                    values.remove(&key);
                }
            }
        })
        .expect("records of known kinds");
        for (to, from) in copies {
            self.begin_database(to, from);
        }
    }

    /// What a copy of a database has no version of is the original's.
    fn begin_database(&mut self, to: (u32, u32), from: Option<(u32, u32)>) {
        let copied: Vec<_> = self
            .values
            .iter()
            .filter_map(|(key, value)| {
                let (at, moved) = moved(*key, to)?;
                (Some(at) == from).then(|| (moved, value.clone()))
            })
            .collect();
        for (key, value) in copied {
            self.values.insert(key, value);
        }
    }

    /// What is not as in the standby's files.
    pub(crate) fn compare(&self, standby: &Path, primary: &Path) -> Vec<String> {
        let mut out: Vec<String> = self.failures.iter().take(10).cloned().collect();
        let mut n = std::collections::BTreeMap::<&str, u32>::new();
        // pages and sizes
        let pages = pages_of(standby);
        let mut ends: BTreeMap<(Relation, Fork), u32> = BTreeMap::new();
        for (tablespace, database, folder) in relation_folders(standby) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let name = path
                    .file_name()
                    .and_then(|n| n.to_str())
                    .unwrap_or_default();
                if let Some((number, fork)) = relation_file(name) {
                    let blocks = std::fs::metadata(&path).expect("a file").len() / 8192;
                    ends.insert(
                        (
                            Relation {
                                tablespace,
                                database,
                                number,
                            },
                            fork,
                        ),
                        u32::try_from(blocks).expect("small"),
                    );
                }
            }
        }
        for (tag, theirs) in &pages {
            if tag.fork == Fork::FreeSpaceMap {
                continue;
            }
            *n.entry("pages").or_default() += 1;
            match self.page(tag) {
                None => out.push(format!("{tag}: we have no such page")),
                Some(own) => {
                    if let Some(at) = first_difference(&own, theirs, tag.fork) {
                        out.push(format!("{tag}: differs at {at}"));
                    }
                }
            }
        }
        for ((relation, fork), blocks) in &ends {
            if *fork == Fork::FreeSpaceMap {
                continue;
            }
            *n.entry("sizes").or_default() += 1;
            if self.blocks(*relation, *fork) != Some(*blocks) {
                out.push(format!(
                    "{relation}{}: {blocks} blocks, ours {:?}",
                    fork.suffix(),
                    self.blocks(*relation, *fork)
                ));
            }
        }
        for key in self.keys() {
            if let PostgresKey::RelationSize { relation, fork } = key
                && *fork != Fork::FreeSpaceMap
                && !ends.contains_key(&(*relation, *fork))
            {
                out.push(format!(
                    "{relation}{}: they have no such file",
                    fork.suffix()
                ));
            }
        }
        // SLRUs
        for slru in Slru::ALL {
            let mut segments = std::collections::BTreeSet::new();
            for entry in std::fs::read_dir(standby.join(slru.directory())).expect("a folder") {
                let path = entry.expect("an entry").path();
                if !path.is_file() {
                    continue;
                }
                let name = path
                    .file_name()
                    .and_then(|n| n.to_str())
                    .unwrap_or_default()
                    .to_owned();
                let segment = u64::from_str_radix(&name, 16).expect("a segment");
                segments.insert(segment);
                let content = std::fs::read(&path).expect("a file");
                let ours = self.value(PostgresKey::SlruSegment { slru, segment });
                *n.entry("slru segments").or_default() += 1;
                let count = ours.map(|v| {
                    postgres::value::SlruSegment::decode(v)
                        .expect("a segment")
                        .pages
                });
                if count != u32::try_from(content.len() / 8192).ok() {
                    out.push(format!(
                        "{slru:?} {name}: {} pages, ours {count:?}",
                        content.len() / 8192
                    ));
                }
                for (block, theirs) in (0..).zip(content.chunks_exact(8192)) {
                    *n.entry("slru pages").or_default() += 1;
                    let own = self.value(PostgresKey::SlruPage {
                        slru,
                        segment,
                        block,
                    });
                    let zero = [0u8; 8192];
                    let own = own.unwrap_or(&zero);
                    if let Some(at) = (0..8192).find(|at| own[*at] != theirs[*at]) {
                        out.push(format!(
                            "{slru:?} {name} page {block}: differs at {at}: {:02x?} theirs {:02x?}",
                            &own[at / 16 * 16..at / 16 * 16 + 16],
                            &theirs[at / 16 * 16..at / 16 * 16 + 16]
                        ));
                    }
                }
            }
            for key in self.keys() {
                if let PostgresKey::SlruSegment { slru: of, segment } = key
                    && *of == slru
                    && !segments.contains(segment)
                {
                    out.push(format!("{slru:?} {segment:x}: they have no such segment"));
                }
            }
        }
        // relation maps
        for (tablespace, database, folder) in relation_folders(standby) {
            let theirs = std::fs::read(folder.join("pg_filenode.map")).ok();
            let own = self
                .value(PostgresKey::RelationMap {
                    database,
                    tablespace,
                })
                .map(<[u8]>::to_vec);
            *n.entry("maps").or_default() += 1;
            if own != theirs {
                out.push(format!(
                    "relation map of {tablespace}/{database} differs: {:?} {:?}",
                    own.map(|o| o.len()),
                    theirs.map(|o| o.len())
                ));
            }
        }
        // two-phase
        for entry in std::fs::read_dir(standby.join("pg_twophase")).expect("a folder") {
            let path = entry.expect("an entry").path();
            let xid = u64::from_str_radix(
                path.file_name()
                    .and_then(|x| x.to_str())
                    .unwrap_or_default(),
                16,
            )
            .expect("xid");
            *n.entry("two-phase").or_default() += 1;
            let own = self.value(PostgresKey::TwoPhase { xid, chunk: 0 });
            let theirs = std::fs::read(&path).expect("a file");
            if own != Some(&theirs[..]) {
                out.push(format!(
                    "two-phase {xid:x} differs: {:?} {}",
                    own.map(<[u8]>::len),
                    theirs.len()
                ));
            }
        }
        let two: Vec<_> = self
            .keys()
            .filter(|k| matches!(k, PostgresKey::TwoPhase { .. }))
            .collect();
        out.push(format!("our two-phase: {two:?}"));
        let of = standby_control(primary);
        out.push(format!("counters ours   {:?}", self.checkpoint()));
        out.push(format!("counters theirs {of:?}"));
        out.push(format!("compared: {n:?}"));
        out
    }

    pub(crate) fn value(&self, key: PostgresKey) -> Option<&[u8]> {
        self.values.get(&key).map(Vec::as_slice)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &PostgresKey> {
        self.values.keys()
    }

    /// A page below its fork's end; pages without a version are zeros.
    pub(crate) fn page(&self, tag: &BlockTag) -> Option<Page> {
        let blocks = self.blocks(tag.relation, tag.fork)?;
        if tag.block >= blocks {
            return None;
        }
        let page = self.value(tag.key()).and_then(|page| page.try_into().ok());
        Some(page.unwrap_or([0; PAGE_BYTES]))
    }

    /// How long a fork is; `None` if there is none.
    pub(crate) fn blocks(&self, relation: Relation, fork: Fork) -> Option<u32> {
        let value = self.value(PostgresKey::RelationSize { relation, fork })?;
        Some(RelationSize::decode(value).expect("a size").blocks)
    }

    pub(crate) fn checkpoint(&self) -> &CheckpointState {
        self.cluster.checkpoint()
    }
}

fn remove_blocks(values: &mut BTreeMap<PostgresKey, Vec<u8>>, relation: Relation, fork: Fork) {
    let block = |block| PostgresKey::Block {
        relation,
        fork,
        block,
    };
    let keys: Vec<_> = values
        .range(block(0)..=block(u32::MAX))
        .map(|(key, _)| *key)
        .collect();
    for key in keys {
        values.remove(&key);
    }
}

/// The directory (database, tablespace) that a key is in, and the same key in directory `to`.
fn moved(key: PostgresKey, to: (u32, u32)) -> Option<((u32, u32), PostgresKey)> {
    let other = |relation: Relation| Relation {
        database: to.0,
        tablespace: to.1,
        ..relation
    };
    let of = |relation: Relation| (relation.database, relation.tablespace);
    match key {
        PostgresKey::Block {
            relation,
            fork,
            block,
        } => Some((
            of(relation),
            PostgresKey::Block {
                relation: other(relation),
                fork,
                block,
            },
        )),
        PostgresKey::RelationSize { relation, fork } => Some((
            of(relation),
            PostgresKey::RelationSize {
                relation: other(relation),
                fork,
            },
        )),
        PostgresKey::RelationMap {
            database,
            tablespace,
        } => Some((
            (database, tablespace),
            PostgresKey::RelationMap {
                database: to.0,
                tablespace: to.1,
            },
        )),
        _ => None,
    }
}

fn standby_control(data: &Path) -> CheckpointState {
    control_file(data).checkpoint
}
