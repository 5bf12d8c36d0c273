//! Values made of images and deltas, on real cores: any layers, any order of writing, branches, bounds, and what can't be
//! replayed.

use std::collections::BTreeMap;

use engine::layer::Value;
use engine::types::{BranchId, Key, Lsn, PAGE_BYTES, TenantId};
use engine::{Core, ErrorKind, ReadError};
use harness::engine::{Site, block_key};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use simulation::redo::{DeltaFlag, apply_to, delta};

/// What is stored of each key: an image, or else a delta.
type Versions = BTreeMap<(Key, Lsn), (bool, Vec<u8>)>;

fn value_at(versions: &Versions, key: Key, at: Lsn) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = None;
    for (_, (is_image, bytes)) in versions.range((key, Lsn(0))..=(key, at)) {
        match is_image {
            true => value = Some(bytes.clone()),
            false => apply_to(value.get_or_insert_default(), bytes),
        }
    }
    value
}

fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    random.next_u64() % bound
}

/// Some keys with versions at some of these LSNs; what comes first is an image unless the parent has one.
fn draw(random: &mut ChaCha8Rng, lsns: std::ops::Range<u64>, parent: &Versions) -> Versions {
    let mut versions = Versions::new();
    for block in 0..40 {
        let key = block_key(1, block);
        let mut has_image = parent.range((key, Lsn(0))..=(key, Lsn::MAX)).count() > 0;
        for lsn in lsns.clone() {
            if below(random, 3) > 0 {
                continue;
            }
            let mut bytes = match below(random, 4) {
                0 => vec![0; PAGE_BYTES - 1],
                _ => vec![0; 1 + usize::try_from(below(random, 400)).expect("small")],
            };
            random.fill_bytes(&mut bytes);
            let is_image = !has_image || below(random, 8) == 0;
            if !is_image {
                let begins = below(random, 10) == 0;
                let flag = [DeltaFlag::Changes, DeltaFlag::Begins][usize::from(begins)];
                bytes = delta(flag, &bytes);
            }
            has_image = true;
            versions.insert((key, Lsn(lsn)), (is_image, bytes));
        }
    }
    versions
}

async fn write(
    site: &Site,
    name: &str,
    parent: Option<(BranchId, Lsn)>,
    versions: &Versions,
    random: &mut ChaCha8Rng,
) -> BranchId {
    let mut all: Vec<_> = versions.iter().collect();
    // In any order: layers then overlap in time.
    for at in (1..all.len()).rev() {
        let other = usize::try_from(below(random, at as u64 + 1)).expect("small");
        all.swap(at, other);
    }
    let values: Vec<_> = all
        .into_iter()
        .map(|((key, lsn), (is_image, bytes))| {
            let value = match is_image {
                true => Value::Image(bytes),
                false => Value::Delta(bytes),
            };
            (*key, *lsn, value)
        })
        .collect();
    site.write_values(name, parent, &values).await
}

async fn read(
    core: &Core,
    (tenant, branch): (TenantId, BranchId),
    key: Key,
    at: Lsn,
) -> Result<Vec<u8>, ReadError> {
    let branch = core.open_branch(tenant, branch).await.expect("opens");
    core.read(&branch, key, at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn any_version_is_made_of_its_image_and_the_changes_since() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let site = Site::new().await;
    let main = draw(&mut random, 100..160, &Versions::new());
    let main_id = write(&site, "main", None, &main, &mut random).await;
    let left_at = Lsn(140);
    let mut child: Versions = main.clone();
    child.retain(|(_, lsn), _| *lsn <= left_at);
    let own = draw(&mut random, 141..180, &child);
    let child_id = write(&site, "child", Some((main_id, left_at)), &own, &mut random).await;
    child.extend(own);

    let running = site.start(2, |_| {});
    for (id, versions) in [(main_id, main), (child_id, child)] {
        let last = versions.keys().map(|(_, lsn)| lsn.0).max().expect("some");
        for round in 0..2 {
            let (place, versions) = ((site.tenant, id), versions.clone());
            running
                .on_core(round, async move |core: Core| {
                    for at in (100..=last).map(Lsn) {
                        for block in 0..40 {
                            let key = block_key(1, block);
                            let wanted = value_at(&versions, key, at);
                            match read(&core, place, key, at).await {
                                Ok(found) => {
                                    assert!(Some(found) == wanted, "block {block} at {at}");
                                }
                                Err(ReadError::NotFound { .. }) if wanted.is_none() => {}
                                Err(error) => panic!("block {block} at {at}: {error}"),
                            }
                        }
                    }
                    let branch = core.open_branch(place.0, place.1).await.expect("opens");
                    let (from, to) = (block_key(1, 0), block_key(1, 1000));
                    let scanned = core.scan(&branch, from, to, Lsn(last)).await;
                    for (key, found) in scanned.expect("a scan") {
                        assert!(Some(found) == value_at(&versions, key, Lsn(last)));
                    }
                })
                .await;
        }
    }
    let counts = running.engine.stats().await.counts;
    assert!(counts.reads_replayed > 1000, "{counts:?}");
    assert!(counts.deltas_replayed > counts.reads_replayed, "{counts:?}");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_changes_cost_the_blocks_that_hold_them_not_a_read_each() {
    let site = Site::new().await;
    let key = block_key(1, 0);
    let image = vec![3; PAGE_BYTES];
    let change = delta(DeltaFlag::Changes, &[1; 60]);
    let mut values = vec![(key, Lsn(100), Value::Image(&image))];
    values.extend((101..=400).map(|lsn| (key, Lsn(lsn), Value::Delta(&change))));
    let branch = site.write_values("main", None, &values).await;
    let mut wanted = image.clone();
    (101..=400).for_each(|_| apply_to(&mut wanted, &change));

    let running = site.start(1, |_| {});
    let place = (site.tenant, branch);
    for round in 0..2 {
        let before = running.engine.stats().await.counts.device_block_reads;
        let found = running
            .on_core(0, async move |core: Core| {
                read(&core, place, key, Lsn(400)).await
            })
            .await;
        assert!(found.expect("a value") == wanted);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let reads = running.engine.stats().await.counts.device_block_reads - before;
        // A pack holds eighty of them. The first search reads one block more, to find that the newest is a delta.
        assert!(round == 0 || (1..=6).contains(&reads), "{reads}");
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_replayed_names_itself_and_hides_nothing_before_it() {
    let site = Site::new().await;
    let (image, change) = (vec![1; PAGE_BYTES], delta(DeltaFlag::Changes, &[1]));
    let broken = delta(DeltaFlag::Fails, &[]);
    let (bad, long, headless) = (block_key(1, 0), block_key(1, 1), block_key(1, 2));
    let mut values = vec![
        (bad, Lsn(100), Value::Image(&image[..])),
        (bad, Lsn(110), Value::Delta(&change)),
        (bad, Lsn(120), Value::Delta(&broken)),
        (bad, Lsn(130), Value::Delta(&change)),
        (bad, Lsn(140), Value::Image(&image)),
        (headless, Lsn(120), Value::Delta(&change)),
        (long, Lsn(100), Value::Image(&image)),
    ];
    values.extend((101..=117).map(|lsn| (long, Lsn(lsn), Value::Delta(&change[..]))));
    let branch = site.write_values("main", None, &values).await;
    let running = site.start(1, |config| {
        config.shard.deltas_max = 16;
        config.shard.image_after_deltas = 4;
    });
    let place = (site.tenant, branch);
    let answers = running
        .on_core(0, async move |core: Core| {
            let mut answers = Vec::new();
            for (key, at) in [
                (bad, 119),
                (bad, 120),
                (bad, 139),
                (bad, 140),
                (long, 116),
                (long, 117),
                (headless, 130),
            ] {
                let answer = read(&core, place, key, Lsn(at)).await;
                answers.push(answer.map(|page| page[0]).map_err(|error| {
                    let kind = error.kind();
                    (kind, error.to_string())
                }));
            }
            answers
        })
        .await;
    let [before, at, above, image_again, bounded, too_long, no_image] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(*before, Ok(6));
    for failed in [at, above] {
        let (kind, text) = failed.as_ref().expect_err("it can't be replayed");
        assert_eq!(*kind, ErrorKind::Refused);
        assert!(text.contains("record that ends at 0/78"), "{text}");
    }
    assert_eq!(*image_again, Ok(1));
    assert!(bounded.is_ok(), "{bounded:?}");
    let (kind, text) = too_long.as_ref().expect_err("17 deltas");
    assert_eq!(*kind, ErrorKind::Refused);
    assert!(text.contains("more than 16 changes"), "{text}");
    let (kind, text) = no_image.as_ref().expect_err("nothing to change");
    assert_eq!(*kind, ErrorKind::Corrupt);
    assert!(text.contains("no image"), "{text}");
    running.stop();
}
