//! Our replay of everything: every key's newest version, made of what `touch` says of each record, from the values that an
//! import of the files finds. In the end it has to be what a standby's files are.

mod counters;
mod omissions;

pub(crate) use omissions::Omissions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use engine::types::{Lsn, PAGE_BYTES};
use harness::postgres::MapSink;
use postgres::control_file::ControlFile;
use postgres::import::ImportSource;
use postgres::key::{BlockTag, Fork, PostgresKey, Relation};
use postgres::redo::redo;
use postgres::touch::{ClusterState, What, touched};
use postgres::value::{CheckpointState, DatabaseBeginning, RelationSize};
use postgres::verify::Page;
use postgres::wal::{Record, RecordKind};

use harness::cluster_state::{Comparison, Files, Part};
use harness::standby::{control_file, first_difference, pages_of};

/// The newest version of every key.
pub(crate) struct State {
    values: BTreeMap<PostgresKey, Vec<u8>>,
    cluster: ClusterState,
    /// The counters that it began with.
    begun: CheckpointState,
    /// What was otherwise than it should be on the way.
    failures: Vec<(Part, String)>,
    /// Which parts the records of a kind touched.
    touched: BTreeMap<&'static RecordKind, BTreeSet<Part>>,
    /// The last record that told the next oid.
    next_oid_at: Lsn,
    has_pages: bool,
    /// Records of this kind are left out.
    left_out: Option<&'static RecordKind>,
}

impl State {
    /// As an import of a stopped data directory finds it.
    pub(crate) fn import(data: &Path) -> State {
        let mut sink = MapSink::default();
        let source = ImportSource::of_path(data).expect("a data directory");
        source.import(&mut sink).expect("an import");
        State::of(sink.values, true)
    }

    /// The same without pages of relations.
    fn without_pages(&self) -> State {
        let is_block = |key: &PostgresKey| matches!(key, PostgresKey::Block { .. });
        let values = self.values.iter().filter(|(key, _)| !is_block(key));
        let values = values.map(|(key, value)| (*key, value.clone()));
        State::of(values.collect(), false)
    }

    fn of(values: BTreeMap<PostgresKey, Vec<u8>>, has_pages: bool) -> State {
        let mut cluster = ClusterState::new(1);
        for (key, value) in &values {
            cluster.load(*key, value).expect("values of the import");
        }
        State {
            values,
            begun: *cluster.checkpoint(),
            cluster,
            failures: Vec::new(),
            touched: BTreeMap::new(),
            next_oid_at: Lsn::INVALID,
            has_pages,
            left_out: None,
        }
    }

    /// Takes what a record makes.
    pub(crate) fn observe(&mut self, record: &Record<'_>) {
        let kind = RecordKind::of(record.version, record.manager, record.info);
        if kind.is_some() && kind == self.left_out {
            return;
        }
        self.check_counters(record);
        let has_pages = self.has_pages;
        let mut copies = Vec::new();
        let (values, failures) = (&mut self.values, &mut self.failures);
        let parts = kind.map(|kind| self.touched.entry(kind).or_default());
        let parts = parts.expect("a known kind");
        touched(record, &mut self.cluster, &mut |version| {
            let key = version.key;
            parts.extend(Part::of(&key));
            match version.what {
                What::Delta(_) if !has_pages && Part::of(&key) == Some(Part::Pages) => {}
                What::Delta(delta) => {
                    let page = values.entry(key).or_insert_with(|| vec![0; PAGE_BYTES]);
                    let page = page.as_mut_slice().try_into().expect("a page");
                    if let Err(failure) = redo(&delta, page) {
                        failures.push((Part::Pages, format!("{key:?}: {failure}")));
                    }
                }
                What::Value(value) => {
                    match key {
                        PostgresKey::DatabaseBeginning {
                            database,
                            tablespace,
                        } => {
                            let beginning = DatabaseBeginning::decode(value).expect("a beginning");
                            copies.push(((database, tablespace), beginning.copied_from));
                        }
                        // A fork that begins anew shows nothing of its former life.
                        PostgresKey::RelationSize { relation, fork }
                            if RelationSize::decode(value).expect("a size").blocks == 0 =>
                        {
                            remove_blocks(values, relation, fork);
                        }
                        _ => {}
                    }
                    values.insert(key, value.to_vec());
                }
                What::Removed => {
                    match key {
                        PostgresKey::RelationSize { relation, fork } => {
                            remove_blocks(values, relation, fork);
                        }
                        // What is in a directory goes with it.
                        PostgresKey::DatabaseDirectory {
                            database,
                            tablespace,
                        } => values.retain(|key, _| {
                            moved(*key, (0, 0)).is_none_or(|(at, _)| at != (database, tablespace))
                        }),
                        _ => {}
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
        self.values.extend(copied);
    }

    /// Compares with the files of a standby that stopped at the shutdown checkpoint of its primary.
    pub(crate) fn compare(&self, standby: &Theirs) -> Comparison {
        let ours = Files::of_values(&self.values);
        let mut all = Comparison::of(&ours, &standby.files);
        for (part, failure) in &self.failures {
            all.differ(*part, failure.clone());
        }
        self.compare_counters(standby, &mut all);
        if !self.has_pages {
            return all;
        }
        all.maps(Part::Pages, &ours.forks, &standby.files.forks);
        for (tag, theirs) in &standby.pages {
            if !standby.files.forks.contains_key(&(tag.relation, tag.fork)) {
                continue;
            }
            all.count(Part::Pages);
            let own = self.value(tag.key()).and_then(|page| page.try_into().ok());
            let own = own.unwrap_or([0; PAGE_BYTES]);
            if let Some(at) = first_difference(&own, theirs, tag.fork) {
                all.differ(Part::Pages, format!("{tag}: differs at {at}"));
            }
        }
        all
    }

    /// Compares with the files of a primary that was shut down, but for its pages: they have what is not logged.
    pub(crate) fn compare_with_primary(&self, data: &Path) -> Comparison {
        let mut all = Comparison::of(&Files::of_values(&self.values), &Files::read(data));
        for (part, failure) in &self.failures {
            all.differ(*part, failure.clone());
        }
        self.compare_end(&control_file(data).checkpoint, &mut all);
        all
    }

    fn value(&self, key: PostgresKey) -> Option<&[u8]> {
        self.values.get(&key).map(Vec::as_slice)
    }

    /// Whether records of a kind made versions, and all parts that they are of were compared.
    pub(crate) fn is_proved(&self, kind: &RecordKind, comparison: &Comparison) -> bool {
        let parts = self.touched.get(kind);
        parts.is_some_and(|parts| {
            !parts.is_empty() && parts.iter().all(|part| comparison.proves(*part))
        })
    }

    /// Whether the only versions that records of a kind made are of counters: each may carry a transaction's id.
    pub(crate) fn stores_nothing(&self, kind: &RecordKind) -> bool {
        let parts = self.touched.get(kind);
        parts.is_none_or(|parts| parts.iter().all(|part| *part == Part::Counters))
    }
}

/// What the standby left, and the primary's own word.
pub(crate) struct Theirs {
    files: Files,
    pages: Vec<(BlockTag, Box<Page>)>,
    standby: ControlFile,
    primary: ControlFile,
}

impl Theirs {
    /// Of the folders of both.
    pub(crate) fn read(standby: &Path, primary: &Path) -> Theirs {
        Theirs {
            files: Files::read(standby),
            pages: pages_of(standby),
            standby: control_file(standby),
            primary: control_file(primary),
        }
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
