//! A cache far larger than the disk: sparse files, and an index that names an extent in every slot. What a start has to
//! do with it is what it would do with a full one; none of the extents that are made up here is ever read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use engine::cache::{CacheConfig, CacheLayout, ExtentId, SLOT_BYTES, ShardCache};
use engine::io::executor::{CoreConfig, start_core};
use engine::io::ring_disk::RingDisk;
use engine::types::{BranchId, Id, ObjectId, PARTITIONS, Partition, TenantId};

use crate::error::{BenchError, Doing, Result};

/// Makes the slot files of a cache of `cache_bytes` in `folder`, without allotting anything.
///
/// # Errors
/// What the file system refuses.
pub(crate) fn make_files(folder: &Path, cache_bytes: u64) -> Result<()> {
    fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))?;
    let file_bytes = u64::from(CacheConfig::default().slots_per_file) * SLOT_BYTES;
    for number in 0..cache_bytes.div_ceil(file_bytes) {
        let path = folder.join(format!("slots-{number:03}"));
        // The last one is cut when the cache is opened.
        let file = File::create(&path).doing(|| format!("make {}", path.display()))?;
        file.set_len(file_bytes)
            .doing(|| format!("lengthen {}", path.display()))?;
    }
    Ok(())
}

/// Gives every slot that is free an extent, in the index and not in its file, as a server would have done that stopped
/// well. How many slots are in use then. No server may be using the cache of `server` in `folder`.
///
/// # Errors
/// The cache does not open, or its index can't be written.
pub(crate) fn fill_index(folder: &Path, server: Id, cache_bytes: u64) -> Result<u32> {
    let unfit = |what: &dyn std::fmt::Display| BenchError::Unfit(format!("sparse cache: {what}"));
    let folder = folder.to_owned();
    let core = start_core(CoreConfig::default(), async move || {
        fill_on_core(folder, server, cache_bytes).await
    });
    let filled = core.and_then(engine::io::executor::CoreHandle::join);
    filled.map_err(|e| unfit(&e))?.map_err(|e| unfit(&e))
}

async fn fill_on_core(
    folder: PathBuf,
    server: Id,
    cache_bytes: u64,
) -> std::result::Result<u32, String> {
    let config = CacheConfig {
        cache_bytes,
        ..CacheConfig::default()
    };
    let disk = RingDisk::new(1);
    let prepared = CacheLayout::prepare(&disk, &folder, &config, server, 1).await;
    let (layout, mut loader) = prepared.map_err(|e| e.to_string())?;
    let cache = ShardCache::open(&disk, &layout).await;
    while let Some((_, deal)) = loader.next(|_| 0).await {
        cache.accept(deal);
    }
    let mut number = 0u32;
    while cache.stats().slots_used < layout.slot_count() {
        let id = ExtentId {
            tenant: TenantId(Id(*b"of nobody at all")),
            object: ObjectId {
                branch: BranchId(Id(*b"of nobody at all")),
                epoch: 1,
                sequence: u64::from(number / EXTENTS_PER_LAYER),
            },
            extent_no: number % EXTENTS_PER_LAYER,
        };
        let partition = Partition::of_hash(number % u32::from(PARTITIONS));
        let slot_bytes = u32::try_from(SLOT_BYTES).expect("256 KiB");
        let ticket = cache.reserve(id, partition, slot_bytes);
        cache.filled(ticket.ok_or("no slot is free")?, number);
        number += 1;
    }
    if cache.flush().await {
        Ok(layout.slot_count())
    } else {
        Err("its index can't be written".to_owned())
    }
}

/// As of layers of 128 MiB.
const EXTENTS_PER_LAYER: u32 = 512;
