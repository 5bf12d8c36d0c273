//! New branches, looked up by their names afterwards; and what must have become of them.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use engine::catalog::{Catalog, CatalogError, CommitFacts, InlineCpu, WriterConfig};
use engine::io::clock::Clock;
use engine::layer::Value;
use engine::manifest::TimelineSpan;
use engine::store::StoreClient;
use engine::types::{BranchId, Lsn, TenantId};
use futures_util::future::{Either, LocalBoxFuture, select};

use super::{Driver, Failure, HANGS_AFTER};
use crate::computer::Server;
use crate::coverage::Phase;
use crate::executor::Process;
use crate::model::{Fate, Kind, ModelBranch, UNKNOWN_ID};

/// How an import ended; `None` if it was cut off.
pub(super) type Outcome = Option<Result<(), CatalogError>>;

/// An import under way.
pub(super) struct Import {
    model: ModelBranch,
    progress: Rc<Progress>,
    /// Its answer; `None` if it was killed. Begins when it is first polled.
    pub(super) ended: LocalBoxFuture<'static, Outcome>,
}

/// How far an import has come.
#[derive(Default)]
struct Progress {
    branch: Cell<Option<BranchId>>,
    committing: Cell<bool>,
    cancel: Cell<bool>,
}

impl Driver {
    /// Begins to create a branch: from nothing, or out of one that is there.
    pub(super) fn begin_import(&mut self, server: &Server) -> Import {
        let name = self.draw_name();
        let committed = |branch: &&ModelBranch| branch.fate == Fate::Committed;
        let parents: Vec<&ModelBranch> = self.branches.iter().filter(committed).collect();
        let model = if !parents.is_empty() && self.rng.chance(400) {
            let parent = parents[self.rng.index(parents.len())];
            parent.draw_child(&mut self.rng, name)
        } else {
            ModelBranch::draw(&mut self.rng, name)
        };
        self.begin_import_of(server, model)
    }

    /// A name that nobody has used.
    pub(super) fn draw_name(&mut self) -> String {
        self.next_name += 1;
        format!("b{}", self.next_name)
    }

    fn begin_import_of(&self, server: &Server, model: ModelBranch) -> Import {
        let progress = Rc::new(Progress::default());
        let work = import(
            server.catalog.clone(),
            self.tenant,
            server.process.clone(),
            model.clone(),
            Rc::clone(&progress),
        );
        let process = server.process.clone();
        Import {
            model,
            progress,
            ended: Box::pin(async move { process.call(work).await }),
        }
    }

    /// Creates a branch, or gives up over it.
    pub(super) async fn import(&mut self, server: &Server) -> Result<(), Failure> {
        self.computer.coverage.enter(Phase::Writing);
        self.rot_sometimes();
        let mut import = self.begin_import(server);
        let gives_up = self.rng.chance(200);
        let patience = if gives_up {
            Duration::from_micros(self.rng.below(300_000))
        } else {
            HANGS_AFTER
        };
        let outcome = self.read_beside(server, &mut import, patience).await?;
        if outcome.is_none() && !gives_up {
            return Err(format!("import {} hangs", import.model.name));
        }
        import.progress.cancel.set(true);
        self.computer.coverage.enter(Phase::Serving);
        self.note_import(import, outcome)
    }

    /// Reads while an import runs; its outcome, or `None` if it lasts longer than `patience`.
    pub(super) async fn read_beside(
        &mut self,
        server: &Server,
        import: &mut Import,
        patience: Duration,
    ) -> Result<Outcome, Failure> {
        let clock = self.computer.simulator.clone();
        let mut over = pin!(clock.sleep(patience));
        for _ in 0..READS_BESIDE_IMPORT {
            if self.branches.is_empty() {
                break;
            }
            let branch = self.rng.index(self.branches.len());
            let reads = pin!(self.read_batch(server, branch, 6));
            match select(select(import.ended.as_mut(), over.as_mut()), reads).await {
                Either::Left((Either::Left((outcome, _)), reads)) => {
                    reads.await?;
                    return Ok(outcome);
                }
                Either::Left((Either::Right(_), reads)) => {
                    reads.await?;
                    return Ok(None);
                }
                Either::Right((judged, _)) => judged?,
            }
        }
        match select(import.ended.as_mut(), over).await {
            Either::Left((outcome, _)) => Ok(outcome),
            Either::Right(_) => Ok(None),
        }
    }

    /// Two imports at once under one name: at most one of them may get it.
    pub(super) async fn import_twins(&mut self, server: &Server) -> Result<(), Failure> {
        self.computer.coverage.enter(Phase::Writing);
        let mut one = self.begin_import(server);
        let other = ModelBranch::draw(&mut self.rng, one.model.name.clone());
        let mut other = self.begin_import_of(server, other);
        let outcomes = futures_util::future::join(one.ended.as_mut(), other.ended.as_mut()).await;
        self.computer.coverage.enter(Phase::Serving);
        let name = one.model.name.clone();
        self.computer
            .simulator
            .event(format_args!("twins {name}: {outcomes:?}"));
        match outcomes {
            (Some(Ok(())), Some(Ok(()))) => Err(format!("two branches got the name {name}")),
            (won @ Some(Ok(())), _) => self.note_import(one, won),
            (_, won @ Some(Ok(()))) => self.note_import(other, won),
            // Nobody heard that it won; who did, if anybody, is not followed up.
            _ => Ok(()),
        }
    }

    /// What became of an import: its own answer, or none if it was cut off.
    pub(super) fn note_import(&mut self, import: Import, outcome: Outcome) -> Result<(), Failure> {
        let Import {
            mut model,
            progress,
            ..
        } = import;
        let name = model.name.clone();
        let fate = match &outcome {
            Some(Ok(())) => Fate::Committed,
            _ if progress.committing.get() => Fate::Doubtful,
            _ => Fate::Unfinished,
        };
        self.computer
            .simulator
            .event(format_args!("import {name} {fate:?}: {outcome:?}"));
        // One that did not even begin has no id.
        if let Some(id) = progress.branch.get() {
            let committed = u64::from(fate == Fate::Committed);
            self.judged.branches += committed;
            self.judged.children += committed * u64::from(model.parent.is_some());
            model.id = id;
            model.fate = fate;
            self.branches.push(model);
        }
        match outcome {
            Some(Err(error)) if !self.regime.allows_failures() => Err(format!(
                "import {name}: {error}, and nothing excuses it in {:?}",
                self.regime
            )),
            _ => Ok(()),
        }
    }

    /// Looks a branch up by its name.
    pub(super) async fn look_up(&mut self, server: &Server, branch: usize) -> Result<(), Failure> {
        let model = &mut self.branches[branch];
        let (catalog, tenant, name) = (server.catalog.clone(), self.tenant, model.name.clone());
        let find = async move {
            let tenant = catalog.tenant(tenant).await?;
            catalog.find_branch(&tenant, &name).await
        };
        let Some(found) = server.process.call(find).await else {
            return Err("a process ended by itself".to_owned());
        };
        self.computer
            .simulator
            .event(format_args!("look up {}: {found:?}", model.name));
        match (found, model.fate) {
            (Ok(id), Fate::Committed | Fate::Doubtful)
                if id == model.id || model.id == UNKNOWN_ID =>
            {
                model.id = id;
                model.fate = Fate::Committed;
                Ok(())
            }
            (Err(CatalogError::NoSuchBranch { .. }), Fate::Unfinished | Fate::Doubtful) => Ok(()),
            (Err(CatalogError::NoSuchBranch { .. }), _) if self.regime.damaged => {
                self.judged.excused += 1;
                Ok(())
            }
            (Err(error), _)
                if !matches!(error, CatalogError::NoSuchBranch { .. })
                    && self.regime.allows_failures() =>
            {
                self.judged.excused += 1;
                Ok(())
            }
            (found, fate) => Err(format!(
                "branch {} is {fate:?}, its name says {found:?}",
                model.name
            )),
        }
    }
}

/// Writes the content of `model` as a new branch.
async fn import(
    catalog: Catalog<StoreClient>,
    tenant: TenantId,
    process: Process,
    model: ModelBranch,
    progress: Rc<Progress>,
) -> Result<(), CatalogError> {
    let opened = catalog.tenant(tenant).await?;
    let (name, config) = (&model.name, WriterConfig::tiny());
    let begun = if let Some((parent, left_at)) = model.parent {
        let parent = catalog.open_branch(tenant, parent).await?;
        let child = catalog.begin_child(&opened, name, &parent, left_at, config);
        child.await?
    } else {
        let timeline = TimelineSpan {
            timeline: 1,
            from: Lsn(1),
            to: Lsn::MAX,
        };
        let branch = catalog.begin_branch(&opened, name, vec![timeline], config);
        branch.await?
    };
    let (mut writer, uploads) = begun;
    progress.branch.set(Some(writer.id()));
    process.spawn(uploads.run(InlineCpu));
    for (key, lsn, version) in model.in_order_of_arrival() {
        if progress.cancel.get() {
            return Ok(());
        }
        let stored = version.stored();
        let value = match version.kind() {
            Kind::Image => Value::Image(&stored),
            Kind::Delta | Kind::BeginningDelta => Value::Delta(&stored),
        };
        writer.put(key, lsn, value).await?;
    }
    if progress.cancel.get() {
        return Ok(());
    }
    progress.committing.set(true);
    let facts = CommitFacts {
        readable_from: model.readable_from,
        last_lsn: model.last_lsn,
        base_backup: None,
    };
    writer.commit(facts).await?;
    Ok(())
}

/// Batches of reads beside one import.
const READS_BESIDE_IMPORT: usize = 6;
