//! The writer of a branch's manifest: makes frozen memory layers durable, commits what compaction made, and shows either to
//! all cores.

use std::sync::Arc;

use futures_util::future::join_all;

use super::compaction::{Compacted, Compaction};
use super::error::IngestError;
use super::made_layers::{LayerMaker, MadeLayer};
use super::on_cores::OnCores;
use super::retention::{Due, Retention};
use super::version_writer::Frozen;
use crate::catalog::{Cpu, Window};
use crate::io::clock::Moment;
use crate::manifest::{BranchFacts, Edit, KeptHistory, LayerSection, ManifestLog, WalPosition};
use crate::shard::{LayerExchange, Shard, SharedBranch, SharedBranches, Writing};
use crate::store::StoreClient;
use crate::types::Lsn;

/// The writer of a branch's layers and manifest.
pub struct Flusher<C> {
    pub(super) log: ManifestLog<StoreClient>,
    pub(super) layers: LayerMaker<C>,
    pub(super) branches: Arc<SharedBranches>,
    pub(super) shared: Arc<SharedBranch>,
    pub(super) _writing: Writing,
    /// Set while a commit is at work; found set by the next one, that one did not come to a good end.
    pub(super) broken: bool,
}

/// What a flush wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flushed {
    /// Everything up to here is in layers that the manifest names.
    pub durable_lsn: Lsn,
    /// Layers.
    pub layers: u64,
    /// Their bytes.
    pub layer_bytes: u64,
}

impl<C: OnCores> Flusher<C> {
    /// Up to where everything is in layers that the manifest names.
    pub fn durable_lsn(&self) -> Lsn {
        self.log.facts().last_lsn
    }

    /// Seals what was frozen (on `cpu`), stores it, commits it, and lets the cores go over from memory to the layers.
    /// `wal` is where the stored WAL goes on behind it.
    ///
    /// # Errors
    /// `Fenced`: another writer has the branch. After any error the flusher is of no more use, since the outcome of a put
    /// may be unknown; what was frozen stays readable in memory.
    ///
    /// # Cancellation
    /// As after an error.
    pub async fn flush<Cp: Cpu>(
        &mut self,
        frozen: Frozen,
        wal: WalPosition,
        cpu: &Cp,
    ) -> Result<Flushed, IngestError> {
        self.begin_call()?;
        let made = self.make_layers(&frozen, cpu).await?;
        let added: Vec<LayerSection> = made
            .iter()
            .flat_map(|layer| LayerSection::of_layer(&layer.stored.sealed.summary))
            .collect();
        self.log
            .commit(Edit {
                last_lsn: frozen.lsn,
                wal: Some(wal),
                added: added.clone(),
                ..Edit::default()
            })
            .await?;
        self.layers.fill_caches(&made).await?;
        let flushed = Flushed {
            durable_lsn: frozen.lsn,
            layers: made.len() as u64,
            layer_bytes: made.iter().map(|layer| layer.object().len() as u64).sum(),
        };
        self.exchange(LayerExchange {
            added,
            opened: made.into_iter().map(|layer| layer.open).collect(),
            removed: Vec::new(),
            is_flush: true,
        })
        .await?;
        self.broken = false;
        Ok(flushed)
    }

    /// Commits what a compaction made, and lets the cores go over to it. The layers it was made of are in no manifest from then
    /// on.
    ///
    /// # Errors
    /// As [`Flusher::flush`].
    ///
    /// # Cancellation
    /// As after an error.
    pub async fn commit_compaction(
        &mut self,
        compacted: Compacted,
    ) -> Result<Compaction, IngestError> {
        self.begin_call()?;
        let Compacted {
            added,
            opened,
            removed,
            compaction,
        } = compacted;
        self.log
            .commit(Edit {
                last_lsn: self.durable_lsn(),
                added: added.clone(),
                removed: removed.clone(),
                ..Edit::default()
            })
            .await?;
        self.exchange(LayerExchange {
            added,
            opened,
            removed,
            is_flush: false,
        })
        .await?;
        self.broken = false;
        Ok(compaction)
    }

    /// Shows nothing below `lsn` any more, of what is durable; whatever reads or leaves the branch below it is refused from then
    /// on. Nothing is given up by this.
    async fn raise_horizon(&mut self, lsn: Lsn) -> Result<(), IngestError> {
        let facts = self.log.facts();
        let lsn = lsn.min(facts.last_lsn);
        if facts.readable_from.is_none_or(|from| lsn <= from) {
            return Ok(());
        }
        self.begin_call()?;
        self.log
            .commit(Edit {
                last_lsn: self.durable_lsn(),
                readable_from: Some(lsn),
                ..Edit::default()
            })
            .await?;
        self.shared.raise_horizon(lsn);
        self.show_manifest();
        self.broken = false;
        Ok(())
    }

    /// Gives up all history but `kept`, which has to be below the horizon: compaction leaves it out from then on.
    async fn give_up(&mut self, kept: KeptHistory) -> Result<(), IngestError> {
        self.begin_call()?;
        self.log.keep_history(kept.clone()).await?;
        self.show_manifest();
        let (number, kept) = (self.shared.number, Arc::new(kept));
        let cores = &self.layers.cores;
        let telling = (0..cores.count()).map(|core| {
            let kept = Arc::clone(&kept);
            cores.on_core(core, async move |shard: Shard<C::Platform>| {
                shard.keep(number, kept);
            })
        });
        let told: Option<Vec<()>> = join_all(telling).await.into_iter().collect();
        told.ok_or(IngestError::CoreStopped)?;
        self.broken = false;
        Ok(())
    }

    /// Does what retention wants now, if anything; nothing below `wanted` has to be readable.
    ///
    /// # Errors
    /// As [`Flusher::flush`].
    ///
    /// # Cancellation
    /// As after an error.
    pub async fn retain(
        &mut self,
        retention: &mut Retention,
        wanted: Lsn,
        now: Moment,
    ) -> Result<Due, IngestError> {
        let due = retention.due(self.log.facts(), wanted, now);
        match due {
            Due::Nothing => {}
            Due::Raise(horizon) => self.raise_horizon(horizon).await?,
            Due::GiveUp(from) => {
                let kept = self.to_keep(from).await?;
                if kept != self.facts().kept {
                    self.give_up(kept).await?;
                }
            }
        }
        Ok(due)
    }

    /// What of the branch's history has to stay, if nothing below `from` is shown: what branches see that left it, named ones and
    /// those open in this process.
    async fn to_keep(&self, from: Lsn) -> Result<KeptHistory, IngestError> {
        let catalog = self.branches.catalog();
        let tenant = catalog.tenant(self.layers.store.tenant).await?;
        let branch = self.layers.store.names.branch();
        let mut points = catalog.branch_points(&tenant, branch).await?;
        points.extend(self.branches.branch_points(self.shared.number));
        // What was given up does not come back.
        let before = &self.facts().kept;
        points.retain(|lsn| before.has(*lsn));
        Ok(KeptHistory::new(from, points))
    }

    /// Whether it can go on: not after a commit that did not come to a good end.
    pub fn is_sound(&self) -> bool {
        !self.broken
    }

    /// What the manifest says of the branch as a whole.
    pub fn facts(&self) -> &BranchFacts {
        self.log.facts()
    }

    /// A call that does not come to its end leaves the flusher broken.
    fn begin_call(&mut self) -> Result<(), IngestError> {
        let branch = self.layers.store.names.branch();
        if std::mem::replace(&mut self.broken, true) {
            return Err(IngestError::Broken { branch });
        }
        Ok(())
    }

    fn show_manifest(&self) {
        let manifest = self.shared.manifest();
        let state = self.log.state().clone();
        self.shared
            .set_manifest(Arc::new(manifest.with_state(state)));
    }

    async fn make_layers<Cp: Cpu>(
        &self,
        frozen: &Frozen,
        cpu: &Cp,
    ) -> Result<Vec<MadeLayer>, IngestError> {
        let memory = frozen.layers.clone();
        let key_space = Arc::clone(&self.layers.store.key_space);
        let window = cpu.run(move || {
            let mut window = Window::new();
            for layer in &memory {
                window.push_memory(layer, &*key_space);
            }
            window
        });
        self.layers.make(window.await, cpu).await
    }

    /// Shows the last commit to all readers of this process.
    async fn exchange(&self, exchange: LayerExchange) -> Result<(), IngestError> {
        self.show_manifest();
        let removed: Vec<_> = exchange.removed.iter().map(|layer| layer.object).collect();
        self.branches.exchange_layers(&exchange.opened, &removed);
        let (number, exchange) = (self.shared.number, Arc::new(exchange));
        let cores = &self.layers.cores;
        let exchanging = (0..cores.count()).map(|core| {
            let exchange = Arc::clone(&exchange);
            cores.on_core(core, async move |shard: Shard<C::Platform>| {
                shard.exchange(number, &exchange);
            })
        });
        let done: Option<Vec<()>> = join_all(exchanging).await.into_iter().collect();
        done.map(drop).ok_or(IngestError::CoreStopped)
    }
}
