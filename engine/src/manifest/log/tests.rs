//! The log against a plain map of layers, with rivals, crashes and damage.

use std::collections::BTreeMap;

use super::*;
use crate::crypto::kek::Kek;
use crate::crypto::sealed_record::RecordProblem;
use crate::manifest::testing::{Dying, Rounds, run};
use crate::manifest::{Branch, RemovedLayer, TenantKeks};
use crate::store::memory::MemoryObjects;
use crate::types::{Id, Key, Lsn, PARTITIONS, TenantId};

const TENANT: TenantId = TenantId(Id([0x11; 16]));
const BRANCH: BranchId = BranchId(Id([0x22; 16]));

fn keys() -> Arc<KeyTables> {
    let kek = Kek::from_bytes([7; 32]);
    Arc::new(KeyTables::new(Arc::new(TenantKeks::new(
        TENANT,
        vec![(1, kek)],
    ))))
}

fn creation() -> Creation {
    Creation {
        name_hash: [3; 16],
        key_space: *b"testkeys",
        parent: None,
        timelines: vec![crate::manifest::TimelineSpan {
            timeline: 1,
            from: Lsn(0x100),
            to: Lsn::MAX,
        }],
    }
}

fn partition(number: u64) -> Partition {
    Partition::of_hash(u32::try_from(number % u64::from(PARTITIONS)).expect("small"))
}

fn section(layer: u64, in_partition: Partition) -> LayerSection {
    LayerSection {
        partition: in_partition,
        first_key: Key::from_slice(&layer.to_be_bytes()).expect("short"),
        last_key: Key::MAX,
        first_lsn: Lsn(1),
        last_lsn: Lsn(1 + layer),
        object: ObjectId {
            branch: BRANCH,
            epoch: 1,
            sequence: layer,
        },
        dek: DekId { table: 0, slot: 9 },
        index_at: 1000,
        index_bytes: 24,
        object_bytes: 2048,
    }
}

fn create<O: Objects>(objects: &O) -> ManifestLog<O> {
    let made = ManifestLog::create(
        objects.clone(),
        keys(),
        BRANCH,
        creation(),
        Entropy::seeded(1),
    );
    run(made).expect("a new branch")
}

fn claim<O: Objects>(objects: &O, seed: u64) -> Result<ManifestLog<O>, ManifestError> {
    let entropy = Entropy::seeded(seed);
    run(ManifestLog::claim(objects.clone(), keys(), BRANCH, entropy))
}

fn edit(lsn: u64, added: Vec<LayerSection>) -> Edit {
    Edit {
        last_lsn: Lsn(lsn),
        added,
        ..Edit::default()
    }
}

fn entry_path(number: u64) -> String {
    names::manifest_entry(TENANT, BRANCH, number)
}

fn open<O: Objects>(objects: &O) -> Result<Branch, ManifestError> {
    run(Branch::open(objects, keys(), BRANCH))
}

fn layers_of<O: Objects>(objects: &O, branch: &Branch, of: Partition) -> Vec<u64> {
    let sections = run(branch.sections_of(objects, of)).expect("readable");
    let mut layers: Vec<u64> = sections
        .iter()
        .map(|section| section.object.sequence)
        .collect();
    layers.sort_unstable();
    layers
}

#[test]
fn what_was_committed_is_read_back_across_snapshots_and_removals() {
    let objects = MemoryObjects::new(1000);
    let mut log = create(&objects);
    let mut model: BTreeMap<Partition, Vec<u64>> = BTreeMap::new();
    // More than one node can hold, in partitions that never change again.
    for of in 400..404 {
        let layers: Vec<u64> = (of * 1000..of * 1000 + 300).collect();
        let added = layers.iter().map(|l| section(*l, partition(of))).collect();
        run(log.commit(edit(1, added))).expect("commits");
        model.insert(partition(of), layers);
    }
    for layer in 0..300 {
        // Few partitions change between two snapshots, so that most nodes stay in older objects.
        let touched = [
            partition(layer / 40 * 31),
            partition(layer / 40 * 31 + 1),
            partition(700),
        ];
        let mut change = edit(10 + layer, touched.map(|p| section(layer, p)).to_vec());
        touched
            .iter()
            .for_each(|p| model.entry(*p).or_default().push(layer));
        if layer % 3 == 2 {
            // A young one, and one that is in a snapshot by now.
            for gone in [layer - 1, layer / 2] {
                let partitions: Vec<Partition> = model
                    .iter()
                    .filter(|(_, layers)| layers.contains(&gone))
                    .map(|(p, _)| *p)
                    .collect();
                if partitions.is_empty() {
                    continue;
                }
                model
                    .values_mut()
                    .for_each(|layers| layers.retain(|l| *l != gone));
                change.removed.push(RemovedLayer {
                    object: section(gone, partition(0)).object,
                    object_bytes: 2048,
                    partitions,
                });
            }
        }
        run(log.commit(change)).expect("commits");
        if layer % 29 == 0 || layer == 299 {
            let branch = open(&objects).expect("opens");
            assert_eq!(branch.facts(), log.facts());
            assert_eq!(branch.last_lsn(), Lsn(10 + layer));
            let all: std::collections::BTreeSet<u64> = model.values().flatten().copied().collect();
            assert_eq!(branch.facts().layers, all.len() as u64);
            assert_eq!(branch.facts().layer_bytes, 2048 * all.len() as u64);
            for number in 0..PARTITIONS {
                let of = partition(u64::from(number));
                let want = model.get(&of).cloned().unwrap_or_default();
                assert_eq!(layers_of(&objects, &branch, of), want, "{of:?}, {layer}");
            }
        }
    }
    assert!(
        log.state.root().objects.len() > 1,
        "nodes that did not change stay where they are"
    );
}

#[test]
fn the_older_of_two_writers_is_fenced_and_writes_nothing_more() {
    let objects = MemoryObjects::new(1000);
    let mut old = create(&objects);
    run(old.commit(edit(5, vec![section(1, partition(1))]))).expect("it is the only one");
    let mut new = claim(&objects, 2).expect("claims");
    assert_eq!(new.facts().epoch, 2);
    let refused = run(old.commit(edit(6, vec![section(2, partition(1))])));
    assert!(
        matches!(refused, Err(ManifestError::Fenced { number: 3, .. })),
        "{refused:?}"
    );
    let again = run(old.commit(edit(6, vec![])));
    assert!(matches!(
        again,
        Err(ManifestError::OutcomeUnknown { .. } | ManifestError::Fenced { .. })
    ));
    run(new.commit(edit(7, vec![section(3, partition(1))]))).expect("it holds the epoch");
    let branch = open(&objects).expect("opens");
    assert_eq!(layers_of(&objects, &branch, partition(1)), [1, 3]);
}

#[test]
fn a_claim_works_where_a_snapshot_is_due() {
    let objects = MemoryObjects::new(1000);
    let mut log = create(&objects);
    while log.state.next_number() < ENTRIES_PER_SNAPSHOT {
        let next = log.state.next_number();
        run(log.commit(edit(next, vec![section(next, partition(next))]))).expect("commits");
    }
    // Two claimers at the very same place, one after the other: the second finds the snapshot there.
    let mut second = claim(&objects, 2).expect("claims behind a snapshot");
    assert_eq!(second.state.next_number(), ENTRIES_PER_SNAPSHOT + 2);
    run(second.commit(edit(100, vec![]))).expect("commits");
    assert!(matches!(
        run(log.commit(edit(100, vec![]))),
        Err(ManifestError::Fenced { .. })
    ));
    let branch = open(&objects).expect("opens");
    assert_eq!(layers_of(&objects, &branch, partition(63)), [63]);
}

#[test]
fn a_crash_at_any_put_leaves_the_state_before_or_after_the_commit() {
    for happens in [false, true] {
        for puts in 0.. {
            let objects = MemoryObjects::new(1000);
            let mut log = create(&objects);
            while log.state.next_number() < ENTRIES_PER_SNAPSHOT {
                let next = log.state.next_number();
                run(log.commit(edit(next, vec![section(next, partition(next))]))).expect("commits");
            }
            let dying = Dying::at_put(&objects, puts, happens);
            let outcome = claim(&dying, 5)
                .and_then(|mut log| run(log.commit(edit(500, vec![section(500, partition(3))]))));
            let branch = open(&objects).expect("opens after any crash");
            let committed = branch.last_lsn() == Lsn(500);
            let expected: &[u64] = if committed { &[3, 500] } else { &[3] };
            assert_eq!(layers_of(&objects, &branch, partition(3)), expected);
            assert_eq!(layers_of(&objects, &branch, partition(9)), [9]);
            if outcome.is_ok() {
                assert!(committed && !dying.died());
                assert!(puts >= 4, "key table, snapshot, its entry, claim, edit");
                break;
            }
            assert!(dying.died());
            let mut next = claim(&objects, 6).expect("whoever comes next can claim");
            run(next.commit(edit(600, vec![]))).expect("and write");
        }
    }
}

#[test]
fn an_unknown_outcome_stops_the_writer_until_it_claims_anew() {
    let objects = MemoryObjects::new(1000);
    let mut log = create(&objects);
    run(log.commit(edit(1, vec![]))).expect("commits");
    let dying = Dying::at_put(&objects, 0, true);
    // The same writer, its store gone from here on.
    let mut cut_off = ManifestLog {
        objects: dying,
        keys: keys(),
        branch: BRANCH,
        names: Arc::new(WriterNames::new(
            BRANCH,
            1,
            0,
            DekAllocator::new(
                Dying::at_put(&objects, 9, false),
                Arc::clone(keys().keks()),
                BRANCH,
                Entropy::seeded(9),
            ),
        )),
        state: log.state.clone(),
        in_doubt: false,
    };
    assert!(matches!(
        run(cut_off.commit(edit(2, vec![]))),
        Err(ManifestError::Store(_))
    ));
    assert!(matches!(
        run(cut_off.commit(edit(3, vec![]))),
        Err(ManifestError::OutcomeUnknown { .. })
    ));
    assert_eq!(open(&objects).expect("opens").last_lsn(), Lsn(2));
}

#[test]
fn a_retry_that_finds_its_own_object_has_succeeded() {
    let objects = MemoryObjects::new(1000);
    let mine = Bytes::from_static(b"mine");
    assert_eq!(
        run(put_once(&objects, "a", mine.clone())).expect("put"),
        PutOnce::Ours
    );
    assert_eq!(
        run(put_once(&objects, "a", mine)).expect("put"),
        PutOnce::Ours
    );
    assert_eq!(
        run(put_once(&objects, "a", Bytes::from_static(b"yours"))).expect("put"),
        PutOnce::Taken
    );
}

#[test]
fn edits_that_make_no_sense_are_refused_before_they_are_written() {
    let objects = MemoryObjects::new(1000);
    let mut log = create(&objects);
    run(log.commit(edit(50, vec![]))).expect("commits");
    let before = objects.object_count();
    let backwards = run(log.commit(edit(49, vec![])));
    assert!(matches!(
        backwards,
        Err(ManifestError::Inconsistent { problem, .. }) if problem.contains("goes back")
    ));
    let gone = RemovedLayer {
        object: section(1, partition(1)).object,
        object_bytes: 1,
        partitions: vec![partition(1)],
    };
    let too_many = Edit {
        removed: vec![gone],
        ..edit(51, vec![])
    };
    assert!(matches!(
        run(log.commit(too_many)),
        Err(ManifestError::Inconsistent { .. })
    ));
    let huge = vec![section(1, partition(1)); EDIT_BYTES_MAX / SECTION_BYTES + 1];
    assert!(matches!(
        run(log.commit(edit(51, huge))),
        Err(ManifestError::EditTooLarge { .. })
    ));
    assert_eq!(objects.object_count(), before);
    run(log.commit(edit(51, vec![]))).expect("the writer is as good as before");
}

/// A branch with a snapshot, and entries behind it.
fn stored() -> MemoryObjects {
    let objects = MemoryObjects::new(1000);
    let mut log = create(&objects);
    for next in 0..70 {
        run(log.commit(edit(next, vec![section(next, partition(next % 5))]))).expect("commits");
    }
    objects
}

/// All that a reader learns, or the first error.
fn read_all(objects: &MemoryObjects) -> Result<(BranchFacts, Vec<LayerSection>), ManifestError> {
    let branch = open(objects)?;
    let mut sections = Vec::new();
    for of in 0..5 {
        sections.extend(run(branch.sections_of(objects, partition(of)))?);
    }
    Ok((branch.facts().clone(), sections))
}

#[test]
fn every_flipped_bit_is_refused_or_not_read() {
    let objects = stored();
    let truth = read_all(&objects).expect("undamaged");
    let newest = entry_path(ENTRIES_PER_SNAPSHOT + 2);
    let root = entry_path(ENTRIES_PER_SNAPSHOT);
    let table = names::key_table(TENANT, BRANCH, 1, 0);
    let directory = format!("tenants/{TENANT}/branches/{BRANCH}/snapshots/");
    let snapshots = run(objects.list(&directory, None)).expect("lists");
    let snapshot = snapshots[0].path.clone();
    for (path, step) in [(newest, 1), (root, 7), (table, 61), (snapshot, 31)] {
        let sound = objects.peek(&path).expect("is there");
        let mut refused = 0;
        for bit in (0..sound.len() * 8).step_by(step) {
            let mut bytes = sound.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            objects.tamper(&path, Some(bytes.into()));
            match read_all(&objects) {
                Err(ManifestError::Record(error)) => {
                    assert_eq!(error.path, path);
                    refused += 1;
                }
                Ok(read) => {
                    let in_unread_header = path.contains("/snapshots/") && bit / 8 < 88;
                    assert!(in_unread_header, "{path}: bit {bit} went unnoticed");
                    assert!(read == truth, "{path}: bit {bit} changed the answer");
                }
                Err(other) => panic!("{path}: bit {bit}: {other}"),
            }
        }
        assert!(refused > 100, "{path}");
        objects.tamper(&path, Some(sound));
    }
    assert!(read_all(&objects).expect("undamaged") == truth);
}

#[test]
fn damage_a_wrong_key_another_place_and_a_newer_format_are_told_apart() {
    let objects = stored();
    let newest = ENTRIES_PER_SNAPSHOT + 2;
    let path = entry_path(newest);
    let sound = objects.peek(&path).expect("is there");
    let problem = |objects: &MemoryObjects| match read_all(objects) {
        Err(ManifestError::Record(error)) => error.problem,
        other => panic!("{other:?}"),
    };

    let mut newer = sound.to_vec();
    newer[8] = 3;
    objects.tamper(&path, Some(newer.into()));
    let version = RecordProblem::UnknownVersion { found: 3, known: 2 };
    assert_eq!(problem(&objects), version);

    objects.tamper(&path, Some(Bytes::from_static(b"something else entirely")));
    assert_eq!(problem(&objects), RecordProblem::OtherFormat);

    objects.tamper(&path, objects.peek(&entry_path(newest - 1)));
    assert_eq!(problem(&objects), RecordProblem::Misplaced);

    // Somebody who corrects the checksum is found out by the seal.
    let mut forged = sound.to_vec();
    let body = forged.len() - 30;
    forged[body] ^= 1;
    let end = forged.len() - 4;
    let checksum = crc32c::crc32c(&forged[..end]);
    forged[end..].copy_from_slice(&checksum.to_le_bytes());
    objects.tamper(&path, Some(forged.into()));
    assert_eq!(problem(&objects), RecordProblem::BadSeal);
    objects.tamper(&path, Some(sound));

    let other = TenantKeks::new(TENANT, vec![(1, Kek::from_bytes([8; 32]))]);
    let other = Arc::new(KeyTables::new(Arc::new(other)));
    match run(Branch::open(&objects, other, BRANCH)) {
        Err(ManifestError::Record(error)) => assert_eq!(error.problem, RecordProblem::WrongKey),
        unexpected => panic!("{unexpected:?}"),
    }
}

#[test]
fn a_missing_entry_is_a_gap_and_no_branch_is_no_branch() {
    let objects = stored();
    objects.tamper(&entry_path(ENTRIES_PER_SNAPSHOT + 1), None);
    assert!(matches!(
        read_all(&objects),
        Err(ManifestError::Gap { number, .. }) if number == ENTRIES_PER_SNAPSHOT + 1
    ));
    let nobody = BranchId(Id([9; 16]));
    assert!(matches!(
        run(Branch::open(&objects, keys(), nobody)),
        Err(ManifestError::NoSuchBranch { branch }) if branch == nobody
    ));
}

#[test]
fn no_key_is_handed_out_twice_by_processes_that_crash_and_race() {
    let objects = MemoryObjects::new(1000);
    let mut seen = std::collections::HashSet::new();
    let mut ids = std::collections::HashSet::new();
    for process in 0..4 {
        // All with the same generator would be the worst luck; ids at least must differ then.
        let entropy = Entropy::seeded(process);
        let keks = keys();
        let new = || {
            DekAllocator::new(
                objects.clone(),
                Arc::clone(keks.keks()),
                BRANCH,
                entropy.clone(),
            )
        };
        let (mut one, mut other) = (new(), new());
        for _ in 0..300 {
            for allocator in [&mut one, &mut other] {
                let (id, dek) = run(allocator.next()).expect("a key");
                assert!(ids.insert(id), "{id:?} twice");
                assert!(seen.insert(dek.key_check_value()), "a key twice");
                let stored = run(keks.dek(&objects, BRANCH, id)).expect("durable before use");
                assert_eq!(stored.key_check_value(), dek.key_check_value());
            }
        }
    }
    assert_eq!(ids.iter().map(|id| id.table).max(), Some(15));
}

/// 100 TiB in layers of 128 MiB: 800,000 sections.
#[test]
fn a_lookup_in_100_tib_takes_four_round_trips_and_a_small_root() {
    let objects = MemoryObjects::new(1 << 20);
    let mut log = create(&objects);
    let layers = 800_000u64;
    let per_edit = 25_000;
    for first in (0..layers).step_by(per_edit) {
        let end = layers.min(first + per_edit as u64);
        let added = (first..end).map(|n| section(n, partition(n))).collect();
        run(log.commit(edit(first, added))).expect("commits");
    }
    while log.state.next_number() <= ENTRIES_PER_SNAPSHOT + 3 {
        run(log.commit(edit(layers, vec![]))).expect("commits");
    }
    let root = Entry::Snapshot(log.state.root().clone()).encode();
    assert!(root.len() <= 64 << 10, "{} bytes of root", root.len());
    assert!(log.state.root().nodes.len() > 500, "a deep manifest");

    let rounds = Rounds::new(&objects);
    let (branch, opened_in) = rounds.count(Branch::open(&rounds, keys(), BRANCH));
    let branch = branch.expect("opens");
    assert_eq!(opened_in, 3, "names, entries, key tables");
    let wanted = partition(777);
    let (sections, found_in) = rounds.count(branch.sections_of(&rounds, wanted));
    let sections = sections.expect("readable");
    assert_eq!(found_in, 1, "one node, its key table beside it");
    assert_eq!(sections.len(), 781, "layers 777, 1801, and so on");
    assert!(sections.iter().all(|section| section.partition == wanted));
    let (again, more) = rounds.count(branch.sections_of(&rounds, wanted));
    assert_eq!((again.expect("readable"), more), (sections, 0));
    assert!(rounds.requests() < 16, "{} requests", rounds.requests());
}

#[test]
fn futures_are_send_on_a_store_that_is() {
    fn is_send<T: Send>(_: &T) {}
    let objects = MemoryObjects::new(1000);
    let mut log = create(&objects);
    is_send(&log.commit(edit(1, vec![])));
    is_send(&ManifestLog::claim(
        objects.clone(),
        keys(),
        BRANCH,
        Entropy::seeded(1),
    ));
    let branch = open(&objects).expect("opens");
    is_send(&branch.sections_of(&objects, partition(1)));
    let section = section(1, partition(1));
    is_send(&branch.opener(&objects, &section));
    fn is_sync<T: Send + Sync>() {}
    is_sync::<Branch>();
}
