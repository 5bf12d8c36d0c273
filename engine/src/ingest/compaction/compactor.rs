//! Reads layers, merges them, and stores what comes of it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};

use super::config::CompactionConfig;
use super::plan::{Plan, plan};
use super::review::{Images, WantedImage, review};
use crate::catalog::Cpu;
use crate::ingest::error::IngestError;
use crate::ingest::made_layers::LayerMaker;
use crate::ingest::on_cores::OnCores;
use crate::manifest::{KeptHistory, LayerSection, RemovedLayer};
use crate::merge::{DoesNotOpen, MergeReader, Step};
use crate::redo::Redo;
use crate::shard::{OpenLayer, Shard, SharedBranch, SharedBranches};
use crate::store::StoreClient;
use crate::types::{BranchId, ObjectId, PAGE_BYTES, Partition, TenantId};

/// Merges layers of one branch; what comes of it is for [`Flusher::commit_compaction`](super::super::Flusher::commit_compaction).
pub struct Compactor<C> {
    pub(in crate::ingest) place: (TenantId, BranchId),
    pub(in crate::ingest) layers: LayerMaker<C>,
    pub(in crate::ingest) branches: Arc<SharedBranches>,
    pub(in crate::ingest) shared: Arc<SharedBranch>,
    pub(in crate::ingest) store: StoreClient,
    pub(in crate::ingest) redo: Arc<dyn Redo>,
    pub(in crate::ingest) config: CompactionConfig,
    pub(in crate::ingest) jobs: RefCell<Jobs>,
}

/// What compactions of this process made.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Jobs {
    count: u64,
    /// Which of them made a layer that is there.
    made_by: HashMap<ObjectId, u64>,
    /// Made, and not handed on: of one that is at work, or did not come to its end.
    unfinished: Vec<(ObjectId, u64)>,
}

/// What a compaction made, not committed yet: dropped, it leaves objects that nothing names.
pub struct Compacted {
    pub(in crate::ingest) added: Vec<LayerSection>,
    pub(in crate::ingest) opened: Vec<Arc<OpenLayer>>,
    pub(in crate::ingest) removed: Vec<RemovedLayer>,
    pub(in crate::ingest) compaction: Compaction,
}

/// What a compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compaction {
    /// Layers that were merged,
    pub layers_in: u64,
    /// and their bytes.
    pub bytes_in: u64,
    /// Layers that came of them,
    pub layers_out: u64,
    /// and their bytes.
    pub bytes_out: u64,
    /// Versions that nobody could read any more.
    pub dropped: u64,
    /// Images made of deltas.
    pub images: u64,
}

impl Compacted {
    /// What the layers were made of, each with its bytes: to be deleted a while after the commit.
    pub fn removed(&self) -> Vec<(ObjectId, u64)> {
        let removed = self.removed.iter();
        removed
            .map(|layer| (layer.object, layer.object_bytes))
            .collect()
    }
}

impl<C: OnCores> Compactor<C> {
    /// Merges what is worth it as the manifest is now; `None` if nothing is. Versions that the branch's kept history does not
    /// need are left out. Only one at a time: the manifest may get more layers meanwhile, but must lose none. Reads layers behind
    /// all else and works on `cpu`. Has [`CompactionConfig::step_bytes`] of them in memory at once, opened, and up to twice that in
    /// images.
    ///
    /// # Errors
    /// Of store and keys; `Open` with the object's name where a layer does not open. The branch stays as it is.
    ///
    /// # Cancellation
    /// Leaves objects that nothing names, as an error does: [`Compactor::take_unfinished`].
    pub async fn compact<Cp: Cpu>(&self, cpu: &Cp) -> Result<Option<Compacted>, IngestError> {
        // Never less than what it is when this is committed.
        let kept = self.shared.manifest().facts().kept.clone();
        let sections = self.shared.manifest().all_sections(&self.store).await?;
        let planned = {
            let mut jobs = self.jobs.borrow_mut();
            let there: HashSet<ObjectId> = sections
                .iter()
                .flat_map(|(_, sections)| sections.iter().map(|section| section.object))
                .collect();
            jobs.made_by.retain(|object, _| there.contains(object));
            plan(&sections, &jobs.made_by, &self.config)
        };
        let Some(plan) = planned else {
            return Ok(None);
        };
        let opening = plan
            .layers
            .iter()
            .map(|layer| self.branches.layer(&self.shared, &layer.section));
        let reader = MergeReader {
            layers: try_join_all(opening).await?,
            store: self.store.clone(),
            key_space: Arc::clone(&self.layers.store.key_space),
        };
        let mut compacted = Compacted {
            added: Vec::new(),
            opened: Vec::new(),
            removed: removed(&plan),
            compaction: Compaction::default(),
        };
        let interleaved = Arc::new(plan.interleaved);
        for step in reader.steps(self.config.step_bytes) {
            self.merge(&step, &reader, (&kept, &interleaved), cpu, &mut compacted)
                .await?;
        }
        let compaction = &mut compacted.compaction;
        compaction.layers_in = compacted.removed.len() as u64;
        compaction.bytes_in = compacted
            .removed
            .iter()
            .map(|layer| layer.object_bytes)
            .sum();
        let mut jobs = self.jobs.borrow_mut();
        jobs.count += 1;
        let (job, made) = (jobs.count, std::mem::take(&mut jobs.unfinished));
        jobs.made_by
            .extend(made.into_iter().map(|(object, _)| (object, job)));
        Ok(Some(compacted))
    }

    /// Layers that were made by compactions which did not come to their end, and their bytes: nobody can commit them any more.
    pub fn take_unfinished(&self) -> Vec<(ObjectId, u64)> {
        std::mem::take(&mut self.jobs.borrow_mut().unfinished)
    }

    /// Merges one stretch of keys into layers of its own.
    async fn merge<Cp: Cpu>(
        &self,
        step: &Step,
        reader: &MergeReader,
        (kept, interleaved): (&KeptHistory, &Arc<HashSet<Partition>>),
        cpu: &Cp,
        compacted: &mut Compacted,
    ) -> Result<(), IngestError> {
        let fetched = reader.fetch(step).await.map_err(|(_, error)| error)?;
        let (kept, redo) = (kept.clone(), Arc::clone(&self.redo));
        let (deltas, bytes) = (self.config.image_deltas, self.config.image_bytes);
        let interleaved = Arc::clone(interleaved);
        let images_max =
            (usize::try_from(2 * self.config.step_bytes).unwrap_or(usize::MAX) / PAGE_BYTES).max(1);
        let opened = cpu.run(move || {
            let mut window = fetched.open()?;
            let images = Images {
                redo: &*redo,
                deltas,
                bytes,
                interleaved: &interleaved,
                count_max: images_max,
            };
            let reviewed = review(&mut window, &kept, &images);
            Ok::<_, DoesNotOpen>((window, reviewed))
        });
        let (mut window, reviewed) = match opened.await {
            Ok(opened) => opened,
            Err(damaged) => return Err(damaged.explain(&self.store).await.into()),
        };
        let mut images = reviewed.images;
        for (place, image) in self.read_images(reviewed.wanted).await? {
            window.replace_by_image(place, &image);
            images += 1;
        }
        let made = self.layers.make(window, cpu).await?;
        for layer in &made {
            let made = (layer.open.object(), layer.object().len() as u64);
            self.jobs.borrow_mut().unfinished.push(made);
        }
        self.layers.fill_caches(&made).await?;
        let compaction = &mut compacted.compaction;
        compaction.images += images;
        compaction.dropped += reviewed.dropped;
        for layer in made {
            compaction.layers_out += 1;
            compaction.bytes_out += layer.object().len() as u64;
            let summary = &layer.stored.sealed.summary;
            compacted.added.extend(LayerSection::of_layer(summary));
            compacted.opened.push(layer.open);
        }
        Ok(())
    }

    /// Reads values as anybody would, each on the core that owns it. What can't be read stays without an image.
    async fn read_images(
        &self,
        wanted: Vec<WantedImage>,
    ) -> Result<Vec<(usize, Vec<u8>)>, IngestError> {
        let (key_space, cores) = (&self.layers.store.key_space, &self.layers.cores);
        let mut by_core: Vec<Vec<WantedImage>> = vec![Vec::new(); cores.count()];
        for image in wanted {
            let partition = usize::from(key_space.partition(&image.key).number());
            by_core[partition % cores.count()].push(image);
        }
        let place = self.place;
        let reading = by_core.into_iter().enumerate().map(|(core, wanted)| {
            cores.on_core(core, async move |shard: Shard<C::Platform>| {
                read_values(&shard, place, &wanted).await
            })
        });
        let read: Option<Vec<_>> = join_all(reading).await.into_iter().collect();
        Ok(read
            .ok_or(IngestError::CoreStopped)?
            .into_iter()
            .flatten()
            .collect())
    }
}

async fn read_values<P: crate::shard::Platform>(
    shard: &Shard<P>,
    (tenant, branch): (TenantId, BranchId),
    wanted: &[WantedImage],
) -> Vec<(usize, Vec<u8>)> {
    let Ok(branch) = shard.open_branch(tenant, branch).await else {
        return Vec::new();
    };
    let mut values = Vec::new();
    for batch in wanted.chunks(READS_AT_ONCE) {
        let reading = batch
            .iter()
            .map(|image| shard.read(&branch, image.key, image.lsn));
        let read = join_all(reading).await;
        let found = batch.iter().zip(read);
        values.extend(found.filter_map(|(image, value)| Some((image.place, value.ok()?))));
    }
    values
}

fn removed(plan: &Plan) -> Vec<RemovedLayer> {
    let of_layer = |layer: &super::plan::PlannedLayer| RemovedLayer {
        object: layer.section.object,
        object_bytes: layer.section.object_bytes,
        partitions: layer.partitions.clone(),
    };
    plan.layers.iter().map(of_layer).collect()
}

/// Values read at once on a core.
const READS_AT_ONCE: usize = 8;
