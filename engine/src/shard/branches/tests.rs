//! Opening branches while others ask for the same, and while the store is away.

use futures_util::future::join_all;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::*;
use crate::catalog::{CatalogParts, CommitFacts, InlineCpu, WriterConfig};
use crate::crypto::entropy::Entropy;
use crate::crypto::keyring::Keyring;
use crate::io::clock::Spawner;
use crate::io::memory_disk::MemoryDisk;
use crate::io::test_runtime::TestRuntime;
use crate::store::StoreConfig;
use crate::store::client::queues;
use crate::store::faulty::{Fault, FaultPlan, Faulty};
use crate::store::memory::MemoryObjects;
use crate::store::worker::{WorkerParts, run};
use crate::types::{Id, Key, KeySpace, Partition};

struct OnePartition;

impl KeySpace for OnePartition {
    fn partition(&self, _: &Key) -> Partition {
        Partition::of_hash(0)
    }

    fn stripe(&self, _: &Key) -> u64 {
        0
    }
}

/// A process with a store that can fail.
struct World {
    runtime: TestRuntime,
    faulty: Faulty<MemoryObjects, TestRuntime>,
    branches: SharedBranches,
    _keyring: tempfile::TempDir,
}

const WAIT_MAX: Duration = Duration::from_secs(5);

impl World {
    fn new() -> World {
        let runtime = TestRuntime::default();
        let faulty = Faulty::new(
            MemoryObjects::new(10_000),
            runtime.clone(),
            FaultPlan::none(),
            1,
        );
        let config = StoreConfig::tiny();
        let (client, queues) = queues(&config);
        let parts = WorkerParts {
            objects: faulty.clone(),
            clock: runtime.clone(),
            spawner: runtime.clone(),
            disk: MemoryDisk::default(),
            random: ChaCha8Rng::seed_from_u64(2),
        };
        runtime.spawn(run(queues, parts, config));
        let place = tempfile::tempdir().expect("a directory");
        let ring = Keyring::create(&place.path().join("ring"), &[], Entropy::system());
        let catalog = Catalog::new(
            client,
            CatalogParts {
                provider: Arc::new(ring.expect("creates")),
                entropy: Entropy::system(),
                key_space: Arc::new(OnePartition),
                key_space_tag: *b"testkeys",
            },
        );
        World {
            runtime,
            faulty,
            branches: SharedBranches::new(catalog),
            _keyring: place,
        }
    }

    async fn open(&self, tenant: TenantId, branch: BranchId) -> Result<BranchNumber, ReadError> {
        self.branches
            .open((tenant, branch), &self.runtime, WAIT_MAX)
            .await
    }

    /// A tenant with an empty branch that is readable from 0x2000 on.
    async fn import(&self) -> (Arc<Tenant>, BranchId) {
        let catalog = &self.branches.0.catalog;
        let tenant = catalog.create_tenant("acme").await.expect("creates");
        let begun = catalog.begin_branch(&tenant, "main", vec![], WriterConfig::tiny());
        let (writer, uploads) = begun.await.expect("begins");
        let facts = CommitFacts {
            readable_from: Lsn(0x2000),
            last_lsn: Lsn(0x3000),
            base_backup: None,
        };
        let (branch, ()) = futures_util::join!(writer.commit(facts), uploads.run(InlineCpu));
        (tenant, branch.expect("commits"))
    }

    /// What `count` who ask at once are told, how long that takes in milliseconds, and the requests it costs.
    fn ask(&self, count: usize, tenant: TenantId, branch: BranchId) -> (Vec<String>, u64, u64) {
        let requests = self.faulty.requests();
        let began = self.runtime.now();
        let asks = (0..count).map(|_| self.open(tenant, branch));
        let answers = self.runtime.block_on(join_all(asks));
        let took = self.runtime.now().since(began);
        (
            answers.iter().map(|answer| format!("{answer:?}")).collect(),
            u64::try_from(took.as_millis()).expect("short"),
            self.faulty.requests() - requests,
        )
    }
}

fn hanging() -> FaultPlan {
    let mut plan = FaultPlan::none();
    let at = Fault::ALL.iter().position(|fault| *fault == Fault::Hang);
    plan.permille[at.expect("a fault")] = 1000;
    plan
}

/// They used to queue up behind a lock, each to wait for a store that is away with a deadline of its own.
#[test]
fn all_who_ask_for_a_branch_while_the_store_is_away_share_one_wait_and_one_error() {
    let one_alone = {
        let world = World::new();
        let (tenant, branch) = world.runtime.block_on(world.import());
        world.faulty.set_plan(hanging());
        world.ask(1, tenant.id(), branch)
    };
    assert!(one_alone.0[0].contains("Unavailable"), "{one_alone:?}");
    let world = World::new();
    let (tenant, branch) = world.runtime.block_on(world.import());
    world.faulty.set_plan(hanging());
    let (answers, took, requests) = world.ask(500, tenant.id(), branch);
    assert_eq!((took, requests), (one_alone.1, one_alone.2));
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert!(answers[0].contains("Unavailable"), "{}", answers[0]);

    // Nothing of it stays, and when the store is back the branch opens.
    assert_eq!(world.branches.0.branches.len(), 0);
    world.faulty.set_plan(FaultPlan::none());
    let (answers, ..) = world.ask(500, tenant.id(), branch);
    assert!(answers.iter().all(|a| a == "Ok(0)"), "{}", answers[0]);
}

#[test]
fn who_waits_is_told_at_the_deadline_of_the_first_who_asked() {
    let world = World::new();
    let (tenant, branch) = world.runtime.block_on(world.import());
    world.faulty.set_plan(hanging());
    let wait_max = Duration::from_millis(60);
    let open = |wait| {
        let world = &world;
        let id = (tenant.id(), branch);
        async move {
            world.runtime.sleep(Duration::from_millis(wait)).await;
            let opened = world.branches.open(id, &world.runtime, wait_max).await;
            assert!(matches!(opened, Err(ReadError::Unavailable { .. })));
            world.runtime.now().0 / 1_000_000
        }
    };
    let began = world.runtime.now().0 / 1_000_000;
    let told = world
        .runtime
        .block_on(join_all([open(0), open(30), open(59)]));
    assert_eq!(told, [began + 60; 3]);
    assert_eq!(world.branches.0.branches.len(), 0);
    assert_eq!(world.branches.0.tenants.len(), 0);
}

/// There used to be an entry for each tenant id that anybody ever asked for.
#[test]
fn tenants_and_branches_that_are_not_there_leave_nothing_behind() {
    let world = World::new();
    let (tenant, branch) = world.runtime.block_on(world.import());
    world.runtime.block_on(async {
        for number in 0..50_u8 {
            for id in [
                (TenantId(Id([number; 16])), branch),
                (tenant.id(), BranchId(Id([number; 16]))),
            ] {
                let opened = world.open(id.0, id.1).await;
                assert!(matches!(opened, Err(ReadError::NoSuchBranch { .. })));
            }
        }
    });
    let shared = &world.branches.0;
    assert_eq!(shared.branches.len() + shared.tenants.len(), 0);
    assert!(shared.tables().numbers.is_empty());
}

/// An old manifest may let a child show more than its parent does.
#[test]
fn a_branch_is_readable_from_its_parents_horizon_on() {
    let world = World::new();
    let (tenant, parent) = world.runtime.block_on(world.import());
    let number = world.runtime.block_on(async {
        let catalog = &world.branches.0.catalog;
        let state = catalog.open_branch(tenant.id(), parent).await;
        let state = state.expect("opens");
        let begun = catalog.begin_child(&tenant, "dev", &state, Lsn(0x2800), WriterConfig::tiny());
        let (mut writer, uploads) = begun.await.expect("begins");
        writer.forget_parents_horizon();
        let facts = CommitFacts {
            readable_from: Lsn(0x1000),
            last_lsn: Lsn(0x3000),
            base_backup: None,
        };
        let (child, ()) = futures_util::join!(writer.commit(facts), uploads.run(InlineCpu));
        let child = child.expect("commits");
        let state = catalog.open_branch(tenant.id(), child).await;
        assert_eq!(state.expect("opens").readable_from(), Some(Lsn(0x1000)));
        world.open(tenant.id(), child).await.expect("opens")
    });
    assert_eq!(world.branches.get(number).readable_from(), Lsn(0x2000));
}
