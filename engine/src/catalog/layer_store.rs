//! A window of versions becomes layers in the store: sorted, sealed, put under names of their own. Nothing names them
//! until a manifest does.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;

use super::cpu::Cpu;
use super::error::CatalogError;
use super::window::{LayerPlace, Window};
use crate::crypto::page_seal::Dek;
use crate::layer::{LayerConfig, SealedLayer};
use crate::manifest::{PutOnce, WriterNames, names, put_once};
use crate::store::objects::{Objects, StoreError};
use crate::types::{KeySpace, TenantId};

/// Where the layers of one writer go.
pub(crate) struct LayerStore<O> {
    pub(crate) objects: O,
    pub(crate) key_space: Arc<dyn KeySpace>,
    pub(crate) tenant: TenantId,
    pub(crate) names: Arc<WriterNames<O>>,
    pub(crate) config: LayerConfig,
}

/// A layer that is durable in the store.
pub(crate) struct StoredLayer {
    pub(crate) sealed: SealedLayer,
    /// What it is sealed under.
    pub(crate) dek: Arc<Dek>,
}

impl<O: Objects> LayerStore<O> {
    /// Seals a window on `cpu` and stores its layers: one is on its way while the next is sealed. `stored` hears of each
    /// that is durable.
    pub(crate) async fn store_window<C: Cpu>(
        &self,
        cpu: &C,
        window: Window,
        mut stored: impl FnMut(StoredLayer),
    ) -> Result<(), CatalogError> {
        let mut uploads = FuturesUnordered::new();
        let mut rest = Some(window);
        while let Some(mut window) = rest.take() {
            let next = self.names.next();
            let (object, dek_id, dek) = beside(&mut uploads, &mut stored, next).await??;
            let place = LayerPlace {
                tenant: self.tenant,
                object,
                dek_id,
                dek: Arc::clone(&dek),
                key_space: Arc::clone(&self.key_space),
                config: self.config.clone(),
            };
            let build = cpu.run(move || {
                let (layer, more) = window.build_layer(&place);
                (layer, more.then_some(window))
            });
            let (sealed, more) = beside(&mut uploads, &mut stored, build).await?;
            rest = more;
            while let Some(layer) = uploads.next().await.transpose()? {
                stored(layer);
            }
            uploads.push(self.upload(StoredLayer { sealed, dek }));
        }
        while let Some(layer) = uploads.next().await.transpose()? {
            stored(layer);
        }
        Ok(())
    }

    async fn upload(&self, layer: StoredLayer) -> Result<StoredLayer, CatalogError> {
        let path = names::layer(self.tenant, layer.sealed.summary.layer.object);
        if put_once(&self.objects, &path, layer.sealed.bytes.clone()).await? == PutOnce::Taken {
            return Err(StoreError::AlreadyExists { path }.into());
        }
        Ok(layer)
    }
}

/// The output of `work`, while others go on, of which `done` hears; the first error of those ends it.
pub(super) async fn beside<T, D, U>(
    others: &mut FuturesUnordered<U>,
    done: &mut impl FnMut(D),
    work: impl Future<Output = T>,
) -> Result<T, CatalogError>
where
    U: Future<Output = Result<D, CatalogError>>,
{
    let mut work = pin!(work);
    while !others.is_empty() {
        match select(work.as_mut(), others.next()).await {
            Either::Left((output, _)) => return Ok(output),
            Either::Right((outcome, _)) => {
                if let Some(output) = outcome.transpose()? {
                    done(output);
                }
            }
        }
    }
    Ok(work.await)
}
