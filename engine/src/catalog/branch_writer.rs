//! Fills a new branch: versions come in in any order, layers go out, and one last object makes it all visible.
//!
//! Two halves that run side by side, so that this code needs no executor of its own: [`BranchWriter`] takes the
//! versions and fills a window; [`LayerUploads`] sorts and seals full windows and uploads the layers, a bounded number
//! of windows at once. When all is busy, `put` waits. Memory: one window being filled, one waiting, and for each of
//! `windows_at_once` the window itself and the layer that comes of it, or two layers once it is all sealed.
//!
//! Nothing is visible before `commit`: sections go into the manifest as the import goes on (so that it holds few in
//! memory), the last edit makes the branch readable, and then the name is put, if absent. A writer that is dropped,
//! killed or cut off leaves a branch without a name; the next try begins another one under a fresh id.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::catalog::CatalogParts;
use super::cpu::Cpu;
use super::error::CatalogError;
use super::layer_store::{LayerStore, beside};
use super::name_record::Meaning;
use super::name_table::NameTable;
use super::records::seal_begun;
use super::tenant::Tenant;
use super::wal_record::{WAL_PIECE_BYTES_MAX, seal_wal};
use super::window::Window;
use crate::layer::{LayerConfig, Value};
use crate::manifest::{
    BaseBackup, Creation, Edit, LayerSection, ManifestLog, PutOnce, TimelineSpan, names, put_once,
};
use crate::planted::{PlantedBug, planted};
use crate::store::objects::{Objects, StoreError};
use crate::types::{BranchId, Id, Key, Lsn};

/// Limits of one writer.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// Versions collected before they are sorted into layers, in bytes. Range 1 MiB..=1 GiB (not checked: any
    /// number works). Default 128 MiB.
    pub window_bytes: usize,
    /// Windows that are sealed and uploaded at once, each on a processor of its own if the [`Cpu`] has one, with one
    /// layer on its way to the store while the next is sealed. Range 1..=16. Default 2.
    pub windows_at_once: usize,
    /// How layers are cut.
    pub layer: LayerConfig,
}

impl Default for WriterConfig {
    fn default() -> WriterConfig {
        WriterConfig {
            window_bytes: 128 << 20,
            windows_at_once: 2,
            layer: LayerConfig::default(),
        }
    }
}

impl WriterConfig {
    /// Limits so low that tests reach the corners.
    pub fn tiny() -> WriterConfig {
        WriterConfig {
            window_bytes: 128 << 10,
            windows_at_once: 2,
            layer: LayerConfig::tiny(),
        }
    }
}

/// How far a branch goes when it becomes visible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitFacts {
    /// From where on it can be read.
    pub readable_from: Lsn,
    /// Its last LSN, not below `readable_from`.
    pub last_lsn: Lsn,
    /// Timeline, start and stop of the base backup it came from, if it did.
    pub base_backup: Option<(u32, Lsn, Lsn)>,
}

/// Where a new branch leaves another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct ParentLink {
    pub(super) branch: BranchId,
    pub(super) left_at: Lsn,
    /// From where on the parent can be read.
    pub(super) readable_from: Lsn,
}

/// Takes the versions of a new branch. Dropping it leaves nothing visible.
///
/// A call that failed, or whose future was dropped before its end, may have lost versions on their way. Every later one is
/// refused with [`CatalogError::WriterBroken`], so that no branch becomes visible with a hole in it.
pub struct BranchWriter<O> {
    objects: O,
    parts: CatalogParts,
    tenant: Arc<Tenant>,
    branch: BranchId,
    name: String,
    config: WriterConfig,
    log: ManifestLog<O>,
    window: Window,
    /// Full windows, to [`LayerUploads`].
    windows: Sender<Window>,
    /// Closed when [`LayerUploads::run`] ends.
    ended: Receiver<()>,
    progress: Arc<Mutex<Progress>>,
    wal_objects: u64,
    /// The parent's horizon: the branch shows nothing older than its parent does.
    readable_from_min: Lsn,
    /// Set while a call is at work; found set by the next call, that one did not come to a good end.
    broken: bool,
}

/// The half that seals and uploads. [`LayerUploads::run`] runs until its writer has committed or is gone.
pub struct LayerUploads<O> {
    layers: LayerStore<O>,
    windows_at_once: usize,
    windows: Receiver<Window>,
    /// Dropped when all is done.
    ended: Sender<()>,
    progress: Arc<Mutex<Progress>>,
}

/// What the uploads have to tell the writer.
#[derive(Default)]
struct Progress {
    /// Sections of layers that are durable and in no edit yet.
    sections: Vec<LayerSection>,
    /// Why it went wrong; taken by the writer.
    error: Option<CatalogError>,
    /// Whether every window was sealed and stored.
    complete: bool,
}

impl<O: Objects> BranchWriter<O> {
    pub(super) async fn begin(
        objects: O,
        parts: CatalogParts,
        tenant: Arc<Tenant>,
        name: &str,
        parent: Option<ParentLink>,
        timelines: Vec<TimelineSpan>,
        config: WriterConfig,
    ) -> Result<(BranchWriter<O>, LayerUploads<O>), CatalogError> {
        let branch = BranchId(Id(parts.entropy.draw()));
        let mark = seal_begun(tenant.id(), branch, name, tenant.name_key(), &parts.entropy);
        let mark_path = names::begun(tenant.id(), branch);
        if put_once(&objects, &mark_path, mark).await? == PutOnce::Taken {
            return Err(StoreError::AlreadyExists { path: mark_path }.into());
        }
        let creation = Creation {
            name_hash: tenant.name_key().keyed_hash(name.as_bytes()),
            key_space: parts.key_space_tag,
            parent: parent.map(|link| (link.branch, link.left_at)),
            timelines,
        };
        let log = ManifestLog::create(
            objects.clone(),
            Arc::clone(tenant.keys()),
            branch,
            creation,
            parts.entropy.clone(),
        )
        .await?;
        let (window_sender, window_receiver) = async_channel::bounded(1);
        let (end_sender, end_receiver) = async_channel::bounded(1);
        let progress: Arc<Mutex<Progress>> = Arc::default();
        let uploads = LayerUploads {
            layers: LayerStore {
                objects: objects.clone(),
                key_space: Arc::clone(&parts.key_space),
                tenant: tenant.id(),
                names: Arc::clone(log.names()),
                config: config.layer.clone(),
            },
            windows_at_once: config.windows_at_once.max(1),
            windows: window_receiver,
            ended: end_sender,
            progress: Arc::clone(&progress),
        };
        let writer = BranchWriter {
            objects,
            parts,
            tenant,
            branch,
            name: name.to_owned(),
            config,
            log,
            window: Window::new(),
            windows: window_sender,
            ended: end_receiver,
            progress,
            wal_objects: 0,
            readable_from_min: parent.map_or(Lsn(0), |link| link.readable_from),
            broken: false,
        };
        Ok((writer, uploads))
    }

    /// The id of the branch.
    pub fn id(&self) -> BranchId {
        self.branch
    }

    /// Adds a version. Of versions with the same key and LSN, those of one window are one (the last); in different
    /// windows they are a mistake. Waits when windows are sealed and uploaded more slowly than they are filled.
    ///
    /// # Errors
    /// What stopped the uploads, if something did. The writer is then of no more use, and says so.
    ///
    /// # Panics
    /// If the value is longer than a page, or the LSN is none.
    pub async fn put(&mut self, key: Key, lsn: Lsn, value: Value<'_>) -> Result<(), CatalogError> {
        assert!(lsn.is_valid(), "a version has an LSN");
        self.check_sound()?;
        let partition = self.parts.key_space.partition(&key);
        self.window.push(partition, key, lsn, value);
        if self.window.bytes() >= self.config.window_bytes {
            self.broken = true;
            self.hand_over().await?;
            self.broken = false;
        }
        Ok(())
    }

    /// Stores the next piece of the WAL that belongs to the import, sealed; at most [`WAL_PIECE_BYTES_MAX`].
    ///
    /// # Errors
    /// `WalTooLarge`, which changes nothing; after any other one the writer is of no more use.
    pub async fn put_wal(&mut self, start: Lsn, bytes: &[u8]) -> Result<(), CatalogError> {
        self.check_sound()?;
        if bytes.len() > WAL_PIECE_BYTES_MAX {
            return Err(CatalogError::WalTooLarge {
                wal_bytes: bytes.len(),
                bytes_max: WAL_PIECE_BYTES_MAX,
            });
        }
        self.broken = true;
        let (id, dek) = self.log.names().next_dek().await?;
        let number = self.wal_objects;
        let owner = (self.tenant.id(), self.branch);
        let epoch = self.log.facts().epoch;
        let sealed = seal_wal(owner, number, (epoch, start), (id, &dek), bytes);
        let path = names::wal(owner.0, owner.1, number);
        if put_once(&self.objects, &path, sealed).await? == PutOnce::Taken {
            return Err(StoreError::AlreadyExists { path }.into());
        }
        self.wal_objects += 1;
        self.broken = false;
        Ok(())
    }

    /// Waits for all uploads, commits the branch, and puts its name: from then on it is visible. It is readable from
    /// `facts.readable_from` on, or from its parent's horizon, whichever is later.
    ///
    /// # Errors
    /// `BranchExists`: somebody took the name meanwhile; nothing is visible of this one. After an error of the store
    /// the name may be there or not: look.
    ///
    /// # Cancellation
    /// Dropping the future leaves the branch visible or not, never in between.
    pub async fn commit(mut self, facts: CommitFacts) -> Result<BranchId, CatalogError> {
        self.check_sound()?;
        if !self.window.is_empty() {
            self.hand_over().await?;
        }
        self.windows.close();
        // Closed, never sent to: the answer is that the other half has ended.
        let _ = self.ended.recv().await;
        let trusting = planted(PlantedBug::CommitWithoutUploads);
        self.check_uploads()
            .or_else(|error| if trusting { Ok(()) } else { Err(error) })?;
        if !self.progress().complete && !trusting {
            return Err(CatalogError::UploaderStopped {
                branch: self.branch,
            });
        }
        while self.log_sections(SECTIONS_PER_EDIT_MAX).await? {}
        self.log
            .commit(Edit {
                last_lsn: facts.last_lsn,
                readable_from: Some(facts.readable_from.max(self.readable_from_min)),
                base_backup: facts.base_backup.map(|(timeline, start, stop)| BaseBackup {
                    timeline,
                    start,
                    stop,
                    wal_objects: self.wal_objects,
                }),
                wal: None,
                added: Vec::new(),
                removed: Vec::new(),
            })
            .await?;
        self.put_name().await?;
        Ok(self.branch)
    }

    async fn put_name(&self) -> Result<(), CatalogError> {
        let names = NameTable {
            objects: &self.objects,
            tenant: &self.tenant,
            entropy: &self.parts.entropy,
        };
        let meaning = |_| Meaning::Branch(self.branch);
        names.take(&self.name, false, meaning).await.map(|_| ())
    }

    /// Gives the window to the other half and begins another.
    async fn hand_over(&mut self) -> Result<(), CatalogError> {
        self.check_uploads()?;
        let window = std::mem::replace(&mut self.window, Window::new());
        if self.windows.send(window).await.is_err() {
            self.check_uploads()?;
            return Err(CatalogError::UploaderStopped {
                branch: self.branch,
            });
        }
        let waiting = self.progress().sections.len();
        if waiting >= SECTIONS_PER_EDIT_MAX / 2 {
            self.log_sections(SECTIONS_PER_EDIT_MAX).await?;
        }
        Ok(())
    }

    /// Commits at most `sections_max` sections of layers that are durable; whether there were any.
    async fn log_sections(&mut self, sections_max: usize) -> Result<bool, CatalogError> {
        let added = take_whole_layers(&mut self.progress().sections, sections_max);
        if added.is_empty() {
            return Ok(false);
        }
        let edit = Edit {
            last_lsn: self.log.facts().last_lsn,
            added,
            ..Edit::default()
        };
        self.log.commit(edit).await?;
        Ok(true)
    }

    /// Commits as writers did that did not know of horizons.
    #[cfg(test)]
    pub(crate) fn forget_parents_horizon(&mut self) {
        self.readable_from_min = Lsn(0);
    }

    fn check_sound(&self) -> Result<(), CatalogError> {
        let branch = self.branch;
        let broken = CatalogError::WriterBroken { branch };
        if self.broken { Err(broken) } else { Ok(()) }
    }

    fn check_uploads(&self) -> Result<(), CatalogError> {
        self.progress().error.take().map_or(Ok(()), Err)
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes sections from the front, all of a layer or none of it, at least one layer's if there is any.
fn take_whole_layers(sections: &mut Vec<LayerSection>, sections_max: usize) -> Vec<LayerSection> {
    let mut taken = 0;
    for layer in sections.chunk_by(|a, b| a.object == b.object) {
        if taken > 0 && taken + layer.len() > sections_max {
            break;
        }
        taken += layer.len();
    }
    sections.drain(..taken).collect()
}

impl<O: Objects> LayerUploads<O> {
    /// Seals and uploads what the writer hands over, until the writer commits or is dropped. What goes wrong, the
    /// writer's next call tells. `cpu` does the sealing.
    ///
    /// # Cancellation
    /// Dropping the future stops the import; the writer's next call says so.
    pub async fn run<C: Cpu>(self, cpu: C) {
        let result = self.upload_all(&cpu).await;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => progress.complete = true,
            Err(error) => progress.error = Some(error),
        }
        drop(progress);
        self.windows.close();
        self.ended.close();
    }

    async fn upload_all<C: Cpu>(&self, cpu: &C) -> Result<(), CatalogError> {
        let mut at_work = FuturesUnordered::new();
        loop {
            while at_work.len() >= self.windows_at_once {
                at_work.next().await.transpose()?;
            }
            match beside(&mut at_work, &mut |()| {}, self.windows.recv()).await? {
                Ok(window) => at_work.push(self.store_window(cpu, window)),
                // The writer has committed, or is gone.
                Err(_) => break,
            }
        }
        while at_work.next().await.transpose()?.is_some() {}
        Ok(())
    }

    async fn store_window<C: Cpu>(&self, cpu: &C, window: Window) -> Result<(), CatalogError> {
        let layers = self.layers.store_window(cpu, window, |layer| {
            let sections = LayerSection::of_layer(&layer.sealed.summary);
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.sections.extend(sections);
        });
        layers.await
    }
}

impl<O> fmt::Debug for BranchWriter<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BranchWriter({}/{})", self.tenant.id(), self.branch)
    }
}

impl<O> fmt::Debug for LayerUploads<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerUploads({})", self.layers.tenant)
    }
}

/// Sections that go into one edit: about 2 MiB of it. A layer has at most 1,024 (one per partition).
const SECTIONS_PER_EDIT_MAX: usize = 16 << 10;
