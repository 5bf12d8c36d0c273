use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::*;
use crate::io::test_runtime::TestRuntime;
use crate::store::faulty::{Fault, FaultPlan, Faulty};
use crate::store::memory::MemoryObjects;
use crate::store::stats::Outcome;

type Store = Reliable<Faulty<MemoryObjects, TestRuntime>, TestRuntime, ChaCha8Rng>;

struct Bench {
    runtime: TestRuntime,
    memory: MemoryObjects,
    faulty: Faulty<MemoryObjects, TestRuntime>,
    store: Store,
}

/// A store with one object `x` of 10,000 bytes that comes in chunks of 1,000.
fn bench(config: StoreConfig) -> Bench {
    let runtime = TestRuntime::default();
    let memory = MemoryObjects::new(1000);
    memory.tamper("x", Some(body()));
    let faulty = Faulty::new(memory.clone(), runtime.clone(), FaultPlan::none(), 1);
    let store = Reliable::new(
        faulty.clone(),
        runtime.clone(),
        ChaCha8Rng::seed_from_u64(2),
        config,
        Arc::default(),
    );
    Bench {
        runtime,
        memory,
        faulty,
        store,
    }
}

fn body() -> Bytes {
    (0..10_000_u32)
        .map(|n| (n % 251).to_le_bytes()[0])
        .collect()
}

async fn read(store: &Store, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
    let mut body = store.get("x", range).await?;
    let mut whole = Vec::new();
    while let Some(chunk) = body.next().await.transpose()? {
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

#[test]
fn a_request_that_vanishes_is_repeated_after_its_deadline() {
    let bench = bench(StoreConfig::tiny());
    bench.faulty.script([Some(Fault::Hang)]);
    let whole = bench.runtime.block_on(read(&bench.store, 0..10_000));
    assert_eq!(whole.expect("the second attempt answers"), body());
    let waited = bench.runtime.now().since(Moment::default());
    let config = StoreConfig::tiny();
    assert!(waited >= config.first_byte_deadline);
    assert!(waited <= config.first_byte_deadline + config.backoff_first);
}

#[test]
fn a_store_that_never_answers_fails_in_bounded_time() {
    let bench = bench(StoreConfig::tiny());
    bench.faulty.script([Some(Fault::Hang); 10]);
    let error = bench.runtime.block_on(read(&bench.store, 0..10_000));
    assert!(
        matches!(error, Err(StoreError::Deadline { .. })),
        "{error:?}"
    );
    let config = StoreConfig::tiny();
    assert_eq!(bench.faulty.requests(), u64::from(config.attempts_max));
    let waited = bench.runtime.now().since(Moment::default());
    let attempts = config.first_byte_deadline * config.attempts_max;
    assert!(waited <= attempts + config.backoff_max * config.attempts_max);
}

#[test]
fn a_body_that_breaks_off_goes_on_at_the_first_missing_byte() {
    for fault in [Fault::BrokenBody, Fault::ShortBody, Fault::HangingBody] {
        let bench = bench(StoreConfig::tiny());
        bench.faulty.script([Some(fault), Some(fault)]);
        let whole = bench.runtime.block_on(read(&bench.store, 100..9_900));
        assert_eq!(whole.expect("resumed"), body()[100..9_900], "{fault:?}");
        let counters = bench.store.stats().snapshot(0).counters;
        assert_eq!(counters.bytes_read, 9_800, "{fault:?}: no byte came twice");
        assert_eq!(counters.retries, 2, "{fault:?}");
        assert_eq!(counters.bodies_resumed, 2, "{fault:?}");
    }
}

#[test]
fn a_slow_reader_does_not_make_the_store_late() {
    let bench = bench(StoreConfig::tiny());
    let whole = bench.runtime.block_on(async {
        let mut stream = bench.store.get("x", 0..10_000).await?;
        let mut whole = Vec::new();
        while let Some(chunk) = stream.next().await.transpose()? {
            whole.extend_from_slice(&chunk);
            bench
                .runtime
                .sleep(StoreConfig::tiny().operation_deadline)
                .await;
        }
        Ok::<_, StoreError>(whole)
    });
    assert_eq!(whole.expect("no deadline applies"), body());
    assert_eq!(bench.faulty.requests(), 1);
}

#[test]
fn a_body_slower_than_allowed_is_given_up_in_bounded_time() {
    let config = StoreConfig::tiny();
    let bench = bench(config.clone());
    // A tenth of a second for each chunk of a thousand bytes: no chunk is late, all of them together are.
    bench
        .faulty
        .set_plan(FaultPlan::distant(Duration::ZERO, Some(10_000)));
    let result = bench.runtime.block_on(read(&bench.store, 0..10_000));
    assert!(
        matches!(result, Err(StoreError::Deadline { .. })),
        "{result:?}"
    );
    assert_eq!(bench.faulty.requests(), u64::from(config.attempts_max));
}

#[test]
fn what_is_final_is_not_repeated() {
    let bench = bench(StoreConfig::tiny());
    bench.runtime.block_on(async {
        let missing = bench.store.get_all("missing").await;
        assert!(
            matches!(missing, Err(StoreError::NotFound { .. })),
            "{missing:?}"
        );
        let taken = bench.store.put_if_absent("x", body()).await;
        assert!(
            matches!(taken, Err(StoreError::AlreadyExists { .. })),
            "{taken:?}"
        );
    });
    assert_eq!(bench.faulty.requests(), 2);
}

#[test]
fn a_store_that_is_down_sees_no_more_retries_than_the_budget() {
    let config = StoreConfig::tiny();
    let bench = bench(config.clone());
    bench.faulty.script([Some(Fault::Error); 2_000]);
    bench.runtime.block_on(async {
        for _ in 0..1_000 {
            let result = bench.store.get_all("x").await;
            assert!(matches!(result, Err(StoreError::Unavailable { .. })));
        }
    });
    assert_eq!(
        bench.faulty.requests(),
        1_000 + u64::from(config.retry_budget_max)
    );
    let counters = bench.store.stats().snapshot(0).counters;
    assert_eq!(counters.retries, u64::from(config.retry_budget_max));
    assert!(counters.retries_over_budget >= 900);
}

#[test]
fn a_put_whose_answer_was_lost_is_recognised_as_our_own() {
    for fault in [Fault::LostAnswer, Fault::HangAfterPut] {
        let bench = bench(StoreConfig::tiny());
        bench.faulty.script([Some(fault)]);
        let put = bench.store.put_if_absent("y", Bytes::from("ours"));
        bench.runtime.block_on(put).expect("it is there");
        assert_eq!(bench.memory.peek("y"), Some(Bytes::from("ours")));
        let counters = bench.store.stats().snapshot(0).counters;
        assert_eq!(counters.ambiguous_puts_ours, 1, "{fault:?}");
        assert_eq!(bench.faulty.requests(), 3, "put, put, read back");
    }
}

#[test]
fn a_name_taken_by_somebody_else_between_our_attempts_is_taken() {
    for theirs in ["theirs", "our", "ours and more"] {
        let bench = bench(StoreConfig::tiny());
        bench.faulty.script([Some(Fault::Error)]);
        bench.memory.tamper("y", Some(Bytes::from(theirs)));
        let put = bench.store.put_if_absent("y", Bytes::from("ours"));
        let result = bench.runtime.block_on(put);
        assert!(
            matches!(result, Err(StoreError::AlreadyExists { .. })),
            "{result:?}"
        );
        assert_eq!(bench.memory.peek("y"), Some(Bytes::from(theirs)));
    }
}

#[test]
fn writes_are_never_hedged() {
    let bench = bench(StoreConfig::default());
    bench.runtime.block_on(async {
        for _ in 0..200 {
            bench.store.get_all("x").await.expect("no faults");
        }
        let before = bench.faulty.requests();
        bench
            .faulty
            .set_plan(FaultPlan::distant(Duration::from_secs(5), None));
        bench
            .store
            .put_if_absent("slow", body())
            .await
            .expect("within its deadline");
        bench
            .store
            .list("", None)
            .await
            .expect("within its deadline");
        bench
            .store
            .delete("slow")
            .await
            .expect("within its deadline");
        assert_eq!(bench.faulty.requests() - before, 3);
    });
    assert_eq!(bench.store.stats().snapshot(0).counters.hedges_sent, 0);
}

#[test]
fn hedges_cut_the_tail_within_five_percent_of_ten_thousand_reads() {
    let config = StoreConfig {
        hedge_delay_min: Duration::from_millis(1),
        ..StoreConfig::default()
    };
    let bench = bench(config);
    let mut plan = FaultPlan::distant(Duration::from_millis(30), None);
    plan.slow_delay = Duration::from_secs(1);
    plan.permille[Fault::Slow as usize] = 30;
    bench.faulty.set_plan(plan);
    bench.runtime.block_on(async {
        for _ in 0..10_000 {
            bench.store.get_all("x").await.expect("slow is no error");
        }
    });
    let stats = bench.store.stats().snapshot(0);
    let extra = bench.faulty.requests() - 10_000;
    assert_eq!(extra, stats.counters.hedges_sent);
    assert!(extra <= 500, "{extra} extra requests");
    assert!(stats.counters.hedges_won >= 200, "{:?}", stats.counters);
    // Three in a hundred reads take 1.03 s by themselves; hedged they take two first bytes.
    let p99_us = stats.read_us.value_at_quantile(0.99);
    assert!(p99_us < 100_000, "{p99_us} us");
    let lost = stats.requests_of(RequestKind::Get, Outcome::GivenUp);
    assert_eq!(
        lost, stats.counters.hedges_sent,
        "each hedge leaves one loser"
    );
}

#[test]
fn the_budget_holds_when_every_read_is_slow() {
    let bench = bench(StoreConfig::default());
    bench.runtime.block_on(async {
        for _ in 0..200 {
            bench.store.get_all("x").await.expect("no faults");
        }
        let before = bench.faulty.requests();
        let mut plan = FaultPlan::none();
        plan.first_byte_delay = Duration::from_millis(500);
        bench.faulty.set_plan(plan);
        for read in 1..=10_000 {
            bench.store.get_all("x").await.expect("slow is no error");
            let extra = bench.faulty.requests() - before - read;
            // What the first two hundred reads saved up counts too.
            assert!(extra * 20 <= read + 200, "{extra} extra in {read} reads");
        }
    });
}
