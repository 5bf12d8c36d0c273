//! Our replay of everything: every key's newest version, made of what `touch` says of each record, from the values that an
//! import of the files finds. In the end it has to be what a standby's files are.
//!
//! That something was compared says little if it would have been the same without the record. So besides there is a
//! replay without the records of each kind, which has to come out otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use engine::types::{Lsn, PAGE_BYTES};
use harness::postgres::MapSink;
use postgres::control_file::{CHECKPOINT_BYTES, ControlFile, decode_checkpoint};
use postgres::import::ImportSource;
use postgres::key::{BlockTag, CHUNK_BYTES, Fork, PostgresKey, Relation};
use postgres::redo::redo;
use postgres::touch::{ClusterState, What, touched};
use postgres::value::{
    CheckpointState, DatabaseBeginning, DatabaseDirectory, RelationSize, ReplicationOrigin,
    SlruSegment, Tablespace,
};
use postgres::verify::Page;
use postgres::wal::{Proof, Record, RecordKind, ResourceManager, WalVersion};

use crate::coverage;
use crate::files::{Comparison, Files, Part};
use crate::standby::{control_file, first_difference, pages_of};

/// The newest version of every key.
pub(crate) struct State {
    values: BTreeMap<PostgresKey, Vec<u8>>,
    cluster: ClusterState,
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

    /// What a checkpoint of the primary says, which is what the records before it have to have told.
    fn check_counters(&mut self, record: &Record<'_>) {
        if record.manager != ResourceManager::XLOG {
            return;
        }
        match record.operation() {
            NEXT_OID => self.next_oid_at = record.start,
            operation @ (CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE) => {
                let bytes = record.main.first_chunk::<CHECKPOINT_BYTES>();
                let found = decode_checkpoint(bytes.expect("a checkpoint"));
                let known = *self.cluster.checkpoint();
                let mut wrong = |what: String| self.failures.push((Part::Counters, what));
                let at = record.start;
                if known.full_page_writes != found.full_page_writes {
                    wrong(format!("full page writes at {at}: not as before"));
                }
                if operation == CHECKPOINT_SHUTDOWN {
                    return;
                }
                // Ids up to this one were set aside by the last record of it.
                if self.next_oid_at < found.redo && known.next_oid != found.next_oid {
                    wrong(format!(
                        "next oid at {at}: {} and {}",
                        known.next_oid, found.next_oid
                    ));
                }
                // The server listed what is running after it had begun the checkpoint.
                let (known, found) = (known.oldest_active_xid, found.oldest_active_xid);
                if known.wrapping_sub(found) > u32::MAX / 2 {
                    wrong(format!("oldest running at {at}: {known} before {found}"));
                }
            }
            _ => {}
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
        let ours = self.files();
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

    fn compare_counters(&self, theirs: &Theirs, all: &mut Comparison) {
        // The standby's file tells of the last checkpoint before the stop.
        let last = &theirs.standby.checkpoint;
        let own = self.cluster.checkpoint();
        all.field("redo", own.redo, last.redo);
        all.field("time", own.time, last.time);
        all.field(
            "parameters",
            *self.cluster.parameters(),
            theirs.standby.parameters,
        );
        self.compare_end(&theirs.primary.checkpoint, all);
    }

    /// Compares with the files of a primary that was shut down, but for its pages: they have what is not logged.
    pub(crate) fn compare_with_primary(&self, data: &Path) -> Comparison {
        let mut all = Comparison::of(&self.files(), &Files::read(data));
        for (part, failure) in &self.failures {
            all.differ(*part, failure.clone());
        }
        self.compare_end(&control_file(data).checkpoint, &mut all);
        all
    }

    /// Where it stopped, a primary wrote the counters down.
    fn compare_end(&self, end: &CheckpointState, all: &mut Comparison) {
        let CheckpointState {
            redo: _,
            time: _,
            timeline,
            previous_timeline,
            next_xid,
            next_oid,
            next_multixact,
            next_multixact_offset,
            oldest_xid,
            oldest_xid_database,
            oldest_multixact,
            oldest_multixact_database,
            oldest_commit_timestamp_xid,
            newest_commit_timestamp_xid,
            // Between checkpoints only the memory of a standby has it: compared at each of them.
            oldest_active_xid: _,
            full_page_writes,
        } = *self.cluster.checkpoint();
        all.field("timeline", timeline, end.timeline);
        all.field("the one before", previous_timeline, end.previous_timeline);
        all.field("next transaction", next_xid, end.next_xid);
        all.field("next multixact", next_multixact, end.next_multixact);
        all.field(
            "next offset",
            next_multixact_offset,
            end.next_multixact_offset,
        );
        all.field("oldest transaction", oldest_xid, end.oldest_xid);
        all.field("its database", oldest_xid_database, end.oldest_xid_database);
        all.field("oldest multixact", oldest_multixact, end.oldest_multixact);
        all.field(
            "its database",
            oldest_multixact_database,
            end.oldest_multixact_database,
        );
        all.field(
            "commit timestamps",
            (oldest_commit_timestamp_xid, newest_commit_timestamp_xid),
            (
                end.oldest_commit_timestamp_xid,
                end.newest_commit_timestamp_xid,
            ),
        );
        all.field("full page writes", full_page_writes, end.full_page_writes);
        // The primary had not used up what it had set aside, which is what a standby knows.
        let unused = next_oid.checked_sub(end.next_oid);
        all.field(
            "next oid",
            unused.is_some_and(|unused| unused <= OIDS_AT_ONCE),
            true,
        );
    }

    /// Everything but pages of relations and counters.
    fn files(&self) -> Files {
        let mut files = Files::default();
        for (key, value) in &self.values {
            match *key {
                PostgresKey::RelationSize { relation, fork } if fork != Fork::FreeSpaceMap => {
                    let blocks = RelationSize::decode(value).expect("a size").blocks;
                    files.forks.insert((relation, fork), blocks);
                }
                PostgresKey::SlruSegment { slru, segment } => {
                    let pages = SlruSegment::decode(value).expect("a segment").pages;
                    let mut content = Vec::new();
                    for block in 0..pages {
                        let page = self.value(PostgresKey::SlruPage {
                            slru,
                            segment,
                            block,
                        });
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
                    files.two_phase.insert(xid, self.two_phase(xid));
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

    /// Its chunks up to the first that is not full.
    fn two_phase(&self, xid: u64) -> Vec<u8> {
        let mut content = Vec::new();
        for chunk in 0.. {
            let value = self.value(PostgresKey::TwoPhase { xid, chunk });
            let value = value.expect("a last chunk");
            content.extend(value);
            if value.len() < CHUNK_BYTES {
                break;
            }
        }
        content
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

/// Replays of the records that change state: of all of them, and for each kind without its own.
pub(crate) struct Omissions {
    whole: State,
    others: Vec<State>,
}

impl Omissions {
    /// From where `state` begins.
    pub(crate) fn of(state: &State, version: WalVersion) -> Omissions {
        let kinds = RecordKind::all(version).filter(|kind| Omissions::changes_state(kind));
        let without = |kind| State {
            left_out: Some(kind),
            ..state.without_pages()
        };
        Omissions {
            whole: state.without_pages(),
            others: kinds.map(without).collect(),
        }
    }

    fn changes_state(kind: &RecordKind) -> bool {
        kind.proof == Proof::Standby && !coverage::changes_nothing(kind)
    }

    /// Takes a record, if state is what it may change.
    pub(crate) fn observe(&mut self, record: &Record<'_>) {
        let kind = RecordKind::of(record.version, record.manager, record.info);
        if kind.is_some_and(Omissions::changes_state) {
            self.whole.observe(record);
            for state in &mut self.others {
                state.observe(record);
            }
        }
    }

    /// Kinds without whose records the standby's files would be no others.
    ///
    /// # Panics
    /// With all of them they are others.
    pub(crate) fn unnoticed(&self, theirs: &Theirs) -> Vec<&'static RecordKind> {
        let differences = self.whole.compare(theirs).differences;
        assert!(
            differences.is_empty(),
            "of records of state alone: {differences:#?}"
        );
        let others = self.others.iter();
        let unnoticed = others.filter(|state| state.compare(theirs).differences.is_empty());
        unnoticed.filter_map(|state| state.left_out).collect()
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

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const NEXT_OID: u8 = 0x30;
/// As many as a primary sets aside.
const OIDS_AT_ONCE: u32 = 8192;
