//! Makes frozen memory layers durable: one layer object (or a few), one manifest edit, and the exchange on all cores.

use std::sync::Arc;

use futures_util::future::join_all;

use super::error::IngestError;
use super::on_cores::OnCores;
use super::version_writer::Frozen;
use crate::catalog::{Cpu, LayerStore, StoredLayer, Window};
use crate::layer::{LayerId, LayerIndex};
use crate::manifest::{Edit, LayerSection, ManifestLog, WalPosition, names};
use crate::shard::{LayerExchange, LayerKey, OpenLayer, Shard, SharedBranch, SharedBranches};
use crate::store::StoreClient;
use crate::types::Lsn;

/// The writer of a branch's layers and manifest.
pub struct Flusher<C> {
    pub(super) log: ManifestLog<StoreClient>,
    pub(super) layers: LayerStore<StoreClient>,
    pub(super) branches: Arc<SharedBranches>,
    pub(super) shared: Arc<SharedBranch>,
    pub(super) cores: C,
    /// Set while a flush is at work; found set by the next one, that one did not come to a good end.
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
        let branch = self.layers.names.branch();
        if std::mem::replace(&mut self.broken, true) {
            return Err(IngestError::Broken { branch });
        }
        let stored = self.store(&frozen, cpu).await?;
        let added: Vec<LayerSection> = stored
            .iter()
            .flat_map(|layer| LayerSection::of_layer(&layer.sealed.summary))
            .collect();
        self.log
            .commit(Edit {
                last_lsn: frozen.lsn,
                wal: Some(wal),
                added: added.clone(),
                ..Edit::default()
            })
            .await?;
        let opened = stored
            .iter()
            .map(|layer| self.open_layer(layer))
            .collect::<Result<Vec<_>, _>>()?;
        self.fill_caches(&opened, &stored).await?;
        let flushed = Flushed {
            durable_lsn: frozen.lsn,
            layers: stored.len() as u64,
            layer_bytes: stored
                .iter()
                .map(|layer| layer.sealed.summary.object_bytes)
                .sum(),
        };
        self.exchange(LayerExchange {
            added,
            opened,
            removed: Vec::new(),
            is_flush: true,
        })
        .await?;
        self.broken = false;
        Ok(flushed)
    }

    async fn store<Cp: Cpu>(
        &self,
        frozen: &Frozen,
        cpu: &Cp,
    ) -> Result<Vec<StoredLayer>, IngestError> {
        let mut stored = Vec::new();
        if frozen.layers.iter().all(|layer| layer.is_empty()) {
            return Ok(stored);
        }
        let (memory, key_space) = (frozen.layers.clone(), Arc::clone(&self.layers.key_space));
        let window = cpu.run(move || {
            let mut window = Window::new();
            for layer in &memory {
                window.push_memory(layer, &*key_space);
            }
            window
        });
        let window = window.await;
        self.layers
            .store_window(cpu, window, |layer| stored.push(layer))
            .await?;
        Ok(stored)
    }

    fn open_layer(&self, layer: &StoredLayer) -> Result<Arc<OpenLayer>, IngestError> {
        let summary = &layer.sealed.summary;
        let id = LayerId {
            tenant: self.layers.tenant,
            object: summary.layer.object,
        };
        let key = LayerKey::new(summary.dek_id, &layer.dek);
        let narrow = |at: u64| usize::try_from(at).expect("the object is in memory");
        let sealed = &layer.sealed.bytes[narrow(summary.index.start)..narrow(summary.index.end)];
        let index = LayerIndex::open(key.opener(), &id, sealed, summary.index.start)?;
        let path = names::layer(id.tenant, id.object);
        Ok(Arc::new(OpenLayer::new(id, path.into(), index, key)))
    }

    /// Puts layers that were just written into the caches of the cores.
    async fn fill_caches(
        &self,
        opened: &[Arc<OpenLayer>],
        stored: &[StoredLayer],
    ) -> Result<(), IngestError> {
        for (layer, stored) in opened.iter().zip(stored) {
            let filling = (0..self.cores.count()).map(|core| {
                let (layer, object) = (Arc::clone(layer), stored.sealed.bytes.clone());
                self.cores
                    .on_core(core, async move |shard: Shard<C::Platform>| {
                        shard.fill(&layer, &object).await;
                    })
            });
            let done: Option<Vec<()>> = join_all(filling).await.into_iter().collect();
            done.ok_or(IngestError::CoreStopped)?;
        }
        Ok(())
    }

    /// Shows the last commit to all readers of this process.
    async fn exchange(&self, exchange: LayerExchange) -> Result<(), IngestError> {
        let manifest = self.shared.manifest();
        let state = self.log.state().clone();
        self.shared
            .set_manifest(Arc::new(manifest.with_state(state)));
        let removed: Vec<_> = exchange.removed.iter().map(|layer| layer.object).collect();
        self.branches.exchange_layers(&exchange.opened, &removed);
        let (number, exchange) = (self.shared.number, Arc::new(exchange));
        let exchanging = (0..self.cores.count()).map(|core| {
            let exchange = Arc::clone(&exchange);
            self.cores
                .on_core(core, async move |shard: Shard<C::Platform>| {
                    shard.exchange(number, &exchange);
                })
        });
        let done: Option<Vec<()>> = join_all(exchanging).await.into_iter().collect();
        done.map(drop).ok_or(IngestError::CoreStopped)
    }
}
