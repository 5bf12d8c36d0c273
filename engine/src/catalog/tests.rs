//! The catalog from an empty store to pages read back, with crashes at every put.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use futures_util::future::{BoxFuture, join};
use futures_util::task::noop_waker_ref;

use super::*;
use crate::crypto::entropy::Entropy;
use crate::crypto::kek::Kek;
use crate::crypto::key_provider::{EncryptionContext, KeyProvider, KeyProviderError, WrappedKek};
use crate::crypto::keyring::Keyring;
use crate::layer::{LayerId, LayerIndex, Value};
use crate::manifest::testing::{Dying, Rounds, run};
use crate::manifest::{Branch, TimelineSpan, names};
use crate::scrub::{ScrubError, Scrubber};
use crate::store::memory::MemoryObjects;
use crate::store::objects::Objects;
use crate::types::{BranchId, Id, Key, KeySpace, Lsn, NameHash, PAGE_BYTES, Partition, TenantId};

mod children;
mod name_changes;

struct TestSpace;

impl KeySpace for TestSpace {
    fn partition(&self, key: &Key) -> Partition {
        Partition::of_hash(u32::from(key.0[3]) * 37)
    }

    fn stripe(&self, key: &Key) -> u64 {
        u64::from(key.0[3])
    }
}

/// A keyring that counts how often it is asked to unwrap.
struct Counting(Keyring, AtomicUsize);

impl KeyProvider for Counting {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn wrap<'a>(
        &'a self,
        kek: &'a Kek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<WrappedKek, KeyProviderError>> {
        self.0.wrap(kek, context)
    }

    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedKek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<Kek, KeyProviderError>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.unwrap(wrapped, context)
    }
}

struct World {
    objects: MemoryObjects,
    provider: Arc<Counting>,
    _keyring: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let place = tempfile::tempdir().expect("a directory");
        let ring = Keyring::create(&place.path().join("ring"), &[], Entropy::system());
        World {
            objects: MemoryObjects::new(5000),
            provider: Arc::new(Counting(ring.expect("creates"), AtomicUsize::new(0))),
            _keyring: place,
        }
    }

    /// A catalog of a process that has just started.
    fn catalog(&self) -> Catalog<MemoryObjects> {
        self.catalog_on(self.objects.clone())
    }

    fn catalog_on<O: Objects>(&self, objects: O) -> Catalog<O> {
        Catalog::new(objects, self.parts(*b"testkeys"))
    }

    fn parts(&self, key_space_tag: [u8; 8]) -> CatalogParts {
        CatalogParts {
            provider: Arc::clone(&self.provider) as Arc<dyn KeyProvider>,
            entropy: Entropy::system(),
            key_space: Arc::new(TestSpace),
            key_space_tag,
        }
    }
}

fn key(number: u32) -> Key {
    Key::from_slice(&number.to_be_bytes()).expect("short")
}

fn page(number: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    let mut word = number.wrapping_mul(2_654_435_761) | 1;
    for byte in &mut page {
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        *byte = word.to_le_bytes()[0];
    }
    page
}

const PAGES: u32 = 200;
const FACTS: CommitFacts = CommitFacts {
    readable_from: Lsn(0x2000),
    last_lsn: Lsn(0x2000),
    base_backup: Some((1, Lsn(0x1000), Lsn(0x2000))),
};

fn timelines() -> Vec<TimelineSpan> {
    vec![TimelineSpan {
        timeline: 1,
        from: Lsn(0x1000),
        to: Lsn::MAX,
    }]
}

/// An import of `PAGES` pages, which fill several windows and layers, and of some WAL.
async fn import<O: Objects>(
    catalog: &Catalog<O>,
    tenant: &Arc<Tenant>,
    name: &str,
) -> Result<BranchId, CatalogError> {
    let begun = catalog.begin_branch(tenant, name, timelines(), WriterConfig::tiny());
    let (mut writer, uploads) = begun.await?;
    let fill = async {
        for number in (0..PAGES).rev() {
            let page = page(number);
            writer
                .put(key(number), Lsn(0x1800), Value::Image(&page))
                .await?;
        }
        writer.put_wal(Lsn(0x1000), b"the first piece").await?;
        writer.put_wal(Lsn(0x1800), b"the second").await?;
        writer.commit(FACTS).await
    };
    join(fill, uploads.run(InlineCpu)).await.0
}

/// Every page is in one section, and the index of its layer opens.
fn check_pages(objects: &MemoryObjects, branch: &Branch) {
    for number in 0..PAGES {
        let partition = TestSpace.partition(&key(number));
        let sections = run(branch.sections_of(objects, partition)).expect("readable");
        let holders: Vec<_> = sections
            .iter()
            .filter(|s| (s.first_key..=s.last_key).contains(&key(number)))
            .filter(|s| {
                let opener = run(branch.opener(objects, s)).expect("a key");
                let object = names::layer(branch.tenant(), s.object);
                let bytes = objects.peek(&object).expect("is there");
                assert_eq!(bytes.len() as u64, s.object_bytes);
                let at = usize::try_from(s.index_at).expect("small");
                let layer = LayerId {
                    tenant: branch.tenant(),
                    object: s.object,
                };
                let sealed = &bytes[at..at + s.index_bytes as usize];
                let index =
                    LayerIndex::open(&opener, &layer, sealed, s.index_at).expect("the index opens");
                index
                    .candidates(partition, &key(number), Lsn::MAX)
                    .next()
                    .is_some()
            })
            .collect();
        assert!(!holders.is_empty(), "page {number} is in no layer");
    }
}

#[test]
fn an_import_becomes_visible_by_its_commit_and_is_read_by_another_process() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    let id = run(import(&catalog, &tenant, "main")).expect("imports");

    let catalog = world.catalog();
    for text in ["acme".to_owned(), tenant.id().to_string()] {
        let found = run(catalog.find_tenant(&text)).expect("finds");
        assert_eq!((found.id(), found.name()), (tenant.id(), "acme"));
    }
    let tenant = run(catalog.find_tenant("acme")).expect("finds");
    let branches = run(catalog.branches(&tenant)).expect("lists");
    assert_eq!(branches.len(), 1);
    assert_eq!(
        (branches[0].name.as_deref(), branches[0].id),
        (Some("main"), id)
    );
    assert_eq!(branches[0].readable_from, Some(Lsn(0x2000)));
    assert!(branches[0].layers > 5, "{} layers", branches[0].layers);
    assert!(branches[0].layer_bytes > u64::from(PAGES) * 8000);
    assert_eq!(run(catalog.orphans(&tenant)).expect("lists"), []);
    for text in ["main".to_owned(), id.to_string()] {
        assert_eq!(run(catalog.find_branch(&tenant, &text)).expect("finds"), id);
    }

    let branch = run(catalog.open_branch(tenant.id(), id)).expect("opens");
    check_pages(&world.objects, &branch);
    let backup = branch.facts().base_backup.expect("kept");
    assert_eq!((backup.start, backup.wal_objects), (Lsn(0x1000), 2));
    let piece = run(catalog.read_wal(&branch, 1)).expect("readable");
    assert_eq!(
        (piece.start, &*piece.bytes),
        (Lsn(0x1800), &b"the second"[..])
    );
    assert!(run(catalog.read_wal(&branch, 2)).is_err());
}

#[test]
fn nothing_in_the_store_shows_names_or_pages() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("tell-nobody")).expect("creates");
    run(import(&catalog, &tenant, "secret-name")).expect("imports");
    let page = page(17);
    let needles: [&[u8]; 4] = [b"tell-nobody", b"secret-name", b"first piece", &page[..16]];
    let listed = run(world.objects.list("", None)).expect("lists");
    assert!(listed.len() > 15);
    for object in listed {
        let body = world.objects.peek(&object.path).expect("is there");
        for needle in needles {
            let shown = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
            assert!(
                !shown(&body) && !shown(object.path.as_bytes()),
                "{object:?}"
            );
        }
    }
}

#[test]
fn a_crash_at_any_put_leaves_all_or_nothing_and_the_import_can_be_run_again() {
    let mut crashes = 0;
    for happens in [false, true] {
        for puts in 0.. {
            let world = World::new();
            let tenant = run(world.catalog().create_tenant("acme")).expect("creates");
            let dying = Dying::at_put(&world.objects, puts, happens);
            let outcome = run(import(&world.catalog_on(dying.clone()), &tenant, "main"));

            let catalog = world.catalog();
            let tenant = run(catalog.find_tenant("acme")).expect("finds");
            let branches = run(catalog.branches(&tenant)).expect("lists");
            let orphans = run(catalog.orphans(&tenant)).expect("lists");
            if let Some(branch) = branches.first() {
                let branch = run(catalog.open_branch(tenant.id(), branch.id)).expect("opens");
                check_pages(&world.objects, &branch);
                assert_eq!(orphans, []);
                let again = run(import(&catalog, &tenant, "main"));
                assert!(matches!(again, Err(CatalogError::BranchExists { .. })));
            } else {
                let begun = puts > 0 || happens;
                assert_eq!(orphans.len(), usize::from(begun), "at put {puts}");
                assert!(orphans.iter().all(|orphan| orphan.name == "main"));
                let id = run(import(&catalog, &tenant, "main")).expect("runs again");
                let branch = run(catalog.open_branch(tenant.id(), id)).expect("opens");
                assert_eq!(branch.readable_from(), Some(Lsn(0x2000)));
            }
            if outcome.is_ok() {
                assert!(!dying.died() && branches.len() == 1);
                break;
            }
            crashes += 1;
            assert!(dying.died(), "{outcome:?}");
        }
    }
    assert!(crashes > 30, "{crashes} crashes");
}

#[test]
fn a_writer_or_uploads_that_are_dropped_leave_nothing_visible() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    let begin = || catalog.begin_branch(&tenant, "main", timelines(), WriterConfig::tiny());
    let (mut writer, uploads) = run(begin()).expect("begins");
    run(writer.put(key(1), Lsn(1), Value::Image(&page(1)))).expect("puts");
    drop(writer);
    run(uploads.run(InlineCpu));

    let (mut writer, uploads) = run(begin()).expect("begins");
    drop(uploads);
    let id = writer.id();
    run(writer.put(key(1), Lsn(1), Value::Image(&page(1)))).expect("puts");
    assert!(matches!(
        run(writer.commit(FACTS)),
        Err(CatalogError::UploaderStopped { branch }) if branch == id
    ));
    assert_eq!(run(catalog.branches(&tenant)).expect("lists"), []);
    assert_eq!(run(catalog.orphans(&tenant)).expect("lists").len(), 2);
    let refused = run(catalog.open_branch(tenant.id(), id));
    assert!(matches!(refused, Err(CatalogError::NoSuchBranch { .. })));
}

/// A window that was handed over by a call that was dropped is gone. The next calls went on without it, and the branch
/// became visible with a hole.
#[test]
fn a_writer_is_of_no_use_after_a_call_that_failed_or_was_dropped() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    let begin = |catalog: &Catalog<MemoryObjects>| {
        run(catalog.begin_branch(&tenant, "main", timelines(), WriterConfig::tiny()))
            .expect("begins")
    };

    // Nobody takes the windows: the second that is full waits, and is dropped while it does.
    let (mut writer, uploads) = begin(&catalog);
    let id = writer.id();
    let waited = (0..PAGES).find(|&number| {
        let page = page(number);
        let mut put = pin!(writer.put(key(number), Lsn(0x1000), Value::Image(&page)));
        let mut cx = Context::from_waker(noop_waker_ref());
        put.as_mut().poll(&mut cx).is_pending()
    });
    assert!(waited.is_some());
    let refused = run(writer.put(key(1), Lsn(0x1000), Value::Image(&page(1))));
    assert!(matches!(refused, Err(CatalogError::WriterBroken { branch }) if branch == id));
    let refused = run(writer.put_wal(Lsn(0x1000), b"wal"));
    assert!(matches!(refused, Err(CatalogError::WriterBroken { .. })));
    let (outcome, ()) = run(join(writer.commit(FACTS), uploads.run(InlineCpu)));
    assert!(matches!(outcome, Err(CatalogError::WriterBroken { .. })));

    // The uploads have ended: the put that meets that fails, and so does what follows.
    let (mut writer, uploads) = begin(&catalog);
    drop(uploads);
    let mut puts = (0..PAGES).map(|number| {
        let page = page(number);
        run(writer.put(key(number), Lsn(0x1000), Value::Image(&page)))
    });
    let failed = puts.find_map(Result::err).expect("nobody takes windows");
    assert!(matches!(failed, CatalogError::UploaderStopped { .. }));
    let refused = run(writer.commit(FACTS));
    assert!(matches!(refused, Err(CatalogError::WriterBroken { .. })));
    assert_eq!(run(catalog.branches(&tenant)).expect("lists"), []);
}

/// Below its parent's horizon a child would show versions that the parent refuses to.
#[test]
fn a_child_is_not_readable_below_its_parents_horizon() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    let id = run(import(&catalog, &tenant, "main")).expect("imports");
    let parent = run(catalog.open_branch(tenant.id(), id)).expect("opens");
    let horizon = FACTS.readable_from;
    let begin = |name, at| catalog.begin_child(&tenant, name, &parent, at, WriterConfig::tiny());
    assert!(matches!(
        run(begin("early", Lsn(horizon.0 - 1))),
        Err(CatalogError::OutsideParent { .. })
    ));
    for (name, asked, gets) in [
        ("older", Lsn(horizon.0 - 0x100), horizon),
        ("same", horizon, horizon),
    ] {
        let (writer, uploads) = run(begin(name, horizon)).expect("begins");
        let facts = CommitFacts {
            readable_from: asked,
            last_lsn: horizon,
            base_backup: None,
        };
        let (child, ()) = run(join(writer.commit(facts), uploads.run(InlineCpu)));
        let child = run(catalog.open_branch(tenant.id(), child.expect("commits")));
        assert_eq!(child.expect("opens").readable_from(), Some(gets), "{name}");
    }
}

#[test]
fn of_two_imports_under_one_name_one_wins() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    let both = join(
        import(&catalog, &tenant, "main"),
        import(&catalog, &tenant, "main"),
    );
    let (one, other) = run(both);
    let (winner, loser) = if one.is_ok() {
        (one, other)
    } else {
        (other, one)
    };
    assert!(matches!(loser, Err(CatalogError::BranchExists { .. })));
    let winner = winner.expect("one wins");
    let found = run(catalog.find_branch(&tenant, "main")).expect("finds");
    assert_eq!(found, winner);
}

#[test]
fn what_is_not_there_or_not_ours_is_refused_by_name() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    assert!(matches!(
        run(catalog.create_tenant("acme")),
        Err(CatalogError::TenantExists(_))
    ));
    assert!(matches!(
        run(catalog.create_tenant("a/b")),
        Err(CatalogError::BadName { .. })
    ));
    let nobody = TenantId(Id([9; 16]));
    for text in ["nobody".to_owned(), nobody.to_string()] {
        assert!(matches!(
            run(catalog.find_tenant(&text)),
            Err(CatalogError::NoSuchTenant(_))
        ));
    }
    assert!(matches!(
        run(catalog.find_branch(&tenant, "main")),
        Err(CatalogError::NoSuchBranch { .. })
    ));
    let id = run(import(&catalog, &tenant, "main")).expect("imports");
    let other_space = Catalog::new(world.objects.clone(), world.parts(*b"otherone"));
    assert!(matches!(
        run(other_space.open_branch(tenant.id(), id)),
        Err(CatalogError::OtherKeySpace { .. })
    ));
    let stranger = World::new();
    let stranger = Catalog::new(world.objects.clone(), stranger.parts(*b"testkeys"));
    let refused = run(stranger.find_tenant("acme"));
    assert!(
        refused.is_err_and(|error| error.to_string().contains("refused")),
        "without the keyring nothing opens"
    );
    // A name object moved to another name's place.
    let listed = run(world.objects.list(&names::names(tenant.id()), None)).expect("lists");
    let stolen = world.objects.peek(&listed[0].path);
    world
        .objects
        .tamper(&names::name(tenant.id(), NameHash::of(&[1; 16]), 0), stolen);
    let error = run(catalog.branches(&tenant)).expect_err("misplaced");
    assert!(error.to_string().contains("belongs to another"), "{error}");
}

#[test]
fn a_cold_start_takes_six_round_trips_and_one_key_call() {
    let world = World::new();
    let tenant = run(world.catalog().create_tenant("acme")).expect("creates");
    let id = run(import(&world.catalog(), &tenant, "main")).expect("imports");
    let rounds = Rounds::new(&world.objects);
    let calls_before = world.provider.1.load(Ordering::Relaxed);
    let catalog = world.catalog_on(rounds.clone());
    let partition = TestSpace.partition(&key(7));
    let first_page = async {
        let branch = catalog.open_branch(tenant.id(), id).await.expect("opens");
        let sections = branch.sections_of(&rounds, partition).await;
        let section = sections.expect("readable")[0];
        let path = names::layer(branch.tenant(), section.object);
        let end = section.index_at + u64::from(section.index_bytes);
        let index = rounds.get(&path, section.index_at..end);
        let (opener, index) = join(branch.opener(&rounds, &section), index).await;
        assert!(opener.is_ok() && index.is_ok());
        assert!(rounds.get(&path, 0..128).await.is_ok(), "the extent");
    };
    let ((), trips) = rounds.count(first_page);
    // No snapshot yet, so no node: one less than with one. See the log's test of 100 TiB.
    assert!(trips <= 5, "{trips} round trips");
    let calls = world.provider.1.load(Ordering::Relaxed) - calls_before;
    assert_eq!(calls, 1);
}

#[test]
fn futures_are_send_on_a_store_that_is() {
    fn is_send<T: Send>(_: &T) {}
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    is_send(&catalog.tenants());
    is_send(&catalog.branches(&tenant));
    is_send(&catalog.orphans(&tenant));
    is_send(&catalog.open_branch(tenant.id(), BranchId(Id([0; 16]))));
    is_send(&import(&catalog, &tenant, "main"));
}

/// Scrubs the bytes as the object of this name, in pieces.
fn scrub(path: &str, bytes: &[u8]) -> Result<(), ScrubError> {
    let size = bytes.len() as u64;
    let tail_bytes = usize::try_from(Scrubber::LAYER_TAIL_BYTES).expect("a few");
    let tail = &bytes[bytes.len().saturating_sub(tail_bytes)..];
    let mut scrubber = Scrubber::new(path, size, tail)?;
    bytes
        .chunks(1000)
        .try_for_each(|piece| scrubber.push(piece))?;
    scrubber.finish()
}

#[test]
fn a_scrubber_finds_damage_in_every_kind_of_object_and_objects_that_changed_places() {
    let world = World::new();
    let catalog = world.catalog();
    let tenant = run(catalog.create_tenant("acme")).expect("creates");
    run(import(&catalog, &tenant, "main")).expect("imports");
    run(import(&catalog, &tenant, "other")).expect("imports");

    let mut objects = Vec::new();
    for directory in ["catalog/", "tenants/"] {
        for listed in run(world.objects.list(directory, None)).expect("lists") {
            let bytes = world.objects.peek(&listed.path).expect("it was listed");
            objects.push((listed.path, bytes));
        }
    }
    for kind in [
        "catalog/",
        "/kek/",
        "/begun/",
        "/names/",
        "/keys/",
        "/manifest/",
        "/layers/",
        "/wal/",
    ] {
        let found = objects.iter().filter(|(path, _)| path.contains(kind));
        assert!(found.count() > 0, "no {kind}");
    }
    let mut at = 1_usize;
    for (path, bytes) in &objects {
        assert_eq!(scrub(path, bytes), Ok(()), "{path}");
        // The first bytes, the last ones, and some between.
        let ends = (0..200).chain(bytes.len().saturating_sub(100)..bytes.len());
        let between = (0..20).map(|_| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (at >> 16) % bytes.len()
        });
        let mut damaged = bytes.to_vec();
        for at in ends.chain(between).filter(|at| *at < bytes.len()) {
            damaged[at] ^= 1 << (at % 8);
            assert!(scrub(path, &damaged).is_err(), "{path}: byte {at}");
            damaged[at] ^= 1 << (at % 8);
        }
        for cut in [0, 1, 50, bytes.len() / 2, bytes.len() - 1] {
            assert!(scrub(path, &bytes[..cut]).is_err(), "{path}: {cut} bytes");
        }
        damaged.push(0);
        assert!(scrub(path, &damaged).is_err(), "{path}: a byte more");
    }
    for pair in objects.windows(2) {
        let [(path, _), (_, other)] = pair else {
            continue;
        };
        // A name's path has its hash, which no header tells: the seal does.
        if !path.contains("/names/") {
            assert!(scrub(path, other).is_err(), "another object at {path}");
        }
    }
}
