//! Children of branches: one put each, whatever crashes and whoever races.

use super::*;
use crate::manifest::{ENTRIES_PER_SNAPSHOT, Edit, LayerSection};
use crate::types::{ObjectId, PARTITIONS};

/// A tenant with an imported branch, and a catalog of a process that has just started.
pub(super) fn imported(world: &World) -> (Catalog<MemoryObjects>, Arc<Tenant>, BranchId) {
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    let id = run(import(&catalog, &tenant, "main")).expect("imports");
    let catalog = world.catalog();
    let tenant = run(catalog.find_tenant("acme")).expect("finds");
    (catalog, tenant, id)
}

/// Makes a child of the branch with this name or id, at its last LSN.
pub(super) fn child<O: Objects>(
    catalog: &Catalog<O>,
    tenant: &Tenant,
    name: &str,
    parent: &str,
) -> Result<Child, CatalogError> {
    let parent = run(catalog.find_parent(tenant, parent))?;
    run(catalog.create_child(tenant, name, &parent, None))
}

/// Moves the last LSN of a branch, as one does who ingests.
pub(super) fn write<O: Objects>(
    catalog: &Catalog<O>,
    tenant: &Tenant,
    id: BranchId,
    last_lsn: Lsn,
) -> Result<(), CatalogError> {
    let mut log = run(catalog.claim_branch(tenant, id))?;
    let edit = Edit {
        last_lsn,
        ..Edit::default()
    };
    Ok(run(log.commit(edit))?)
}

#[test]
fn a_child_is_one_object_and_found_by_name_and_by_id() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let before = world.objects.object_count();
    let made = child(&catalog, &tenant, "dev", "main").expect("creates");
    assert_eq!(world.objects.object_count(), before + 1);
    assert_eq!((made.parent, made.left_at), (main, FACTS.last_lsn));
    // A child of a child, by the id of one that is no object of its own.
    let inner = child(&catalog, &tenant, "dev2", &made.id.to_string()).expect("creates");

    let catalog = world.catalog();
    for (name, id, parent) in [("dev", made.id, main), ("dev2", inner.id, made.id)] {
        let found = run(catalog.find_branch(&tenant, name)).expect("finds");
        assert_eq!(found, id, "{name}");
        let branch = run(catalog.open_branch(tenant.id(), id)).expect("opens");
        let creation = &branch.facts().creation;
        assert_eq!(creation.parent, Some((parent, FACTS.last_lsn)));
        assert_eq!(creation.timelines, timelines());
        assert_eq!(branch.readable_from(), Some(FACTS.readable_from));
        assert_eq!(branch.last_lsn(), FACTS.last_lsn);
        let sections = run(branch.sections_of(&world.objects, Partition::of_hash(0)));
        assert_eq!(sections.expect("nothing to read"), []);
    }
    // Neither another number of that name nor another name is a branch.
    let mut other = made.id;
    other.0.0[15] = 1;
    for id in [other, BranchId(Id([7; 16]))] {
        let refused = run(catalog.open_branch(tenant.id(), id));
        assert!(matches!(refused, Err(CatalogError::NoSuchBranch { .. })));
    }
    let other_space = Catalog::new(world.objects.clone(), world.parts(*b"otherone"));
    let refused = run(other_space.open_branch(tenant.id(), made.id));
    assert!(matches!(refused, Err(CatalogError::OtherKeySpace { .. })));
}

/// 100 TiB in layers of 128 MiB, and a thousand branches.
#[test]
fn making_a_child_takes_one_round_trip_at_any_size_and_beside_any_number() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let mut log = run(catalog.claim_branch(&tenant, main)).expect("claims");
    let section = |number: u32| LayerSection {
        partition: Partition::of_hash(number % u32::from(PARTITIONS)),
        first_key: key(number),
        last_key: Key::MAX,
        first_lsn: Lsn(0x1800),
        last_lsn: Lsn(0x2000),
        object: ObjectId {
            branch: main,
            epoch: u32::MAX,
            sequence: u64::from(number),
        },
        dek: crate::crypto::page_seal::DekId { table: 0, slot: 0 },
        index_at: 127 << 20,
        index_bytes: 1 << 20,
        object_bytes: 128 << 20,
    };
    let mut numbers = 0..800_000;
    for _ in 0..ENTRIES_PER_SNAPSHOT {
        let edit = Edit {
            last_lsn: FACTS.last_lsn,
            added: numbers.by_ref().take(20_000).map(section).collect(),
            ..Edit::default()
        };
        run(log.commit(edit)).expect("commits");
    }
    assert!(numbers.is_empty());
    let parent = run(catalog.find_parent(&tenant, "main")).expect("opens");
    for number in 0..1000 {
        let name = format!("pr-{number}");
        run(catalog.create_child(&tenant, &name, &parent, None)).expect("creates");
    }

    let rounds = Rounds::new(&world.objects);
    let catalog = world.catalog_on(rounds.clone());
    let before = world.objects.object_count();
    let (made, trips) = rounds.count(catalog.create_child(&tenant, "dev", &parent, None));
    let made = made.expect("creates");
    assert_eq!(
        (trips, rounds.requests()),
        (1, 2),
        "a put and a look beside it"
    );
    assert_eq!(world.objects.object_count(), before + 1);
    let by_id = run(world.catalog().open_branch(tenant.id(), main)).expect("opens");
    let by_id = Parent::new(by_id);
    let (_, trips) = rounds.count(catalog.create_child(&tenant, "dev2", &by_id, None));
    assert_eq!((trips, rounds.requests()), (1, 3));
    // Where the tenant is open it opens by one round trip: its record, beside a log that is not there.
    let (tenant, _) = rounds.count(catalog.tenant(tenant.id()));
    let tenant = tenant.expect("opens");
    let (opened, trips) = rounds.count(catalog.open_branch(tenant.id(), made.id));
    assert_eq!(opened.expect("opens").last_lsn(), FACTS.last_lsn);
    assert_eq!(trips, 1);
}

#[test]
fn a_cold_start_of_a_child_takes_two_round_trips_more_and_one_key_call() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let made = child(&catalog, &tenant, "dev", "main").expect("creates");
    let rounds = Rounds::new(&world.objects);
    let calls_before = world.provider.1.load(Ordering::Relaxed);
    let catalog = world.catalog_on(rounds.clone());
    let opens = async {
        let branch = catalog.open_branch(tenant.id(), made.id).await;
        let parent = branch.expect("opens").facts().creation.parent;
        let (parent, _) = parent.expect("a child");
        catalog.open_branch(tenant.id(), parent).await
    };
    let (parent, trips) = rounds.count(opens);
    assert_eq!(parent.expect("opens").id(), main);
    // Three for the parent by itself: see the test of its cold start.
    assert_eq!(trips, 5);
    assert_eq!(world.provider.1.load(Ordering::Relaxed) - calls_before, 1);
}

#[test]
fn a_crash_at_the_put_leaves_the_child_or_nothing() {
    for happens in [false, true] {
        let world = World::new();
        let (_, tenant, _) = imported(&world);
        let dying = Dying::at_put(&world.objects, 0, happens);
        let outcome = child(&world.catalog_on(dying.clone()), &tenant, "dev", "main");
        assert!(dying.died() && outcome.is_err());
        let catalog = world.catalog();
        let found = run(catalog.find_branch(&tenant, "dev"));
        assert_eq!(found.is_ok(), happens);
        assert_eq!(run(catalog.orphans(&tenant)).expect("lists"), []);
        let again = child(&catalog, &tenant, "dev", "main");
        match found {
            Ok(id) => {
                let branch = run(catalog.open_branch(tenant.id(), id)).expect("opens");
                assert_eq!(branch.readable_from(), Some(FACTS.readable_from));
                assert!(matches!(again, Err(CatalogError::BranchExists { .. })));
            }
            Err(_) => assert!(again.is_ok(), "{again:?}"),
        }
    }
}

#[test]
fn of_creators_of_one_name_one_wins() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    write(&catalog, &tenant, main, Lsn(0x9000)).expect("writes");
    let parent = run(catalog.find_parent(&tenant, "main")).expect("opens");
    let create = |at| catalog.create_child(&tenant, "dev", &parent, Some(Lsn(at)));
    let rounds = async {
        futures_util::join!(
            create(0x3000),
            create(0x4000),
            import(&catalog, &tenant, "dev")
        )
    };
    let (one, other, imported) = run(rounds);
    let losers = [
        one.as_ref().err(),
        other.as_ref().err(),
        imported.as_ref().err(),
    ];
    let exists = |error: &&CatalogError| matches!(error, CatalogError::BranchExists { .. });
    assert_eq!(losers.into_iter().flatten().filter(exists).count(), 2);
    let found = run(catalog.find_branch(&tenant, "dev")).expect("finds");
    let branch = run(catalog.open_branch(tenant.id(), found)).expect("opens");
    for won in [one, other].into_iter().flatten() {
        let begins = (branch.id(), branch.facts().creation.parent);
        assert_eq!(begins, (won.id, Some((main, won.left_at))));
    }
}

#[test]
fn a_child_leaves_its_parent_where_that_can_be_read_and_is_durable() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    write(&catalog, &tenant, main, Lsn(0x9000)).expect("writes");
    let parent = run(catalog.find_parent(&tenant, "main")).expect("opens");
    for at in [0x1fff, 0x9001, u64::MAX] {
        let refused = run(catalog.create_child(&tenant, "dev", &parent, Some(Lsn(at))));
        let refused = refused.expect_err("outside").to_string();
        assert!(refused.contains("from 0/2000 to 0/9000"), "{refused}");
    }
    let begun = catalog.begin_branch(&tenant, "unfinished", timelines(), WriterConfig::tiny());
    let (writer, _uploads) = run(begun).expect("begins");
    let unfinished = run(catalog.find_parent(&tenant, &writer.id().to_string()));
    assert!(matches!(unfinished, Err(CatalogError::NoSuchBranch { .. })));
    let other = run(catalog.create_tenant("other")).expect("creates");
    let refused = run(catalog.create_child(&other, "dev", &parent, None));
    assert!(matches!(refused, Err(CatalogError::NoSuchBranch { .. })));
    for bad in ["", "a/b", &main.to_string()] {
        let refused = run(catalog.create_child(&tenant, bad, &parent, None));
        assert!(matches!(refused, Err(CatalogError::BadName { .. })));
    }
    assert_eq!(run(catalog.branches(&tenant)).expect("lists").len(), 1);

    // Who writes to the parent knows better what is durable.
    let parent = parent.durable_to(Lsn(0xa000));
    let made = run(catalog.create_child(&tenant, "dev", &parent, None)).expect("creates");
    assert_eq!(made.left_at, Lsn(0xa000));
    let made = run(catalog.create_child(&tenant, "dev2", &parent, Some(Lsn(0x2000))));
    assert_eq!(made.expect("creates").left_at, Lsn(0x2000));
}

/// What a reader sees of a branch.
fn seen_of(catalog: &Catalog<MemoryObjects>, tenant: &Tenant, id: BranchId) -> (Lsn, Lsn) {
    let branch = run(catalog.open_branch(tenant.id(), id)).expect("opens at any time");
    let from = branch.readable_from().expect("readable at any time");
    (from, branch.last_lsn())
}

#[test]
fn the_first_writer_begins_the_manifest_and_readers_see_the_child_at_any_crash() {
    for happens in [false, true] {
        for puts in 0.. {
            let world = World::new();
            let (catalog, tenant, _) = imported(&world);
            let made = child(&catalog, &tenant, "dev", "main").expect("creates");
            let begun = (FACTS.readable_from, FACTS.last_lsn);
            let dying = Dying::at_put(&world.objects, puts, happens);
            let outcome = write(
                &world.catalog_on(dying.clone()),
                &tenant,
                made.id,
                Lsn(0x9000),
            );
            let catalog = world.catalog();
            let (from, last) = seen_of(&catalog, &tenant, made.id);
            assert!((from, last) == begun || (from, last) == (begun.0, Lsn(0x9000)));
            if outcome.is_ok() {
                assert_eq!(last, Lsn(0x9000));
                assert!(puts >= 4, "key table, start, claim, edit");
                break;
            }
            assert!(dying.died());
            write(&catalog, &tenant, made.id, Lsn(0xa000)).expect("whoever comes next can");
            let (from, last) = seen_of(&catalog, &tenant, made.id);
            assert_eq!((from, last), (begun.0, Lsn(0xa000)));
        }
    }
}

#[test]
fn of_two_first_writers_the_later_one_fences_the_other() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let made = child(&catalog, &tenant, "dev", "main").expect("creates");
    let both = join(
        catalog.claim_branch(&tenant, made.id),
        catalog.claim_branch(&tenant, made.id),
    );
    let (one, other) = run(both);
    let (mut one, mut other) = (one.expect("claims"), other.expect("claims"));
    let edit = || Edit {
        last_lsn: Lsn(0x9000),
        ..Edit::default()
    };
    let committed = [
        run(one.commit(edit())).is_ok(),
        run(other.commit(edit())).is_ok(),
    ];
    assert_eq!(committed.iter().filter(|ok| **ok).count(), 1);
    // And one whose view is of before the first writer: it claims what is there.
    let late = run(catalog.claim_branch(&tenant, made.id)).expect("claims");
    assert_eq!(late.facts().epoch, 3);
    assert_eq!(late.facts().creation.parent, Some((main, FACTS.last_lsn)));
}

/// The name may mean another branch, or none, when the child is put.
#[test]
fn no_child_is_made_of_a_parent_whose_name_was_changed() {
    let world = World::new();
    let (catalog, tenant, _) = imported(&world);
    child(&catalog, &tenant, "dev", "main").expect("creates");
    for change in ["delete", "reset", "rename", "protect"] {
        let parent = run(catalog.find_parent(&tenant, "dev")).expect("opens");
        match change {
            "delete" => run(catalog.delete(&tenant, "dev")).map(|_| ()),
            "reset" => run(catalog.reset(&tenant, "dev", None)).map(|_| ()),
            "rename" => run(catalog.rename(&tenant, "dev", "old")).map(|_| ()),
            _ => run(catalog.protect(&tenant, "dev", true)).map(|_| ()),
        }
        .expect("changes");
        let outcome = run(catalog.create_child(&tenant, "inner", &parent, None));
        assert!(
            matches!(outcome, Err(CatalogError::NameChanged { .. })),
            "{change}"
        );
        let found = run(catalog.find_branch(&tenant, "inner"));
        assert!(
            matches!(found, Err(CatalogError::NoSuchBranch { .. })),
            "{change}"
        );
        if matches!(change, "delete" | "rename") {
            child(&catalog, &tenant, "dev", "main").expect("the name is free");
        }
    }
    child(&catalog, &tenant, "inner", "dev").expect("whoever looks again can");
}

/// A child that is made while its parent's name goes away keeps what it reads.
#[test]
fn a_child_outlives_the_name_of_its_parent() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let dev = child(&catalog, &tenant, "dev", "main").expect("creates");
    let parent = run(catalog.find_parent(&tenant, &dev.id.to_string())).expect("opens");
    run(catalog.delete(&tenant, "dev")).expect("no child yet");
    let made = run(catalog.create_child(&tenant, "inner", &parent, None)).expect("by id");
    let listed = run(world.catalog().branches(&tenant)).expect("lists");
    let shown: Vec<_> = listed.iter().map(|b| (b.name.as_deref(), b.id)).collect();
    let expected = [
        (Some("inner"), made.id),
        (Some("main"), main),
        (None, dev.id),
    ];
    assert_eq!(shown, expected);
    let refused = run(catalog.delete(&tenant, "main"));
    assert!(matches!(refused, Err(CatalogError::HasChildren { .. })));
}
