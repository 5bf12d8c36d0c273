//! The simulated disk: files of sectors, with a page-cache-less device behind them that lies, forgets and breaks.
//!
//! Faults, each with its own chance in [`DiskFaults`]. **The engine must survive every one of them**: what is on this
//! disk is a cache, so none of them may make a read fail, let alone answer it wrongly.
//!
//! | fault | what happens |
//! | --- | --- |
//! | `read_error` | the read fails as a device error |
//! | `read_short` | the read ends early |
//! | `read_misdirected` | the bytes of another position in the file come back |
//! | `read_flip` | one bit of the answer is wrong; the disk itself is fine |
//! | `read_slow` | the read takes a hundred times as long |
//! | `write_error` | the write fails; nothing, all or some of its sectors are written |
//! | `write_short` | the write ends early; the first sectors are written |
//! | `write_lost` | the write succeeds and nothing is written |
//! | `write_misdirected` | the write succeeds somewhere else in the file |
//! | `sync_error` | the sync fails; what it was to make durable stays in doubt |
//! | `sync_lie` | the sync succeeds and makes nothing durable |
//! | `open_error` | the file can't be opened or renamed, the directory not listed |
//! | `rot` | a stored bit flips ([`SimDisk::rot`]) |
//! | `kill_torn` | a kill of the process cuts writes under way ([`SimDisk::process_killed`]) |
//! | `power_torn` | a power loss keeps any subset of the sectors not yet synced, each in any version it had since the last sync; files made, renamed or removed since then may be gone, have their old name, or be back ([`SimDisk::power_lost`]) |
//!
//! A sync of a file makes its name durable too, as most file systems do; after [`SimDisk::names_need_sync`] only a sync of
//! the directory does.
//!
//! A write is carried out by the disk, not by its future: dropping the future changes nothing. It becomes visible in
//! two parts, at two moments, so that a reader of the same place can see half of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::io::aligned_buffer::AlignedBuffer;
use engine::io::clock::Clock;
use engine::io::disk::{Disk, DiskError, DiskFile};

use crate::coverage::Coverage;
use crate::executor::{Process, Simulator};
use crate::rng::{PerMille, Rng};

/// How often each fault happens. All zero by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Reads that fail.
    pub read_error: PerMille,
    /// Reads that end early.
    pub read_short: PerMille,
    /// Reads of another place.
    pub read_misdirected: PerMille,
    /// Reads with a wrong bit.
    pub read_flip: PerMille,
    /// Slow reads.
    pub read_slow: PerMille,
    /// Writes that fail, done or not.
    pub write_error: PerMille,
    /// Writes that end early.
    pub write_short: PerMille,
    /// Writes that never happen.
    pub write_lost: PerMille,
    /// Writes to another place.
    pub write_misdirected: PerMille,
    /// Syncs that fail.
    pub sync_error: PerMille,
    /// Syncs that do nothing.
    pub sync_lie: PerMille,
    /// Opens that fail.
    pub open_error: PerMille,
}

/// A simulated disk. Outlives the processes that use it. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Rc<World>);

struct World {
    clock: Simulator,
    /// Carries out writes, whatever becomes of those who asked.
    device: Process,
    rng: RefCell<Rng>,
    faults: Cell<DiskFaults>,
    coverage: Coverage,
    sector_bytes: usize,
    files: RefCell<BTreeMap<PathBuf, FileRef>>,
    /// Files removed since the last sync of anything: a power loss may bring them back.
    removed: RefCell<Vec<(PathBuf, FileRef)>>,
    /// Old and new names of files renamed since then, in this order.
    renamed: RefCell<Vec<(PathBuf, PathBuf)>>,
    /// Whether names stay in doubt until their directory is synced.
    names_need_sync: Cell<bool>,
    writes: RefCell<BTreeMap<u64, PendingWrite>>,
    next_write: Cell<u64>,
}

type FileRef = Rc<RefCell<FileState>>;

/// A sparse file: sectors never written are zeros.
#[derive(Default)]
struct FileState {
    len_bytes: usize,
    sectors: BTreeMap<usize, Vec<u8>>,
    /// What a sector held at the last sync and since, oldest first, without what it holds now.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Sectors with a flipped bit, until they are written again.
    rotten: BTreeSet<usize>,
    /// Whether the file itself was made durable.
    made_durable: bool,
}

/// A write that the device has accepted and not finished.
struct PendingWrite {
    file: FileRef,
    at: usize,
    bytes: Vec<u8>,
}

impl SimDisk {
    /// An empty disk with sectors of `sector_bytes`.
    pub fn new(
        simulator: &Simulator,
        rng: Rng,
        coverage: Coverage,
        sector_bytes: usize,
    ) -> SimDisk {
        assert!(sector_bytes.is_power_of_two(), "sectors are a power of two");
        SimDisk(Rc::new(World {
            clock: simulator.clone(),
            device: simulator.process(),
            rng: RefCell::new(rng),
            faults: Cell::default(),
            coverage,
            sector_bytes,
            files: RefCell::default(),
            removed: RefCell::default(),
            renamed: RefCell::default(),
            names_need_sync: Cell::new(false),
            writes: RefCell::default(),
            next_write: Cell::new(0),
        }))
    }

    /// From now on faults happen this often.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.0.faults.set(faults);
    }

    /// From now on a sync of a file makes what is in it durable, and not its name.
    pub fn names_need_sync(&self) {
        self.0.names_need_sync.set(true);
    }

    /// Files and their sizes, in order of path.
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let files = self.0.files.borrow();
        files
            .iter()
            .map(|(path, file)| (path.clone(), file.borrow().len_bytes))
            .collect()
    }

    /// Flips one bit of one sector that was ever written, at random; says whether there was one. Whoever reads it before
    /// it is written again meets the fault.
    pub fn rot(&self) -> bool {
        let world = &self.0;
        let written = |file: &&FileRef| !file.borrow().sectors.is_empty();
        let files: Vec<FileRef> = world
            .files
            .borrow()
            .values()
            .filter(written)
            .cloned()
            .collect();
        if files.is_empty() {
            return false;
        }
        let mut rng = world.rng.borrow_mut();
        let mut file = files[rng.index(files.len())].borrow_mut();
        let sectors: Vec<usize> = file.sectors.keys().copied().collect();
        let sector = sectors[rng.index(sectors.len())];
        let at = rng.index(world.sector_bytes);
        let bit = rng.below(8);
        file.sectors
            .entry(sector)
            .and_modify(|bytes| bytes[at] ^= 1 << bit);
        file.rotten.insert(sector);
        world
            .clock
            .event(format_args!("disk rot in sector {sector}"));
        true
    }

    /// Cuts a file to a random length or removes it, at random: what a careless operator does between two starts.
    pub fn cut_file(&self) -> bool {
        let world = &self.0;
        let mut files = world.files.borrow_mut();
        let mut rng = world.rng.borrow_mut();
        if files.is_empty() {
            return false;
        }
        let index = rng.index(files.len());
        let path = files
            .keys()
            .nth(index)
            .cloned()
            .expect("the index is below the count");
        if rng.chance(500) {
            files.remove(&path);
        } else {
            let mut file = files[&path].borrow_mut();
            let keep = rng.index(file.len_bytes / world.sector_bytes + 1) * world.sector_bytes;
            file.set_len(keep, world.sector_bytes);
        }
        world
            .clock
            .event(format_args!("disk cut {}", path.display()));
        world.coverage.count("disk cut_file");
        true
    }

    /// To be called after the process that used the disk was killed: writes under way are done, not done, or cut.
    pub fn process_killed(&self) {
        let world = &self.0;
        let writes = std::mem::take(&mut *world.writes.borrow_mut());
        for (number, write) in writes {
            let sectors = write.bytes.len() / world.sector_bytes;
            let done = world.rng.borrow_mut().below(sectors as u64 + 1);
            let done = usize::try_from(done).expect("below a usize") * world.sector_bytes;
            world
                .clock
                .event(format_args!("disk kill cuts write {number} at {done}"));
            world.coverage.count("disk kill_torn");
            write
                .file
                .borrow_mut()
                .apply(write.at, &write.bytes[..done], world.sector_bytes);
        }
    }

    /// To be called after the process that used the disk was killed: the power goes. Writes not synced are in doubt
    /// sector by sector, files made, renamed or removed since the last sync as a whole.
    pub fn power_lost(&self) {
        self.process_killed();
        let world = &self.0;
        let mut rng = world.rng.borrow_mut();
        let mut files = world.files.borrow_mut();
        for (from, to) in world.renamed.borrow_mut().drain(..).rev() {
            if rng.chance(300)
                && !files.contains_key(&from)
                && let Some(file) = files.remove(&to)
            {
                world
                    .clock
                    .event(format_args!("disk power takes the name {}", to.display()));
                world.coverage.count("disk power_torn");
                files.insert(from, file);
            }
        }
        for (path, file) in world.removed.borrow_mut().drain(..) {
            if rng.chance(300) {
                world
                    .clock
                    .event(format_args!("disk power brings back {}", path.display()));
                files.entry(path).or_insert(file);
            }
        }
        files.retain(|path, file| {
            let keep = file.borrow().made_durable || rng.chance(500);
            if !keep {
                world
                    .clock
                    .event(format_args!("disk power takes {}", path.display()));
                world.coverage.count("disk power_torn");
            }
            keep
        });
        for file in files.values() {
            let mut file = file.borrow_mut();
            let doubtful = std::mem::take(&mut file.unsynced);
            for (sector, versions) in doubtful {
                world.coverage.count("disk power_torn");
                // The index one past the old versions is the newest: what is there now.
                let chosen = rng.index(versions.len() + 1);
                if let Some(old) = versions.into_iter().nth(chosen) {
                    file.sectors.insert(sector, old);
                }
            }
            file.made_durable = true;
        }
        world.clock.event(format_args!("disk power lost"));
    }
}

impl FileState {
    fn set_len(&mut self, len_bytes: usize, sector_bytes: usize) {
        self.len_bytes = len_bytes;
        let end = len_bytes.div_ceil(sector_bytes);
        self.sectors.split_off(&end);
        self.unsynced.split_off(&end);
    }

    /// What is at `at`, which with its length lies inside the file.
    fn read(&self, at: usize, len_bytes: usize, sector_bytes: usize) -> Vec<u8> {
        let first = at / sector_bytes;
        let mut bytes = vec![0; len_bytes];
        for (sector, written) in self.sectors.range(first..first + len_bytes / sector_bytes) {
            let from = (sector - first) * sector_bytes;
            bytes[from..from + sector_bytes].copy_from_slice(written);
        }
        bytes
    }

    fn apply(&mut self, at: usize, bytes: &[u8], sector_bytes: usize) {
        for (index, new) in bytes.chunks_exact(sector_bytes).enumerate() {
            let sector = at / sector_bytes + index;
            if (sector + 1) * sector_bytes > self.len_bytes {
                return;
            }
            self.rotten.remove(&sector);
            let old = self.sectors.insert(sector, new.to_vec());
            let versions = self.unsynced.entry(sector).or_default();
            if versions.len() < VERSIONS_MAX {
                versions.push(old.unwrap_or_else(|| vec![0; sector_bytes]));
            }
        }
    }
}

impl World {
    fn roll(&self, chance: PerMille, fault: &'static str) -> bool {
        let hit = self.rng.borrow_mut().chance(chance);
        if hit {
            self.clock.event(format_args!("fault: {fault}"));
            self.coverage.count(fault);
        }
        hit
    }

    fn draw(&self, end: u64) -> u64 {
        self.rng.borrow_mut().below(end)
    }

    async fn delay(&self, least_us: u64, spread_us: u64) {
        let wait = Duration::from_micros(least_us + self.draw(spread_us));
        self.clock.sleep(wait).await;
    }

    /// A position of the same length elsewhere in the file.
    fn elsewhere(&self, at: usize, len: usize, file_bytes: usize) -> usize {
        let places = (file_bytes - len) / self.sector_bytes + 1;
        let other = usize::try_from(self.draw(places as u64)).expect("inside the file");
        let other = other * self.sector_bytes;
        if other == at && at >= self.sector_bytes {
            at - self.sector_bytes
        } else {
            other
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn open(&self, path: &Path, create_bytes: Option<u64>) -> Result<Rc<SimFile>, DiskError> {
        let world = &self.0;
        world.delay(5, 20).await;
        if world.roll(world.faults.get().open_error, "disk open_error") {
            return Err(device("open", io::ErrorKind::PermissionDenied));
        }
        let mut files = world.files.borrow_mut();
        if !files.contains_key(path) {
            if create_bytes.is_none() {
                return Err(device("open", io::ErrorKind::NotFound));
            }
            world
                .clock
                .event(format_args!("disk make {}", path.display()));
            files.insert(path.to_owned(), FileRef::default());
        }
        let state = Rc::clone(&files[path]);
        if let Some(bytes) = create_bytes {
            let bytes = usize::try_from(bytes).expect("simulated files are small");
            state.borrow_mut().set_len(bytes, world.sector_bytes);
        }
        let size_bytes = state.borrow().len_bytes as u64;
        Ok(Rc::new(SimFile {
            world: Rc::clone(world),
            path: path.to_owned(),
            state,
            size_bytes,
        }))
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let world = &self.0;
        world.delay(5, 20).await;
        if let Some(file) = world.files.borrow_mut().remove(path) {
            world
                .clock
                .event(format_args!("disk remove {}", path.display()));
            let mut removed = world.removed.borrow_mut();
            if removed.len() < REMOVED_MAX {
                removed.push((path.to_owned(), file));
            }
        }
        Ok(())
    }

    async fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let world = &self.0;
        world.delay(5, 20).await;
        if world.roll(world.faults.get().open_error, "disk open_error") {
            return Err(device("list", io::ErrorKind::PermissionDenied));
        }
        let files = world.files.borrow();
        let here = files.keys().filter(|path| path.parent() == Some(dir));
        let names = here.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let world = &self.0;
        world.delay(5, 20).await;
        if world.roll(world.faults.get().open_error, "disk open_error") {
            return Err(device("rename", io::ErrorKind::PermissionDenied));
        }
        let mut files = world.files.borrow_mut();
        let file = files
            .remove(from)
            .ok_or_else(|| device("rename", io::ErrorKind::NotFound))?;
        files.insert(to.to_owned(), file);
        world
            .clock
            .event(format_args!("disk rename to {}", to.display()));
        let mut renamed = world.renamed.borrow_mut();
        if renamed.len() < REMOVED_MAX {
            renamed.push((from.to_owned(), to.to_owned()));
        }
        Ok(())
    }

    async fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let world = &self.0;
        let faults = world.faults.get();
        world.delay(100, 400).await;
        if world.roll(faults.sync_error, "disk sync_error") {
            return Err(device("sync directory", io::ErrorKind::Other));
        }
        if world.roll(faults.sync_lie, "disk sync_lie") {
            return Ok(());
        }
        let inside = |path: &Path| path.parent() == Some(dir);
        for (path, file) in world.files.borrow().iter() {
            if inside(path) {
                file.borrow_mut().made_durable = true;
            }
        }
        world.removed.borrow_mut().retain(|(path, _)| !inside(path));
        world.renamed.borrow_mut().retain(|(_, to)| !inside(to));
        Ok(())
    }
}

/// An open file of a [`SimDisk`].
pub struct SimFile {
    world: Rc<World>,
    path: PathBuf,
    state: FileRef,
    size_bytes: u64,
}

impl SimFile {
    fn check_aligned(&self, at: u64, len: usize) {
        let sector = self.world.sector_bytes;
        assert!(len > 0, "nothing asks for nothing");
        assert!(
            at.is_multiple_of(sector as u64) && len.is_multiple_of(sector),
            "direct IO is aligned: {len} bytes at {at} of {}",
            self.path.display()
        );
    }
}

impl DiskFile for SimFile {
    type ReadBuffer = Vec<u8>;

    fn alignment_bytes(&self) -> usize {
        self.world.sector_bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn read_at(&self, at: u64, len_bytes: usize) -> Result<Vec<u8>, DiskError> {
        self.check_aligned(at, len_bytes);
        let world = &self.world;
        let faults = world.faults.get();
        if world.roll(faults.read_slow, "disk read_slow") {
            world.delay(5_000, 5_000).await;
        }
        world.delay(30, 60).await;
        if world.roll(faults.read_error, "disk read_error") {
            return Err(device("read", io::ErrorKind::Other));
        }
        let position = usize::try_from(at).expect("simulated files are small");
        let there = self.state.borrow().len_bytes.saturating_sub(position);
        let got_bytes = if world.roll(faults.read_short, "disk read_short") {
            usize::try_from(world.draw(len_bytes as u64)).expect("below a length")
        } else {
            len_bytes.min(there)
        };
        if got_bytes < len_bytes {
            return Err(DiskError::Short {
                op: "read",
                at,
                want_bytes: len_bytes,
                got_bytes,
            });
        }
        let from = if world.roll(faults.read_misdirected, "disk read_misdirected") {
            world.elsewhere(position, len_bytes, self.state.borrow().len_bytes)
        } else {
            position
        };
        let mut bytes = self
            .state
            .borrow()
            .read(from, len_bytes, world.sector_bytes);
        let sectors = from / world.sector_bytes..(from + len_bytes) / world.sector_bytes;
        if self.state.borrow().rotten.range(sectors).next().is_some() {
            world.coverage.count("disk rot");
        }
        if world.roll(faults.read_flip, "disk read_flip") {
            let bit = world.draw(len_bytes as u64 * 8);
            bytes[usize::try_from(bit / 8).expect("inside the buffer")] ^= 1 << (bit % 8);
        }
        Ok(bytes)
    }

    async fn write_at(&self, at: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, DiskError> {
        self.check_aligned(at, buffer.len());
        let world = Rc::clone(&self.world);
        let file = Rc::clone(&self.state);
        let position = usize::try_from(at).expect("simulated files are small");
        let want_bytes = buffer.len();
        // The device has it from here on.
        let number = world.next_write.get();
        world.next_write.set(number + 1);
        let (done, wait) = async_channel::bounded(1);
        let device_world = Rc::clone(&world);
        let pending = PendingWrite {
            file,
            at: position,
            bytes: buffer.to_vec(),
        };
        world.writes.borrow_mut().insert(number, pending);
        world.device.spawn(async move {
            let result = carry_out(&device_world, number).await;
            // The one who asked may be gone.
            let _ = done.try_send(result);
        });
        match wait.recv().await {
            Ok(WriteEnd::Done) => Ok(buffer),
            Ok(WriteEnd::Failed) => Err(device("write", io::ErrorKind::Other)),
            Ok(WriteEnd::Short(got_bytes)) => Err(DiskError::Short {
                op: "write",
                at,
                want_bytes,
                got_bytes,
            }),
            Err(async_channel::RecvError) => unreachable!("the device outlives its users"),
        }
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let world = &self.world;
        let faults = world.faults.get();
        world.delay(100, 400).await;
        if world.roll(faults.sync_error, "disk sync_error") {
            return Err(device("sync", io::ErrorKind::Other));
        }
        if world.roll(faults.sync_lie, "disk sync_lie") {
            return Ok(());
        }
        let mut file = self.state.borrow_mut();
        file.unsynced.clear();
        if !world.names_need_sync.get() {
            file.made_durable = true;
            world.removed.borrow_mut().clear();
            world.renamed.borrow_mut().clear();
        }
        Ok(())
    }
}

enum WriteEnd {
    Done,
    Failed,
    Short(usize),
}

/// What the device does with write `number`. A kill takes the write out of the table and decides itself.
async fn carry_out(world: &World, number: u64) -> WriteEnd {
    let faults = world.faults.get();
    let (sectors, at, file_bytes) = {
        let writes = world.writes.borrow();
        // A kill has already decided what became of it.
        let Some(write) = writes.get(&number) else {
            return WriteEnd::Failed;
        };
        let file_bytes = write.file.borrow().len_bytes;
        (write.bytes.len() / world.sector_bytes, write.at, file_bytes)
    };
    let len = sectors * world.sector_bytes;
    world.delay(30, 200).await;
    let (visible, at, end) = if at + len > file_bytes {
        (
            file_bytes.saturating_sub(at) / world.sector_bytes,
            at,
            WriteEnd::Short(file_bytes.saturating_sub(at)),
        )
    } else if world.roll(faults.write_error, "disk write_error") {
        let done = world.draw(sectors as u64 + 1);
        (
            usize::try_from(done).expect("below a count"),
            at,
            WriteEnd::Failed,
        )
    } else if world.roll(faults.write_short, "disk write_short") {
        let done = usize::try_from(world.draw(sectors as u64)).expect("below a count");
        (done, at, WriteEnd::Short(done * world.sector_bytes))
    } else if world.roll(faults.write_lost, "disk write_lost") {
        (0, at, WriteEnd::Done)
    } else if world.roll(faults.write_misdirected, "disk write_misdirected") {
        (
            sectors,
            world.elsewhere(at, len, file_bytes),
            WriteEnd::Done,
        )
    } else {
        (sectors, at, WriteEnd::Done)
    };
    let first = usize::try_from(world.draw(visible as u64 + 1)).expect("below a count");
    let show = |from: usize, to: usize| {
        let writes = world.writes.borrow();
        if let Some(write) = writes.get(&number) {
            let (from, to) = (from * world.sector_bytes, to * world.sector_bytes);
            write
                .file
                .borrow_mut()
                .apply(at + from, &write.bytes[from..to], world.sector_bytes);
        }
    };
    show(0, first);
    world.delay(5, 50).await;
    show(first, visible);
    world.writes.borrow_mut().remove(&number);
    end
}

fn device(op: &'static str, kind: io::ErrorKind) -> DiskError {
    DiskError::Device {
        op,
        source: io::Error::from(kind),
    }
}

/// Versions of a sector remembered between two syncs; later ones replace each other.
const VERSIONS_MAX: usize = 4;
/// Removed files that a power loss can bring back, and renamed ones that it can give their old name.
const REMOVED_MAX: usize = 16;

#[cfg(test)]
mod tests;
