//! Names that are given, moved and taken away, whatever crashes; and those of version 1.

use super::children::{child, imported, write};
use super::*;
use crate::catalog::name_record::NameRecord;
use crate::catalog::records::TenantRecord;
use crate::crypto::kek::KekRecord;

/// Name and id of every branch, as a process sees them that has just started.
fn listed(world: &World, tenant: &Tenant) -> Vec<(Option<String>, BranchId)> {
    let branches = run(world.catalog().branches(tenant)).expect("lists");
    branches.into_iter().map(|b| (b.name, b.id)).collect()
}

fn named(name: &str, id: BranchId) -> (Option<String>, BranchId) {
    (Some(name.to_owned()), id)
}

#[test]
fn a_deleted_name_is_free_again_and_ids_never_come_back() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let made = child(&catalog, &tenant, "dev", "main").expect("the name is free");
        assert!(!ids.contains(&made.id));
        ids.push(made.id);
        assert_eq!(
            run(catalog.delete(&tenant, "dev")).expect("deletes"),
            made.id
        );
        for text in ["dev".to_owned(), made.id.to_string()] {
            let gone = run(catalog.delete(&tenant, &text));
            assert!(matches!(gone, Err(CatalogError::NoSuchBranch { .. })));
        }
        // Who has the id reads it until it is collected.
        run(catalog.open_branch(tenant.id(), made.id)).expect("opens");
    }
    // So it is with what was imported, which is no import that broke off.
    run(catalog.delete(&tenant, "main")).expect("deletes");
    assert_eq!(listed(&world, &tenant), []);
    assert_eq!(run(catalog.orphans(&tenant)).expect("lists"), []);
    let again = run(import(&catalog, &tenant, "main")).expect("the name is free");
    assert_ne!(again, main);
    assert_eq!(listed(&world, &tenant), [named("main", again)]);
    let imported = run(import(&catalog, &tenant, "dev")).expect("the name is free");
    let found = run(catalog.find_branch(&tenant, "dev")).expect("finds");
    assert_eq!(found, imported);
}

#[test]
fn branches_with_children_and_protected_ones_are_not_deleted() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let dev = child(&catalog, &tenant, "dev", "main").expect("creates");
    let inner = child(&catalog, &tenant, "inner", "dev").expect("creates");
    // One that is written to tells its parent in its manifest only, once it is renamed.
    write(&catalog, &tenant, inner.id, Lsn(0x9000)).expect("writes");
    run(catalog.rename(&tenant, "inner", "innermost")).expect("renames");
    for (name, children) in [("main", "dev, innermost"), ("dev", "innermost")] {
        let refused = run(catalog.delete(&tenant, name)).expect_err("has children");
        let text = refused.to_string();
        assert!(
            text.ends_with(&format!("has children: {children}")),
            "{text}"
        );
    }
    // A branch that lost its name is its children's parent still.
    let reset = run(catalog.reset(&tenant, "dev", None)).expect("resets");
    assert_eq!(reset.was, dev.id);
    run(catalog.delete(&tenant, "dev")).expect("its children are another's");
    let refused = run(catalog.delete(&tenant, "main"));
    assert!(matches!(refused, Err(CatalogError::HasChildren { .. })));

    run(catalog.protect(&tenant, "innermost", true)).expect("protects");
    let refused = run(catalog.delete(&tenant, "innermost"));
    assert!(matches!(refused, Err(CatalogError::Protected { .. })));
    let refused = run(catalog.reset(&tenant, "innermost", None));
    assert!(matches!(refused, Err(CatalogError::Protected { .. })));
    run(catalog.rename(&tenant, "innermost", "i")).expect("renames");
    let branches = run(catalog.branches(&tenant)).expect("lists");
    let of = |name: &str| branches.iter().find(|b| b.name.as_deref() == Some(name));
    assert!(of("i").expect("is there").is_protected, "it goes along");
    assert!(!of("main").expect("is there").is_protected);
    let objects = world.objects.object_count();
    run(catalog.protect(&tenant, "i", true)).expect("is so already");
    assert_eq!(world.objects.object_count(), objects);
    run(catalog.protect(&tenant, "i", false)).expect("no longer");
    for name in ["i", "main"] {
        run(catalog.delete(&tenant, name)).expect("deletes");
    }
    assert_eq!(listed(&world, &tenant), []);
    let _ = main;
}

#[test]
fn a_reset_branch_begins_anew_at_its_parent() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let dev = child(&catalog, &tenant, "dev", "main").expect("creates");
    write(&catalog, &tenant, dev.id, Lsn(0x9000)).expect("writes");
    write(&catalog, &tenant, main, Lsn(0x5000)).expect("writes");
    for (to, left_at) in [(None, 0x5000), (Some(Lsn(0x3000)), 0x3000)] {
        let before = run(catalog.find_branch(&tenant, "dev")).expect("finds");
        let reset = run(catalog.reset(&tenant, "dev", to)).expect("resets");
        assert_eq!((reset.was, reset.child.parent), (before, main));
        let now = run(catalog.find_branch(&tenant, "dev")).expect("finds");
        assert_eq!(now, reset.child.id);
        let branch = run(catalog.open_branch(tenant.id(), now)).expect("opens");
        assert_eq!(branch.last_lsn(), Lsn(left_at));
    }
    for at in [0x1000, 0x5001] {
        let refused = run(catalog.reset(&tenant, "dev", Some(Lsn(at)))).expect_err("outside");
        let text = refused.to_string();
        assert!(text.contains("from 0/2000 to 0/5000"), "{text}");
    }
    let refused = run(catalog.reset(&tenant, "main", None));
    assert!(matches!(refused, Err(CatalogError::NoParent { .. })));
    let refused = run(catalog.reset(&tenant, "none", None));
    assert!(matches!(refused, Err(CatalogError::NoSuchBranch { .. })));
    let of_before = run(catalog.open_branch(tenant.id(), dev.id)).expect("until collected");
    assert_eq!(of_before.last_lsn(), Lsn(0x9000));
}

#[test]
fn a_restored_branch_continues_what_it_was_which_is_kept() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    write(&catalog, &tenant, main, Lsn(0x9000)).expect("writes");
    let refused = run(catalog.restore(&tenant, "main", Lsn(0x9001), None));
    assert!(matches!(refused, Err(CatalogError::OutsideParent { .. })));
    assert_eq!(listed(&world, &tenant), [named("main", main)]);

    run(catalog.protect(&tenant, "main", true)).expect("protects");
    let first = run(catalog.restore(&tenant, "main", Lsn(0x3000), None)).expect("restores");
    assert_eq!(first.kept_as, "main-before-0-3000");
    assert_eq!(
        (first.child.parent, first.child.left_at),
        (main, Lsn(0x3000))
    );
    let expected = [
        named("main", first.child.id),
        named("main-before-0-3000", main),
    ];
    assert_eq!(listed(&world, &tenant), expected);
    let branches = run(catalog.branches(&tenant)).expect("lists");
    assert!(branches[0].is_protected && !branches[1].is_protected);

    let second = run(catalog.restore(&tenant, "main", Lsn(0x3000), None)).expect("restores");
    assert_eq!(second.kept_as, "main-before-0-3000-2");
    assert_eq!(second.child.parent, first.child.id);
    let third = run(catalog.restore(&tenant, "main", Lsn(0x2000), Some("kept"))).expect("restores");
    assert_eq!(third.kept_as, "kept");
    let refused = run(catalog.restore(&tenant, "main", Lsn(0x2000), Some("kept")));
    assert!(matches!(refused, Err(CatalogError::BranchExists { .. })));
    let refused = run(catalog.restore(&tenant, "main", Lsn(0x2000), Some("a/b")));
    assert!(matches!(refused, Err(CatalogError::BadName { .. })));
    let now = run(catalog.find_branch(&tenant, "main")).expect("finds");
    assert_eq!(now, third.child.id);
    // Back again: what it was before is a branch like any other.
    run(catalog.protect(&tenant, "main", false)).expect("no longer");
    run(catalog.delete(&tenant, "main")).expect("deletes");
    run(catalog.rename(&tenant, "main-before-0-3000", "main")).expect("renames");
    assert_eq!(
        run(catalog.find_branch(&tenant, "main")).expect("finds"),
        main
    );
}

#[test]
fn of_two_who_move_a_name_one_learns_that_it_lost() {
    let world = World::new();
    let (catalog, tenant, _) = imported(&world);
    child(&catalog, &tenant, "dev", "main").expect("creates");
    // Round by round: both see the name before one of them puts its next record.
    let rounds = Rounds::new(&world.objects);
    let catalog = world.catalog_on(rounds.clone());
    let both = join(
        catalog.reset(&tenant, "dev", Some(Lsn(0x2000))),
        catalog.rename(&tenant, "dev", "devel"),
    );
    let ((one, other), _) = rounds.count(both);
    let lost = [one.err(), other.err()].into_iter().flatten();
    let lost: Vec<CatalogError> = lost.collect();
    assert!(
        matches!(lost[..], [CatalogError::NameChanged { .. }]),
        "{lost:?}"
    );
}

/// Every command, cut off at every put: what was named is named still, and the command can be given again.
#[test]
fn a_crash_at_any_put_of_a_change_leaves_every_branch_with_a_name() {
    type Command = fn(&Catalog<Dying>, &Tenant) -> Result<(), CatalogError>;
    let commands: [(Command, usize); 5] = [
        (|c, t| run(c.rename(t, "dev", "devel")).map(|_| ()), 2),
        (|c, t| run(c.protect(t, "dev", true)).map(|_| ()), 1),
        (|c, t| run(c.reset(t, "dev", None)).map(|_| ()), 1),
        (
            |c, t| run(c.restore(t, "dev", Lsn(0x2000), None)).map(|_| ()),
            2,
        ),
        (|c, t| run(c.delete(t, "dev")).map(|_| ()), 1),
    ];
    for (number, (command, puts_max)) in commands.into_iter().enumerate() {
        for happens in [false, true] {
            for puts in 0..=puts_max {
                let world = World::new();
                let (catalog, tenant, main) = imported(&world);
                let dev = child(&catalog, &tenant, "dev", "main").expect("creates");
                let dying = Dying::at_put(&world.objects, puts, happens);
                let outcome = command(&world.catalog_on(dying.clone()), &tenant);
                assert_eq!(outcome.is_ok(), puts == puts_max, "{number}: {outcome:?}");
                let list = listed(&world, &tenant);
                assert!(list.contains(&named("main", main)), "{number}: {list:?}");
                let done = outcome.is_ok() || (happens && puts + 1 == puts_max);
                let is_named = list
                    .iter()
                    .any(|(name, id)| name.is_some() && *id == dev.id);
                // Reset and deleted ones lose their name, at once.
                let loses = number == 2 || number == 4;
                assert_eq!(is_named, !(done && loses), "{number} at {puts}: {list:?}");
                if !done {
                    let alive = Dying::at_put(&world.objects, 10, false);
                    command(&world.catalog_on(alive), &tenant).expect("can be given again");
                    let list = listed(&world, &tenant);
                    let names = list.iter().filter(|(_, id)| *id == dev.id).count();
                    assert_eq!(names, usize::from(!loses), "{number}: {list:?}");
                }
            }
        }
    }
}

#[test]
fn sizes_are_told_apart_by_whose_layers_they_are() {
    let world = World::new();
    let (catalog, tenant, main) = imported(&world);
    let dev = child(&catalog, &tenant, "dev", "main").expect("creates");
    let parent = run(catalog.open_branch(tenant.id(), dev.id)).expect("opens");
    let begun = catalog.begin_child(&tenant, "own", &parent, Lsn(0x2000), WriterConfig::tiny());
    let (mut writer, uploads) = run(begun).expect("begins");
    let fill = async {
        let page = page(1);
        writer.put(key(1), Lsn(0x3000), Value::Image(&page)).await?;
        let facts = CommitFacts {
            last_lsn: Lsn(0x3000),
            base_backup: None,
            ..FACTS
        };
        writer.commit(facts).await
    };
    let own = run(join(fill, uploads.run(InlineCpu))).0.expect("commits");
    child(&catalog, &tenant, "last", "own").expect("creates");
    // The middle one loses its name, and is there for the others.
    run(catalog.reset(&tenant, "dev", None)).expect("resets");

    let branches = run(catalog.branches(&tenant)).expect("lists");
    let of = |name: Option<&str>| {
        let found = branches.iter().find(|b| b.name.as_deref() == name);
        found.expect("is there")
    };
    let bytes = of(Some("main")).layer_bytes;
    let own_bytes = of(Some("own")).layer_bytes;
    assert!(bytes > 0 && own_bytes > 0);
    let sizes = |b: &BranchSummary| (b.layer_bytes, b.shared_bytes);
    assert_eq!(sizes(of(Some("main"))), (bytes, 0));
    assert_eq!(sizes(of(Some("dev"))), (0, bytes));
    assert_eq!(sizes(of(None)), (0, bytes));
    assert_eq!(sizes(of(Some("own"))), (own_bytes, bytes));
    assert_eq!(sizes(of(Some("last"))), (0, bytes + own_bytes));
    assert_eq!(of(None).id, dev.id);
    assert_eq!(of(Some("own")).parent, Some((dev.id, Lsn(0x2000))));
    assert_eq!(of(Some("main")).parent, None);
    assert_eq!((branches.len(), of(Some("own")).id), (5, own));
    let _ = main;
}

/// Turns a tenant into one that version 1 made, and its branch `main` into one that version 1 named.
fn turn_old(world: &World, tenant: &Tenant, main: BranchId) {
    let id = tenant.id();
    let kek_path = names::kek(id, 1);
    let record = world.objects.peek(&kek_path).expect("is there");
    let record = KekRecord::decode(&kek_path, &record).expect("sound");
    let kek = run(world.provider.unwrap(&record.wrapped, &record.context)).expect("unwraps");
    let path = names::tenant_record(id, 1);
    let stored = world.objects.peek(&path).expect("is there");
    let mut record = TenantRecord::open(&path, &stored, id, (1, &kek)).expect("opens");
    record.old_names = true;
    let entropy = Entropy::system();
    let sealed = record.seal(id, (1, &kek), &entropy);
    world.objects.tamper(&path, Some(sealed));

    let name_key = tenant.name_key();
    let whole = name_key.keyed_hash(b"main");
    let place = names::name(id, NameHash::of(&whole), 0);
    world.objects.tamper(&place, None);
    let sealed = NameRecord::seal_in_version_1(("main", main), (id, 0), name_key, &entropy);
    let place = names::name_of_version_1(id, &whole);
    world.objects.tamper(&place, Some(sealed));
}

#[test]
fn tenants_and_names_of_version_1_go_on() {
    let world = World::new();
    let (_, tenant, main) = imported(&world);
    turn_old(&world, &tenant, main);
    let catalog = world.catalog();
    let tenant = run(catalog.find_tenant("acme")).expect("finds");
    assert!(tenant.has_old_names());
    assert_eq!(listed(&world, &tenant), [named("main", main)]);
    assert_eq!(
        run(catalog.find_branch(&tenant, "main")).expect("finds"),
        main
    );
    assert_eq!(run(catalog.orphans(&tenant)).expect("lists"), []);
    let taken = child(&catalog, &tenant, "main", &main.to_string());
    assert!(matches!(taken, Err(CatalogError::BranchExists { .. })));
    let taken = run(import(&catalog, &tenant, "main"));
    assert!(matches!(taken, Err(CatalogError::BranchExists { .. })));

    let dev = child(&catalog, &tenant, "dev", "main").expect("creates");
    assert_eq!(
        run(catalog.find_branch(&tenant, "dev")).expect("finds"),
        dev.id
    );
    // The name moves on from where version 1 left it.
    let restored =
        run(catalog.restore(&tenant, "main", Lsn(0x2000), Some("old"))).expect("restores");
    let expected = [
        named("dev", dev.id),
        named("main", restored.child.id),
        named("old", main),
    ];
    assert_eq!(listed(&world, &tenant), expected);
    let branch = run(world.catalog().open_branch(tenant.id(), restored.child.id));
    assert_eq!(
        branch.expect("opens").facts().creation.parent,
        Some((main, Lsn(0x2000)))
    );
    run(catalog.delete(&tenant, "main")).expect("deletes");
    let found = run(catalog.find_branch(&tenant, "main"));
    assert!(matches!(found, Err(CatalogError::NoSuchBranch { .. })));
    let again = child(&catalog, &tenant, "main", "old").expect("the name is free");
    assert_ne!(again.id, restored.child.id);
    assert_eq!(run(catalog.orphans(&tenant)).expect("lists"), []);
}
