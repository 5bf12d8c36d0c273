//! A check of a branch finds what is damaged, missing or can't be replayed, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use engine::catalog::InlineCpu;
use engine::check::{CheckConfig, CheckReport, Inspector};
use engine::layer::Value;
use engine::store::objects::Objects;
use engine::types::{BranchId, Key, Lsn, TenantId};
use harness::engine::{RunningEngine, Site, block_key};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use simulation::redo::{DeltaFlag, delta};

use crate::ingest::{Versions, draw, open, value_at};

/// Compares what it is shown with what is known, and dislikes one version.
#[derive(Default)]
struct Known {
    versions: Mutex<Versions>,
    seen: Mutex<BTreeSet<(Key, Lsn)>>,
    disliked: Mutex<Option<(Key, Lsn)>>,
}

impl Inspector for Known {
    fn inspect(&self, key: &Key, lsn: Lsn, value: &[u8]) -> Result<(), String> {
        let versions = self.versions.lock().expect("nobody panics with it");
        let known = value_at(&versions, *key, lsn).expect("a version");
        assert!(known == value, "{key:?} at {lsn}");
        self.seen.lock().expect("as above").insert((*key, lsn));
        match *self.disliked.lock().expect("as above") {
            Some(disliked) if disliked == (*key, lsn) => Err("disliked".to_owned()),
            _ => Ok(()),
        }
    }

    fn name(&self, key: &Key) -> String {
        format!("{key:?}")
    }
}

struct Checked {
    running: RunningEngine,
    known: Arc<Known>,
}

impl Checked {
    /// Starts anew: what is open already is not asked for again.
    fn start(site: &Site, known: &Versions) -> Checked {
        let checked = Checked {
            running: site.start(2, |_| {}),
            known: Arc::default(),
        };
        *checked.known.versions.lock().expect("fresh") = known.clone();
        checked
    }

    async fn check(&self, place: (TenantId, BranchId), is_deep: bool) -> CheckReport {
        let config = CheckConfig {
            is_deep,
            step_bytes: 16 << 10,
            open_deadline: Duration::from_secs(10),
        };
        let inspector: Arc<dyn Inspector> = Arc::<Known>::clone(&self.known);
        let engine = &self.running.engine;
        let checking = engine.check_branch(place, &config, &inspector, &InlineCpu, |_| {});
        checking.await.expect("a report")
    }
}

/// What a fresh engine finds wrong.
async fn findings(
    site: &Site,
    known: &Versions,
    place: (TenantId, BranchId),
    is_deep: bool,
) -> BTreeMap<String, String> {
    let checked = Checked::start(site, known);
    let report = checked.check(place, is_deep).await;
    checked.running.stop();
    let findings = report.findings.into_iter();
    findings.map(|found| (found.place, found.reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reads_all_versions_and_finds_what_is_wrong() {
    let mut random = ChaCha8Rng::seed_from_u64(13);
    let site = Site::new().await;
    let mut known = Versions::new();
    let first = draw(&mut random, 100..101, &mut known);
    let values: Vec<_> = first
        .iter()
        .map(|((key, lsn), (_, bytes))| (*key, *lsn, Value::Image(bytes)))
        .collect();
    let branch = site.write_values("main", None, &values).await;
    let place = (site.tenant, branch);
    {
        let running = site.start(2, |_| {});
        let mut writer = open(&running, place).await;
        for round in 0..6 {
            let last = 140 + round * 40;
            let fresh = draw(&mut random, last - 39..last + 1, &mut known);
            writer.flush(&fresh, last).await;
            if round == 2 {
                while let Some(compacted) = writer.compact().await {
                    let commit = writer.flusher.commit_compaction(compacted).await;
                    commit.expect("committed");
                }
            }
        }
        for start in [96, 196, 296, 396, 496] {
            let put = writer
                .wal
                .put(Lsn(start), vec![b'w'; 100].into(), &InlineCpu);
            put.await.expect("stored");
        }
        writer.flush(&Versions::new(), 341).await;
        drop(writer);
        running.stop();
    }

    // All of it, each version once, and nothing is wrong. Of what was merged nobody deleted the originals.
    let checked = Checked::start(&site, &known);
    let report = checked.check(place, true).await;
    assert_eq!(report.findings, []);
    assert_eq!(report.versions, known.len() as u64);
    let keys: BTreeSet<Key> = known.keys().map(|(key, _)| *key).collect();
    assert_eq!(report.keys, keys.len() as u64);
    assert!(report.replayed > report.versions / 2 && report.layers > 3);
    // From the piece on that has LSN 341.
    assert_eq!((report.wal_pieces, report.wal_bytes), (3, 300));
    assert_eq!(report.readable, Some((Lsn(100), Lsn(341))));
    let seen = std::mem::take(&mut *checked.known.seen.lock().expect("done"));
    assert_eq!(seen.len(), known.len());
    let disliked = *known.keys().nth(77).expect("there are more");
    *checked.known.disliked.lock().expect("done") = Some(disliked);
    let report = checked.check(place, true).await;
    let found: Vec<&str> = report.findings.iter().map(|f| &*f.reason).collect();
    assert_eq!(found, ["disliked"]);
    checked.running.stop();

    // A branch of it, whose values begin with changes of what its parent has.
    let mut of_child = known.clone();
    of_child.retain(|(_, lsn), _| *lsn <= Lsn(200));
    let fresh = draw(&mut random, 201..221, &mut of_child);
    let changes = fresh.values().filter(|(is_image, _)| !is_image).count();
    assert!(changes > 20);
    let child = site
        .write_child("dev", (branch, Lsn(200)), &[], Lsn(200))
        .await;
    let dev = (site.tenant, child);
    {
        let running = site.start(1, |_| {});
        let mut writer = open(&running, dev).await;
        writer.flush(&fresh, 220).await;
        drop(writer);
        running.stop();
    }
    let checked = Checked::start(&site, &of_child);
    let report = checked.check(dev, true).await;
    assert_eq!(report.findings, []);
    assert_eq!(report.versions, fresh.len() as u64);
    assert_eq!(report.parent, Some((branch, Lsn(200))));
    checked.running.stop();

    // Damage.
    let layers = format!("tenants/{}/branches/{branch}/layers/", site.tenant);
    let listed = site.objects.list(&layers, None).await.expect("a list");
    let newest = &listed.last().expect("some").path;
    let sound = site.objects.peek(newest).expect("it was listed");
    let mut flipped = sound.to_vec();
    flipped[sound.len() / 4] ^= 1;
    site.objects.tamper(newest, Some(Bytes::from(flipped)));
    assert_eq!(findings(&site, &known, place, false).await.len(), 0);
    let found = findings(&site, &known, place, true).await;
    assert!(found.contains_key(newest), "{found:?}");
    site.objects
        .tamper(newest, Some(sound.slice(..sound.len() - 1)));
    for is_deep in [false, true] {
        let found = findings(&site, &known, place, is_deep).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[newest].contains("bytes instead of"), "{found:?}");
    }
    site.objects.tamper(newest, None);
    for is_deep in [false, true] {
        let found = findings(&site, &known, place, is_deep).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[newest], "is not there");
    }
    site.objects.tamper(newest, Some(sound));

    // WAL: one piece is not there, one is another.
    let piece = |number: u64| {
        format!(
            "tenants/{}/branches/{branch}/wal/{number:016x}",
            site.tenant
        )
    };
    let fourth = site.objects.peek(&piece(4)).expect("stored");
    site.objects.tamper(&piece(4), None);
    let found = findings(&site, &known, place, false).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), [&piece(4)]);
    site.objects.tamper(&piece(4), site.objects.peek(&piece(5)));
    let found = findings(&site, &known, place, false).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), [&piece(4)]);
    site.objects.tamper(&piece(4), Some(fourth));
    assert_eq!(findings(&site, &known, place, true).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_changes_that_can_not_be_replayed() {
    let site = Site::new().await;
    let (sound, fails, hangs) = (block_key(1, 0), block_key(1, 1), block_key(1, 2));
    let change = delta(DeltaFlag::Changes, b"more");
    let failing = delta(DeltaFlag::Fails, b"");
    let values = [
        (sound, Lsn(100), Value::Image(b"value")),
        (fails, Lsn(100), Value::Image(b"value")),
        (sound, Lsn(110), Value::Delta(&change)),
        (fails, Lsn(110), Value::Delta(&failing)),
        (hangs, Lsn(110), Value::Delta(&change)),
        (sound, Lsn(120), Value::Delta(&change)),
    ];
    let branch = site.write_values("main", None, &values).await;
    let mut known = Versions::new();
    known.extend(values.iter().filter(|(key, ..)| *key == sound).map(
        |(key, lsn, value)| match value {
            Value::Image(bytes) => ((*key, *lsn), (true, bytes.to_vec())),
            Value::Delta(bytes) => ((*key, *lsn), (false, bytes.to_vec())),
        },
    ));
    known.insert((fails, Lsn(100)), (true, b"value".to_vec()));
    let found = findings(&site, &known, (site.tenant, branch), true).await;
    let wanted = BTreeMap::from([
        (
            format!("{fails:?} at 0/6E"),
            "can't be replayed: record that ends at 0/6E".to_owned(),
        ),
        (
            format!("{hangs:?} at 0/6E"),
            "no image below the change at 0/6E".to_owned(),
        ),
    ]);
    assert_eq!(found, wanted);
}
