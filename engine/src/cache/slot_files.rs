//! Making the files of slots, at every start: as long as the settings want them, or as the disk has room.
//!
//! On a full disk the last file gets what fits, less what the index takes and a sixteenth, which is left to whoever else
//! writes there. What an earlier start got stays, even if nothing is free any more.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::io::disk::{Disk, DiskError, DiskFile};

use super::config::SLOT_BYTES;

/// The slot files of a folder.
pub(super) struct SlotFiles<'a, D> {
    pub(super) disk: &'a D,
    pub(super) dir: &'a Path,
    pub(super) slots_per_file: u32,
}

impl<D: Disk> SlotFiles<'_, D> {
    /// Makes, resizes and removes files; how many slots there are in the end. `index_bytes` says how much so many slots
    /// take beside them.
    pub(super) async fn make(&self, slots_wanted: u32, index_bytes: impl Fn(u32) -> u64) -> u32 {
        let mut slots_made = 0;
        let mut number = 0;
        while slots_made < slots_wanted {
            let path = slot_file_path(self.dir, number);
            let slots = self.slots_per_file.min(slots_wanted - slots_made);
            let index_bytes = |more| index_bytes(slots_made + more);
            let made = match self.make_file(&path, slots, index_bytes).await {
                Ok(made) => made,
                Err(error) => {
                    warn!(
                        %error,
                        path = %path.display(),
                        slots_made,
                        slots_wanted,
                        "a cache file cannot be made: the cache stays smaller"
                    );
                    // It may have got part of its space. Nobody is going to use that; and if it cannot be removed
                    // either, the warning above has said enough.
                    let _ = self.disk.remove(&path).await;
                    break;
                }
            };
            slots_made += made;
            number += 1;
            if made < slots {
                warn!(
                    path = %path.display(),
                    slots_made,
                    slots_wanted,
                    "the disk is full: the cache gets what fits"
                );
                break;
            }
        }
        self.remove_from(number).await;
        slots_made
    }

    /// Makes one file of `slots`, or of fewer if there is no room for them; of how many.
    async fn make_file(
        &self,
        path: &Path,
        slots: u32,
        index_bytes: impl Fn(u32) -> u64,
    ) -> Result<u32, DiskError> {
        // Made or cut to that, a file takes no more space than it has.
        let slots_there = match self.disk.open(path, None).await {
            Ok(file) => u32::try_from(file.size_bytes() / SLOT_BYTES).unwrap_or(u32::MAX),
            Err(_) => 0,
        };
        let full = match self.resize(path, slots).await {
            Ok(()) => return Ok(slots),
            Err(error) if is_full(&error) => error,
            Err(error) => return Err(error),
        };
        let least = slots_there.min(slots);
        let (mut fits, mut too_many) = (least, slots);
        while too_many - fits > (fits / 16).max(1) {
            let middle = fits + (too_many - fits) / 2;
            match self.resize(path, middle).await {
                Ok(()) => fits = middle,
                Err(_) => too_many = middle,
            }
        }
        let index_slots = index_bytes(fits).div_ceil(SLOT_BYTES);
        let reserve = u64::from(fits.div_ceil(16)) + index_slots;
        let fits = fits.saturating_sub(u32::try_from(reserve).unwrap_or(u32::MAX));
        let slots = fits.max(least);
        if slots == 0 {
            return Err(full);
        }
        self.resize(path, slots).await?;
        Ok(slots)
    }

    async fn resize(&self, path: &Path, slots: u32) -> Result<(), DiskError> {
        let bytes = u64::from(slots) * SLOT_BYTES;
        self.disk.open(path, Some(bytes)).await.map(drop)
    }

    /// Removes what a larger cache left. Files have no gaps between them, so the first one missing ends the search.
    async fn remove_from(&self, first: u32) {
        for number in first.. {
            let path = slot_file_path(self.dir, number);
            match self.disk.open(&path, None).await {
                Ok(file) => drop(file),
                Err(_) => return,
            }
            if let Err(error) = self.disk.remove(&path).await {
                warn!(%error, number, "a cache file that is not needed any more stays");
                return;
            }
        }
    }
}

pub(super) fn slot_file_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("slots-{number:03}"))
}

/// Whether the disk has no room, or not for this user.
fn is_full(error: &DiskError) -> bool {
    match error {
        DiskError::Device { source, .. } => {
            matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            )
        }
        DiskError::Short { .. } => false,
    }
}
