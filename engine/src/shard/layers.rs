//! What this core knows of branches and layers: which layers have keys of a partition, their indexes and openers.
//!
//! Indexes are opened once per process and shared; a core finds them through tables of its own, so that a read
//! touches no memory that another core writes. Loading goes through [`SingleLoad`]: one request for all who need it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::rc::Rc;
use std::sync::Arc;

use crate::cache::ExtentId;
use crate::crypto::page_seal::{Dek, DekId, Opener, TAG_BYTES};
use crate::error::ReadError;
use crate::layer::{
    BlockContents, BlockPlace, BlockScratch, ExtentDirectory, ExtentHeader, HEADER_BYTES,
    LayerError, LayerHeader, LayerId, LayerIndex, PackEntry, Part, ValueKind, open_block,
    open_pack,
};
use crate::manifest::{Branch, LayerSection, RemovedLayer};
use crate::memory::MemoryLayers;
use crate::store::StoreClient;
use crate::types::{Key, Lsn, ObjectId, Partition};

use super::branches::{SharedBranch, manifest_error};
use super::delta_chain::DeltaChain;
use super::images::ImagesDue;
use super::page_pool::Page;
use super::read_path::{Found, Patience, Stop};
use super::request::BranchNumber;
use super::single_load::SingleLoad;
use super::{Platform, ShardState};

/// A layer whose index is in memory and whose blocks can be opened.
pub(crate) struct OpenLayer {
    id: LayerId,
    path: Arc<str>,
    index: LayerIndex,
    key: LayerKey,
}

/// The key of a layer: what opens its blocks, and what tells why they do not open.
pub(crate) struct LayerKey {
    opener: Opener,
    id: DekId,
    check: [u8; TAG_BYTES],
}

impl LayerKey {
    /// The key `dek`, found under `id`.
    pub(crate) fn new(id: DekId, dek: &Dek) -> LayerKey {
        LayerKey {
            opener: Opener::new(dek),
            id,
            check: dek.key_check_value(),
        }
    }

    pub(crate) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Why a fresh copy of a layer does not open: what its header says of itself, if that tells more than `error`.
    /// Costs a small read of the store.
    pub(crate) async fn diagnose(
        &self,
        layer: &LayerId,
        path: &str,
        error: LayerError,
        store: &StoreClient,
    ) -> String {
        let Ok(header) = store.read(path, 0..HEADER_BYTES as u64).await else {
            return error.to_string();
        };
        let found = LayerHeader::decode(&header)
            .and_then(|header| header.check(layer, self.id, &self.check));
        found.map_or_else(|better| better.to_string(), |()| error.to_string())
    }
}

/// A core's own handle on a shared layer: cloning it touches no count that other cores do.
#[derive(Clone)]
pub(super) struct LayerOnCore(Rc<SharedLayer>);

struct SharedLayer(Arc<OpenLayer>);

impl Deref for LayerOnCore {
    type Target = OpenLayer;

    fn deref(&self) -> &OpenLayer {
        &self.0.0
    }
}

impl OpenLayer {
    /// A layer from its sealed index.
    pub(crate) fn new(id: LayerId, path: Arc<str>, index: LayerIndex, key: LayerKey) -> OpenLayer {
        OpenLayer {
            id,
            path,
            index,
            key,
        }
    }

    /// Why a fresh copy of this layer does not open.
    pub(super) async fn diagnose(&self, error: LayerError, store: &StoreClient) -> String {
        self.key.diagnose(&self.id, &self.path, error, store).await
    }

    pub(crate) fn object(&self) -> ObjectId {
        self.id.object
    }

    pub(super) fn path(&self) -> Arc<str> {
        Arc::clone(&self.path)
    }

    pub(crate) fn index(&self) -> &LayerIndex {
        &self.index
    }

    pub(super) fn extent_id(&self, extent_no: u32) -> ExtentId {
        ExtentId {
            tenant: self.id.tenant,
            object: self.id.object,
            extent_no,
        }
    }

    /// Where an extent of this layer is in the object.
    ///
    /// # Panics
    /// If the layer has no such extent: numbers come from the index itself.
    pub(super) fn extent_range(&self, extent_no: u32) -> Range<u64> {
        self.index
            .extent_range(extent_no)
            .expect("extent numbers come from this index")
    }

    /// The partition that an extent belongs to, and the extents of that partition.
    pub(super) fn partition_of(&self, extent_no: u32) -> (Partition, Range<u32>) {
        let partition = self
            .index
            .partition_of(extent_no)
            .expect("extent numbers come from this index");
        let section = self
            .index
            .section(partition)
            .expect("an extent's partition is in the index");
        (partition, section.extents.clone())
    }

    /// Where the sealed directory ends in the extent that starts with `head`.
    pub(super) fn directory_end(&self, extent_no: u32, head: &[u8]) -> Result<usize, LayerError> {
        let end = ExtentHeader::decode(extent_no, head)?.directory_range().end;
        let range = self.extent_range(extent_no);
        // The header is not sealed, and may be another object's: the index is believed.
        if end as u64 > range.end - range.start {
            let part = Part::Extent(extent_no);
            let what = "has a directory longer than itself";
            return Err(LayerError::Malformed { part, what });
        }
        Ok(end)
    }

    /// Opens the directory of the extent that starts with `head`.
    pub(super) fn open_directory(
        &self,
        extent_no: u32,
        head: &[u8],
    ) -> Result<ExtentDirectory, LayerError> {
        ExtentDirectory::open(&self.key.opener, &self.id, extent_no, head)
    }

    /// Opens the block at `place` and copies the newest version of `key` at or below `at`, image or delta, to the front of `page`.
    /// `None`: the block is a pack that spans the key and does not have it.
    pub(super) fn open_value(
        &self,
        place: &BlockPlace,
        sealed: &[u8],
        key: &Key,
        at: Lsn,
        scratch: &mut BlockScratch,
        page: &mut Page,
    ) -> Result<Option<Found>, LayerError> {
        match place.contents {
            BlockContents::Image | BlockContents::Delta => {
                let len = open_block(
                    &self.key.opener,
                    &self.id,
                    place,
                    sealed,
                    scratch,
                    page.frame_mut(),
                )?;
                Ok(Some(Found {
                    len,
                    version: place.first_lsn,
                    kind: match place.contents {
                        BlockContents::Delta => ValueKind::Delta,
                        _ => ValueKind::Image,
                    },
                    fetched: false,
                }))
            }
            BlockContents::Pack => {
                let pack = open_pack(&self.key.opener, &self.id, place, sealed, scratch)?;
                let Some(entry) = pack.newest(key, at) else {
                    return Ok(None);
                };
                page[..entry.value.len()].copy_from_slice(entry.value);
                Ok(Some(Found {
                    len: entry.value.len(),
                    version: entry.lsn,
                    kind: entry.kind,
                    fetched: false,
                }))
            }
        }
    }
}

impl OpenLayer {
    /// Opens the block at `place` for a read that replays: all deltas of `key` at or below `at` that it has above its newest
    /// image go to `chain`, the image to the front of `page`. Answers the image, or else the oldest of the deltas.
    pub(super) fn open_versions(
        &self,
        place: &BlockPlace,
        sealed: &[u8],
        (key, at): (&Key, Lsn),
        scratch: &mut BlockScratch,
        page: &mut Page,
        chain: &mut DeltaChain,
    ) -> Result<Option<Found>, LayerError> {
        if place.contents != BlockContents::Pack {
            let found = self.open_value(place, sealed, key, at, scratch, page)?;
            if let Some(found) = found.filter(|found| found.kind == ValueKind::Delta) {
                chain.push(found.version, &page[..found.len]);
            }
            return Ok(found);
        }
        let pack = open_pack(&self.key.opener, &self.id, place, sealed, scratch)?;
        let of_key = pack
            .entries()
            .filter(|entry| entry.key == *key && entry.lsn <= at);
        let mut oldest: Option<PackEntry<'_>> = None;
        for entry in of_key.clone() {
            if entry.kind == ValueKind::Image || oldest.is_none() {
                oldest = Some(entry);
            }
        }
        let Some(oldest) = oldest else {
            return Ok(None);
        };
        if oldest.kind == ValueKind::Image {
            page[..oldest.value.len()].copy_from_slice(oldest.value);
        }
        let deltas = of_key.filter(|entry| entry.kind == ValueKind::Delta);
        for entry in deltas.filter(|entry| entry.lsn >= oldest.lsn) {
            chain.push(entry.lsn, entry.value);
        }
        Ok(Some(Found {
            len: oldest.value.len(),
            version: oldest.lsn,
            kind: oldest.kind,
            fetched: false,
        }))
    }

    /// The keys in a pack.
    pub(super) fn keys_of_pack(
        &self,
        place: &BlockPlace,
        sealed: &[u8],
        scratch: &mut BlockScratch,
    ) -> Result<Vec<Key>, LayerError> {
        let pack = open_pack(&self.key.opener, &self.id, place, sealed, scratch)?;
        Ok(pack.entries().map(|entry| entry.key).collect())
    }
}

/// An open branch as this core knows it.
pub(super) struct BranchOnCore {
    shared: Arc<SharedBranch>,
    partitions: RefCell<HashMap<Partition, Rc<PartitionSections>, ahash::RandomState>>,
    /// Grows when layers come in or go out: what is loaded meanwhile may not have them.
    generation: Cell<u64>,
    /// What of it is in no layer yet, of the keys that this core owns.
    pub(super) memory: RefCell<MemoryLayers>,
    /// Which of those want an image.
    pub(super) images: ImagesDue,
}

impl BranchOnCore {
    pub(super) fn number(&self) -> BranchNumber {
        self.shared.number
    }

    pub(super) fn readable_from(&self) -> Lsn {
        self.shared.readable_from
    }

    pub(super) fn last_lsn(&self) -> Lsn {
        self.shared.last_lsn()
    }

    /// What its manifest says.
    pub(super) fn manifest(&self) -> Arc<Branch> {
        self.shared.manifest()
    }

    /// The branch it left, and where.
    pub(super) fn parent(&self) -> Option<(BranchNumber, Lsn)> {
        self.shared.parent
    }

    /// Refuses an LSN that the branch does not show any more.
    pub(super) fn check_horizon(&self, at: Lsn) -> Result<(), ReadError> {
        if at < self.readable_from() {
            return Err(ReadError::Gone {
                at,
                horizon: self.readable_from(),
            });
        }
        Ok(())
    }

    /// Refuses an LSN that the branch can't show.
    pub(super) fn check_readable(&self, at: Lsn) -> Result<(), ReadError> {
        self.check_horizon(at)?;
        if at > self.last_lsn() {
            return Err(ReadError::NotYet {
                at,
                last: self.last_lsn(),
            });
        }
        Ok(())
    }
}

/// The parts of layers that hold keys of one partition, newest first.
pub(super) struct PartitionSections(Vec<SectionOnCore>);

/// One of them, and its layer once it is open.
#[derive(Clone)]
pub(super) struct SectionOnCore {
    section: LayerSection,
    layer: OnceCell<LayerOnCore>,
}

impl PartitionSections {
    fn new(sections: Vec<LayerSection>) -> PartitionSections {
        let on_core = |section| SectionOnCore {
            section,
            layer: OnceCell::new(),
        };
        PartitionSections::sorted(sections.into_iter().map(on_core).collect())
    }

    fn sorted(mut sections: Vec<SectionOnCore>) -> PartitionSections {
        let newest_first =
            |part: &SectionOnCore| std::cmp::Reverse((part.section.last_lsn, part.section.object));
        sections.sort_by_key(newest_first);
        PartitionSections(sections)
    }

    /// With the sections `added`, and without those of the layers in `removed`.
    fn changed(&self, added: &[LayerSection], removed: &[ObjectId]) -> PartitionSections {
        let stays = |part: &&SectionOnCore| {
            let object = part.section.object;
            !removed.contains(&object) && !added.iter().any(|new| new.object == object)
        };
        let mut sections: Vec<SectionOnCore> = self.0.iter().filter(stays).cloned().collect();
        sections.extend(PartitionSections::new(added.to_vec()).0);
        PartitionSections::sorted(sections)
    }

    /// Those that may hold a version of `key` at or below `at`, newest first.
    pub(super) fn candidates(&self, key: &Key, at: Lsn) -> impl Iterator<Item = &SectionOnCore> {
        self.between(key, key, at)
    }

    /// Those that may hold versions of keys in `from..=to` at or below `at`, newest first.
    pub(super) fn between(
        &self,
        from: &Key,
        to: &Key,
        at: Lsn,
    ) -> impl Iterator<Item = &SectionOnCore> {
        let (from, to) = (*from, *to);
        self.0.iter().filter(move |part| {
            let section = &part.section;
            section.first_key <= to && from <= section.last_key && section.first_lsn <= at
        })
    }
}

impl SectionOnCore {
    pub(super) fn last_lsn(&self) -> Lsn {
        self.section.last_lsn
    }
}

/// What this core has open.
#[derive(Default)]
pub(super) struct LayerTable {
    branches: RefCell<Vec<Option<Rc<BranchOnCore>>>>,
    layers: RefCell<HashMap<ObjectId, LayerOnCore, ahash::RandomState>>,
    section_loads: SingleLoad<(BranchNumber, Partition)>,
    layer_loads: SingleLoad<ObjectId>,
}

impl LayerTable {
    /// Memory of the indexes this core uses (other cores may use the same ones), of its lists of sections, and of what is in
    /// no layer yet.
    pub(super) fn resident_bytes(&self) -> usize {
        let layers = self.layers.borrow();
        let indexes: usize = layers
            .values()
            .map(|layer| layer.index.resident_bytes())
            .sum();
        let branches = self.branches.borrow();
        let lists = branches.iter().flatten().flat_map(|branch| {
            let partitions = branch.partitions.borrow();
            let bytes = partitions
                .values()
                .map(|list| size_of_val(&list.0[..]))
                .sum::<usize>();
            Some(bytes + branch.memory.borrow().bytes())
        });
        indexes + lists.sum::<usize>()
    }
}

impl BranchOnCore {
    /// Forgets the lists of sections: they are loaded anew.
    pub(super) fn forget_sections(&self) {
        self.generation.set(self.generation.get() + 1);
        self.partitions.borrow_mut().clear();
    }

    /// Brings the lists of sections up to date with a commit: the sections of `added` that this core may have loaded come
    /// in, those of layers in `removed` go out.
    pub(super) fn exchange_sections(&self, added: &[LayerSection], removed: &[RemovedLayer]) {
        self.generation.set(self.generation.get() + 1);
        let gone: Vec<ObjectId> = removed.iter().map(|layer| layer.object).collect();
        let mut came: HashMap<Partition, Vec<LayerSection>, ahash::RandomState> =
            HashMap::default();
        for section in added {
            came.entry(section.partition).or_default().push(*section);
        }
        for (partition, list) in self.partitions.borrow_mut().iter_mut() {
            let came = came.get(partition).map_or(&[][..], Vec::as_slice);
            let has_gone = removed
                .iter()
                .any(|layer| layer.partitions.contains(partition));
            if has_gone || !came.is_empty() {
                *list = Rc::new(list.changed(came, &gone));
            }
        }
    }
}

impl LayerTable {
    /// Takes over layers that were written in this process, and forgets those that went out.
    pub(super) fn exchange(&self, added: &[Arc<OpenLayer>], removed: &[RemovedLayer]) {
        let mut layers = self.layers.borrow_mut();
        for layer in added {
            let layer = LayerOnCore(Rc::new(SharedLayer(Arc::clone(layer))));
            layers.insert(layer.object(), layer);
        }
        for layer in removed {
            layers.remove(&layer.object);
        }
    }
}

impl<P: Platform> ShardState<P> {
    /// An open branch by its number.
    pub(super) fn branch(&self, number: BranchNumber) -> Rc<BranchOnCore> {
        let slot = number as usize;
        let mut branches = self.layers.branches.borrow_mut();
        if branches.len() <= slot {
            branches.resize_with(slot + 1, || None);
        }
        let branch = branches[slot].get_or_insert_with(|| {
            let shared = self.branches.get(number);
            Rc::new(BranchOnCore {
                shared,
                partitions: RefCell::default(),
                generation: Cell::new(0),
                memory: RefCell::default(),
                images: ImagesDue::default(),
            })
        });
        Rc::clone(branch)
    }

    /// The sections of a partition; asks the store the first time.
    pub(super) async fn sections(
        &self,
        branch: &BranchOnCore,
        partition: Partition,
        patience: Patience,
    ) -> Result<Rc<PartitionSections>, Stop> {
        loop {
            if let Some(known) = branch.partitions.borrow().get(&partition) {
                return Ok(Rc::clone(known));
            }
            if patience == Patience::Hits {
                return Err(Stop::NeedsStore);
            }
            let load = async {
                let generation = branch.generation.get();
                let manifest = branch.shared.manifest();
                let sections = manifest.sections_of(&self.store, partition).await;
                let sections = PartitionSections::new(sections.map_err(manifest_error)?);
                // Of an older generation they are loaded once more.
                if branch.generation.get() == generation {
                    branch
                        .partitions
                        .borrow_mut()
                        .insert(partition, Rc::new(sections));
                }
                Ok(())
            };
            self.layers
                .section_loads
                .run((branch.number(), partition), load)
                .await?;
        }
    }

    /// The layer of a section, its index in memory; asks the store the first time.
    pub(super) async fn layer(
        &self,
        branch: &BranchOnCore,
        part: &SectionOnCore,
        patience: Patience,
    ) -> Result<LayerOnCore, Stop> {
        loop {
            if let Some(layer) = part.layer.get() {
                return Ok(layer.clone());
            }
            let object = part.section.object;
            if let Some(layer) = self.layers.layers.borrow().get(&object) {
                return Ok(part.layer.get_or_init(|| layer.clone()).clone());
            }
            if patience == Patience::Hits {
                return Err(Stop::NeedsStore);
            }
            let load = async {
                let layer = self.branches.layer(&branch.shared, &part.section).await?;
                self.layers
                    .layers
                    .borrow_mut()
                    .insert(object, LayerOnCore(Rc::new(SharedLayer(layer))));
                Ok(())
            };
            self.layers.layer_loads.run(object, load).await?;
        }
    }
}
