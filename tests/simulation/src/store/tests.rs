use std::collections::BTreeSet;

use futures_util::StreamExt;
use futures_util::future::{Either, select};

use super::*;
use crate::trace::Trace;

/// Runs `test` on a fresh store.
fn on_store<F: Future<Output = ()> + 'static>(
    seed: u64,
    test: impl FnOnce(Simulator, SimStore) -> F,
) {
    let sim = Simulator::new(Rng::split(seed, "scheduler"), Trace::new(false), 100_000);
    let store = SimStore::new(&sim, Rng::split(seed, "store"), Coverage::default());
    sim.run(test(sim.clone(), store)).expect("nothing is stuck");
    sim.shut_down();
}

const ALWAYS: PerMille = 1000;

async fn whole(mut body: SimBody) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// Whether `work` is still not done after ten virtual seconds.
async fn hangs(clock: &Simulator, work: impl Future) -> bool {
    let work = std::pin::pin!(work);
    let wait = std::pin::pin!(clock.sleep(Duration::from_secs(10)));
    matches!(select(work, wait).await, Either::Right(_))
}

#[test]
fn objects_are_put_once_read_in_pieces_listed_and_deleted() {
    on_store(1, |_, store| async move {
        let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        store
            .put_if_absent("d/a", Bytes::from(body.clone()))
            .await
            .expect("no fault");
        let again = store
            .put_if_absent("d/a", Bytes::from_static(b"other"))
            .await;
        assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
        assert_eq!(store.counts().conflicting_puts, 1);
        let got = whole(store.get("d/a", 1000..250_000).await.expect("no fault")).await;
        assert_eq!(got.expect("no fault"), body[1000..250_000]);
        assert_eq!(store.get_all("d/a").await.expect("no fault"), body);
        store
            .put_if_absent("d/b", Bytes::from_static(b"x"))
            .await
            .expect("no fault");
        store
            .put_if_absent("dd", Bytes::from_static(b"x"))
            .await
            .expect("no fault");
        let listed = store.list("d", None).await.expect("no fault");
        assert_eq!(
            listed.iter().map(|o| o.path.as_str()).collect::<Vec<_>>(),
            ["d/a", "d/b"]
        );
        assert_eq!(
            store.list("d", Some("d/a")).await.expect("no fault").len(),
            1
        );
        store.delete("d/a").await.expect("no fault");
        assert!(matches!(
            store.get_all("d/a").await,
            Err(StoreError::NotFound { .. })
        ));
    });
}

#[test]
fn each_fault_of_reading_does_what_it_says() {
    on_store(4, |clock, store| async move {
        let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        store
            .put_if_absent("a", Bytes::from(body.clone()))
            .await
            .expect("no fault");
        let range = 40_000..200_000;
        let right = &body[40_000..200_000];
        let get = || async { whole(store.get("a", range.clone()).await?).await };

        store.set_faults(StoreFaults {
            get_error: ALWAYS,
            ..Default::default()
        });
        assert!(matches!(get().await, Err(StoreError::Unavailable { .. })));
        store.set_faults(StoreFaults {
            get_vanished: ALWAYS,
            ..Default::default()
        });
        assert!(hangs(&clock, get()).await);
        store.set_faults(StoreFaults {
            get_slow: ALWAYS,
            ..Default::default()
        });
        let started = clock.now();
        assert_eq!(get().await.expect("slow is not wrong"), right);
        assert!(clock.now().since(started) >= Duration::from_millis(20));
        store.set_faults(StoreFaults {
            body_error: ALWAYS,
            ..Default::default()
        });
        assert!(matches!(get().await, Err(StoreError::Unavailable { .. })));
        store.set_faults(StoreFaults {
            body_short: ALWAYS,
            ..Default::default()
        });
        let short = get().await.expect("it just ends");
        assert!(short.len() < right.len() && right.starts_with(&short));
        store.set_faults(StoreFaults {
            body_stalled: ALWAYS,
            ..Default::default()
        });
        assert!(hangs(&clock, get()).await);
        store.set_faults(StoreFaults {
            body_flip: ALWAYS,
            ..Default::default()
        });
        let flipped = get().await.expect("it just comes");
        let wrong: u32 = flipped
            .iter()
            .zip(right)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert_eq!((flipped.len(), wrong), (right.len(), 1));
        store.set_faults(StoreFaults {
            body_wrong: ALWAYS,
            ..Default::default()
        });
        let other = get().await.expect("it just comes");
        assert!(other.len() == right.len() && other != right);
        store.set_faults(StoreFaults::default());
        assert_eq!(get().await.expect("no fault"), right);
        store.set_away(true);
        assert!(matches!(get().await, Err(StoreError::Unavailable { .. })));
    });
}

#[test]
fn each_fault_of_putting_does_what_it_says() {
    on_store(9, |clock, store| async move {
        let put = |name: &'static str| {
            let store = store.clone();
            async move { store.put_if_absent(name, Bytes::from_static(b"body")).await }
        };
        store.set_faults(StoreFaults {
            put_refused: ALWAYS,
            ..Default::default()
        });
        assert!(matches!(
            put("refused").await,
            Err(StoreError::Unavailable { .. })
        ));
        store.set_faults(StoreFaults {
            put_doubtful: ALWAYS,
            ..Default::default()
        });
        assert!(matches!(
            put("doubtful").await,
            Err(StoreError::Unavailable { .. })
        ));
        store.set_faults(StoreFaults {
            put_late: ALWAYS,
            ..Default::default()
        });
        assert!(matches!(
            put("late").await,
            Err(StoreError::Unavailable { .. })
        ));
        assert_eq!(store.names(""), ["doubtful"]);
        clock.sleep(Duration::from_secs(4)).await;
        assert_eq!(store.names(""), ["doubtful", "late"]);
        store.set_faults(StoreFaults {
            put_vanished: ALWAYS,
            ..Default::default()
        });
        for name in ["v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8"] {
            assert!(hangs(&clock, put(name)).await);
        }
        let done = store.names("v").len();
        assert!((1..8).contains(&done), "{done} of 8 were done");
    });
}

#[test]
fn a_put_goes_on_when_its_process_is_killed() {
    on_store(1, |clock, store| async move {
        let process = clock.process();
        let mine = store.clone();
        process.spawn(async move {
            let _ = mine.put_if_absent("a", Bytes::from_static(b"body")).await;
            unreachable!("killed before");
        });
        clock.sleep(Duration::from_micros(100)).await;
        process.kill();
        assert!(store.names("").is_empty());
        clock.sleep(Duration::from_millis(10)).await;
        assert_eq!(store.names(""), ["a"]);
    });
}

#[test]
fn damage_of_each_kind_is_seen_and_healed() {
    on_store(3, |_, store| async move {
        for (name, byte) in [("a", 1), ("b", 2)] {
            store
                .put_if_absent(name, Bytes::from(vec![byte; 1000]))
                .await
                .expect("no fault");
        }
        let mut seen = BTreeSet::new();
        for how in [Damage::Flip, Damage::Cut, Damage::Gone, Damage::Replaced] {
            // An object may be chosen to replace itself: no damage then.
            let name = loop {
                if let Some(name) = store.damage(&store.names(""), how) {
                    break name;
                }
            };
            assert!(store.is_damaged(&name) && store.any_damaged());
            let right = vec![if name == "a" { 1 } else { 2 }; 1000];
            match store.get_all(&name).await {
                Ok(bytes) => {
                    assert_ne!(bytes, right);
                    seen.insert((
                        bytes.len() == 1000,
                        bytes[..].iter().all(|b| *b == bytes[0]),
                    ));
                }
                Err(StoreError::NotFound { .. }) => assert_eq!(how, Damage::Gone),
                Err(other) => panic!("{other}"),
            }
            store.heal();
            assert!(!store.any_damaged());
            assert_eq!(store.get_all(&name).await.expect("healed"), right);
        }
        assert_eq!(seen.len(), 3, "a flip, a cut and a replacement");
    });
}
