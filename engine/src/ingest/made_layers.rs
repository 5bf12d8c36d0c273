//! Layers on their way into a branch: stored, opened, and put into the caches of the cores, before anybody looks for them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::error::IngestError;
use super::on_cores::OnCores;
use crate::catalog::{Cpu, LayerStore, StoredLayer, Window};
use crate::layer::{LayerId, LayerIndex};
use crate::manifest::names;
use crate::shard::{LayerKey, OpenLayer, Shard};
use crate::store::StoreClient;

/// Makes layers of one branch. Cheap to clone.
pub(super) struct LayerMaker<C> {
    pub(super) store: Arc<LayerStore<StoreClient>>,
    pub(super) cores: C,
}

impl<C: Clone> Clone for LayerMaker<C> {
    fn clone(&self) -> LayerMaker<C> {
        LayerMaker {
            store: Arc::clone(&self.store),
            cores: self.cores.clone(),
        }
    }
}

/// A layer that is in the store and open.
pub(super) struct MadeLayer {
    pub(super) open: Arc<OpenLayer>,
    pub(super) stored: StoredLayer,
}

impl MadeLayer {
    /// The object as it was stored.
    pub(super) fn object(&self) -> &Bytes {
        &self.stored.sealed.bytes
    }
}

impl<C: OnCores> LayerMaker<C> {
    /// Seals a window (on `cpu`), stores what it gives, and opens it. A window without versions gives nothing.
    pub(super) async fn make<Cp: Cpu>(
        &self,
        window: Window,
        cpu: &Cp,
    ) -> Result<Vec<MadeLayer>, IngestError> {
        let mut made = Vec::new();
        if window.is_empty() {
            return Ok(made);
        }
        let mut stored = Vec::new();
        self.store
            .store_window(cpu, window, |layer| stored.push(layer))
            .await?;
        for stored in stored {
            let open = self.open(&stored)?;
            made.push(MadeLayer { open, stored });
        }
        Ok(made)
    }

    fn open(&self, layer: &StoredLayer) -> Result<Arc<OpenLayer>, IngestError> {
        let summary = &layer.sealed.summary;
        let id = LayerId {
            tenant: self.store.tenant,
            object: summary.layer.object,
        };
        let key = LayerKey::new(summary.dek_id, &layer.dek);
        let narrow = |at: u64| usize::try_from(at).expect("the object is in memory");
        let sealed = &layer.sealed.bytes[narrow(summary.index.start)..narrow(summary.index.end)];
        let index = LayerIndex::open(key.opener(), &id, sealed, summary.index.start)?;
        let path = names::layer(id.tenant, id.object);
        Ok(Arc::new(OpenLayer::new(id, path.into(), index, key)))
    }

    /// Puts layers into the caches of the cores.
    pub(super) async fn fill_caches(&self, made: &[MadeLayer]) -> Result<(), IngestError> {
        for layer in made {
            let filling = (0..self.cores.count()).map(|core| {
                let (open, object) = (Arc::clone(&layer.open), layer.object().clone());
                self.cores
                    .on_core(core, async move |shard: Shard<C::Platform>| {
                        shard.fill(&open, &object).await;
                    })
            });
            let done: Option<Vec<()>> = join_all(filling).await.into_iter().collect();
            done.ok_or(IngestError::CoreStopped)?;
        }
        Ok(())
    }
}
