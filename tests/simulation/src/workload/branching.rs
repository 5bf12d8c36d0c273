//! Branches of branches by one put: one is visible when the call returns, or it was not told whether it is; of two that
//! race for a name one wins. Now and then somebody writes to one at once, so that it gets a manifest.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use engine::catalog::{Catalog, CatalogError};
use engine::io::clock::Clock;
use engine::manifest::Edit;
use engine::store::StoreClient;
use engine::types::{BranchId, Lsn, TenantId};
use futures_util::future::{Either, join, select};

use super::writing::Outcome;
use super::{Driver, Failure, HANGS_AFTER};
use crate::computer::Server;
use crate::coverage::Phase;
use crate::model::{Fate, ModelBranch};

/// A branch to be made.
struct Making {
    model: ModelBranch,
    /// Of the parent: its name, or its id.
    parent: String,
    progress: Rc<Progress>,
}

/// How far it has come.
#[derive(Default)]
struct Progress {
    putting: Cell<bool>,
    made: Cell<Option<BranchId>>,
}

impl Driver {
    /// Makes a branch, or gives up over it.
    pub(super) async fn branch(&mut self, server: &Server) -> Result<(), Failure> {
        let name = self.draw_name();
        let Some(making) = self.draw_making(name) else {
            return Ok(());
        };
        self.computer.coverage.enter(Phase::Writing);
        let gives_up = self.rng.chance(200);
        let patience = if gives_up {
            Duration::from_micros(self.rng.below(20_000))
        } else {
            HANGS_AFTER
        };
        let over = self.computer.simulator.sleep(patience);
        let work = server
            .process
            .call(make(server.catalog.clone(), self.tenant, &making));
        let outcome = match select(pin!(work), pin!(over)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) if gives_up => None,
            Either::Right(_) => return Err(format!("branch {} hangs", making.model.name)),
        };
        self.computer.coverage.enter(Phase::Serving);
        self.note_branch(making, outcome)
    }

    /// Two branches at once under one name: at most one of them gets it, and if one hears that the name is taken, the
    /// other one has it.
    pub(super) async fn branch_twins(&mut self, server: &Server) -> Result<(), Failure> {
        let name = self.draw_name();
        let drawn = (
            self.draw_making(name.clone()),
            self.draw_making(name.clone()),
        );
        let (Some(mut one), Some(mut other)) = drawn else {
            return Ok(());
        };
        // Two that are all the same can't be told apart afterwards.
        for making in [&mut one, &mut other] {
            making.model.is_written = false;
            making.model.last_lsn = left_at(&making.model);
        }
        self.computer.coverage.enter(Phase::Writing);
        let make = |making| {
            let work = make(server.catalog.clone(), self.tenant, making);
            server.process.call(work)
        };
        let outcomes = join(make(&one), make(&other)).await;
        self.computer.coverage.enter(Phase::Serving);
        self.judged.races += 1;
        self.computer
            .simulator
            .event(format_args!("twins {name}: {outcomes:?}"));
        let taken =
            |outcome: &Outcome| matches!(outcome, Some(Err(CatalogError::BranchExists { .. })));
        match outcomes {
            (Some(Ok(())), Some(Ok(()))) => Err(format!("two branches got the name {name}")),
            (won @ Some(Ok(())), _) => self.note_branch(one, won),
            (_, won @ Some(Ok(()))) => self.note_branch(other, won),
            (first, second) if taken(&first) && taken(&second) => {
                Err(format!("nobody got the name {name}, and it was taken"))
            }
            (first, second) if taken(&first) => self.note_branch(other, second),
            (first, second) if taken(&second) => self.note_branch(one, first),
            // Nobody heard who won, if anybody; it is not followed up.
            _ => Ok(()),
        }
    }

    /// A branch to make; none where there is no parent that is known to be there.
    fn draw_making(&mut self, name: String) -> Option<Making> {
        let committed = |branch: &&ModelBranch| branch.fate == Fate::Committed;
        let parents: Vec<&ModelBranch> = self.branches.iter().filter(committed).collect();
        if parents.is_empty() {
            return None;
        }
        let parent = parents[self.rng.index(parents.len())];
        let mut model = parent.draw_plain_child(&mut self.rng, name);
        let by_name = self.rng.chance(500);
        // Somebody writes to it at once, who moves its last LSN.
        model.is_written = self.rng.chance(300);
        if model.is_written {
            model.last_lsn.0 += 1 + self.rng.below(1000);
        }
        Some(Making {
            model,
            parent: if by_name {
                parent.name.clone()
            } else {
                parent.id.to_string()
            },
            progress: Rc::default(),
        })
    }

    /// What became of a branch: its own answer, or none if it was given up.
    fn note_branch(&mut self, making: Making, outcome: Outcome) -> Result<(), Failure> {
        let Making {
            mut model,
            progress,
            ..
        } = making;
        let is_written = model.is_written;
        let name = model.name.clone();
        let made = progress.made.get();
        let fate = match &outcome {
            Some(Ok(())) => Fate::Committed,
            // One that was made is: unless its last LSN was being moved nothing is in doubt.
            _ if made.is_some() && !is_written => Fate::Committed,
            _ if progress.putting.get() => Fate::Doubtful,
            _ => Fate::Unfinished,
        };
        self.computer
            .simulator
            .event(format_args!("branch {name} {fate:?}: {outcome:?}"));
        let is_followed = match fate {
            Fate::Committed => true,
            // Who writes to one that may be there moves an LSN that may be moved: too many cases.
            Fate::Doubtful => !is_written,
            Fate::Unfinished => false,
        };
        if is_followed {
            model.id = made.unwrap_or(model.id);
            model.fate = fate;
            let committed = u64::from(fate == Fate::Committed);
            self.judged.branches += committed;
            self.judged.children += committed;
            self.judged.children_of_one_put += committed;
            self.branches.push(model);
        }
        match outcome {
            Some(Err(error)) if !self.regime.allows_failures() => Err(format!(
                "branch {name}: {error}, and nothing excuses it in {:?}",
                self.regime
            )),
            _ => Ok(()),
        }
    }
}

fn left_at(model: &ModelBranch) -> Lsn {
    model.parent.map_or(model.last_lsn, |(_, left_at)| left_at)
}

/// Makes the branch, and writes to it.
fn make(
    catalog: Catalog<StoreClient>,
    tenant: TenantId,
    making: &Making,
) -> impl Future<Output = Result<(), CatalogError>> + use<> {
    let (name, parent) = (making.model.name.clone(), making.parent.clone());
    let (left_at, last_lsn) = (left_at(&making.model), making.model.last_lsn);
    let is_written = making.model.is_written;
    let progress = Rc::clone(&making.progress);
    async move {
        let tenant = catalog.tenant(tenant).await?;
        let parent = catalog.find_parent(&tenant, &parent).await?;
        progress.putting.set(true);
        let create = catalog.create_child(&tenant, &name, &parent, Some(left_at));
        let child = create.await?;
        progress.made.set(Some(child.id));
        if is_written {
            let mut log = catalog.claim_branch(&tenant, child.id).await?;
            let edit = Edit {
                last_lsn,
                ..Edit::default()
            };
            log.commit(edit).await?;
        }
        Ok(())
    }
}
