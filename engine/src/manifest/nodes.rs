//! Reading nodes of snapshots.

use futures_util::{TryStreamExt, future};

use super::error::ManifestError;
use super::key_tables::KeyTables;
use super::names;
use super::section::LayerSection;
use super::snapshot::{NodeRef, SnapshotRoot, open_node};
use crate::store::objects::{Objects, StoreError};
use crate::types::BranchId;

/// The sections of `node`, by partition. One round trip: the node, and its key table if that is not in memory.
pub(crate) async fn fetch_node<O: Objects>(
    objects: &O,
    keys: &KeyTables,
    branch: BranchId,
    root: &SnapshotRoot,
    node: &NodeRef,
) -> Result<Vec<LayerSection>, ManifestError> {
    let object = root.object_of(node);
    let path = names::snapshot(keys.tenant(), object.id(branch));
    let frame = async { read_exactly(objects, &path, node.at, node.frame_bytes).await };
    let dek = keys.dek(objects, branch, object.dek);
    let (frame, dek) = future::join(frame, dek).await;
    let sections = open_node((keys.tenant(), branch), object, node, &*dek?, &frame?)
        .map_err(|problem| problem.at(&path))?;
    Ok(sections)
}

async fn read_exactly<O: Objects>(
    objects: &O,
    path: &str,
    at: u64,
    len_bytes: u32,
) -> Result<Vec<u8>, ManifestError> {
    let want_bytes = u64::from(len_bytes);
    let mut body = objects.get(path, at..at + want_bytes).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.try_next().await? {
        bytes.extend_from_slice(&piece);
        if u64::try_from(bytes.len()).is_ok_and(|got| got > want_bytes) {
            break;
        }
    }
    let got_bytes = u64::try_from(bytes.len()).expect("a length fits");
    if got_bytes == want_bytes {
        return Ok(bytes);
    }
    Err(StoreError::ShortBody {
        path: path.to_owned(),
        want_bytes,
        got_bytes,
    }
    .into())
}
