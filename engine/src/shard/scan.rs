//! Reading a range of keys of one partition: for what lists (relations of a database, plain files), not for pages.

use std::collections::BTreeSet;
use std::rc::Rc;

use async_channel::Sender;

use crate::error::ReadError;
use crate::layer::{BlockContents, LayerError};
use crate::types::{Key, Lsn};

use super::fetch::store_error;
use super::layers::{Descent, LayerOnCore};
use super::read_path::{Patience, Stop};
use super::request::{BranchNumber, Message};
use super::{Platform, ShardState};

/// What a scan finds: keys in order, with their values.
pub(crate) type ScanResult = Result<Vec<(Key, Vec<u8>)>, ReadError>;

/// A scan on its way to the owner of its keys.
#[derive(Debug)]
pub(crate) struct ScanRequest {
    branch: BranchNumber,
    from: Key,
    to: Key,
    at: Lsn,
    reply: Sender<ScanResult>,
}

impl<P: Platform> ShardState<P> {
    /// Scans on the core that owns the keys.
    pub(super) async fn scan_at_owner(
        self: &Rc<Self>,
        branch: BranchNumber,
        from: Key,
        to: Key,
        at: Lsn,
    ) -> ScanResult {
        assert_eq!(
            self.key_space.partition(&from),
            self.key_space.partition(&to),
            "a scan stays in one partition"
        );
        let owner = self.owner(&from);
        if owner == self.mesh.core() {
            return self.scan_refreshed(branch, (from, to), at).await;
        }
        let (reply, answer) = async_channel::bounded(1);
        let request = ScanRequest {
            branch,
            from,
            to,
            at,
            reply,
        };
        self.mesh.send(owner, Message::Scan(Box::new(request)));
        let gone = |_| {
            Err(ReadError::unavailable(
                "the core that owns these keys has stopped",
            ))
        };
        answer.recv().await.unwrap_or_else(gone)
    }

    /// Answers another core's scan.
    pub(super) async fn serve_scan(self: Rc<Self>, request: Box<ScanRequest>) {
        let ScanRequest {
            branch,
            from,
            to,
            at,
            reply,
        } = *request;
        // Whoever asked may have gone; then nobody misses the answer.
        let found = self.scan_refreshed(branch, (from, to), at).await;
        let _ = reply.send(found).await;
    }

    /// One try.
    pub(super) async fn scan(
        self: &Rc<Self>,
        branch: BranchNumber,
        from: Key,
        to: Key,
        at: Lsn,
    ) -> ScanResult {
        let on_core = self.branch(branch);
        on_core.want();
        self.check_readable(&on_core, at)?;
        let keys = self.keys_between(branch, from, to, at).await?;
        let mut values = Vec::with_capacity(keys.len());
        let mut page = self.pool.take();
        for key in keys {
            match patient(
                self.read(branch, &key, at, &mut page, Patience::Store)
                    .await,
            ) {
                Ok(found) => values.push((key, page[..found.len].to_vec())),
                Err(ReadError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.pool.put(page);
        self.check_all_horizons(self.branch(branch), at)?;
        Ok(values)
    }

    /// Adds every key in the range that some version at or below `at` may exist of.
    async fn keys_between(
        self: &Rc<Self>,
        branch: BranchNumber,
        from: Key,
        to: Key,
        at: Lsn,
    ) -> Result<BTreeSet<Key>, ReadError> {
        let partition = self.key_space.partition(&from);
        let mut keys = BTreeSet::new();
        let mut descent = Descent::new(at);
        let mut next = Some(self.branch(branch));
        while let Some(branch) = next {
            let at = descent.at_most();
            branch.memory.borrow().keys_between(from, to, at, &mut keys);
            let sections = patient(self.sections(&branch, partition, Patience::Store).await)?;
            for part in sections.between(&from, &to, at) {
                let layer = patient(self.layer(&branch, part, Patience::Store).await)?;
                let Some(section) = layer.index().section(partition) else {
                    continue;
                };
                for extent_no in section.extents.clone() {
                    // Extents are sorted by key: past the range there is nothing, before it perhaps.
                    if layer
                        .index()
                        .first_key(extent_no)
                        .is_some_and(|first| first > to)
                    {
                        break;
                    }
                    let next_first = (extent_no + 1 < section.extents.end)
                        .then(|| layer.index().first_key(extent_no + 1))
                        .flatten();
                    if next_first.is_none_or(|first| first >= from) {
                        self.keys_of_extent(&layer, extent_no, &mut keys).await?;
                    }
                }
            }
            next = self.descend(&branch, &mut descent)?;
        }
        keys.retain(|key| (from..=to).contains(key));
        Ok(keys)
    }

    async fn keys_of_extent(
        self: &Rc<Self>,
        layer: &LayerOnCore,
        extent_no: u32,
        keys: &mut BTreeSet<Key>,
    ) -> Result<(), ReadError> {
        let range = layer.extent_range(extent_no);
        let bytes = self
            .store
            .read(&layer.path(), range)
            .await
            .map_err(|e| store_error(layer, e))?;
        let corrupt = |error: LayerError| ReadError::Corrupt {
            object: layer.object(),
            reason: error.to_string().into(),
        };
        let directory = layer.open_directory(extent_no, &bytes).map_err(corrupt)?;
        for place in directory.places() {
            if place.contents != BlockContents::Pack {
                keys.insert(place.first_key);
                continue;
            }
            let sealed = bytes.get(place.range()).ok_or_else(|| {
                corrupt(LayerError::Truncated {
                    part: place.part(),
                    want_bytes: place.range().end,
                    got_bytes: bytes.len(),
                })
            })?;
            let mut scratch = self.scratch.borrow_mut();
            keys.extend(
                layer
                    .keys_of_pack(&place, sealed, &mut scratch)
                    .map_err(corrupt)?,
            );
        }
        Ok(())
    }
}

/// Takes the outcome of a step that was allowed to wait for the store.
fn patient<T>(outcome: Result<T, Stop>) -> Result<T, ReadError> {
    outcome.map_err(|stop| match stop {
        Stop::Failed(error) => error,
        Stop::NeedsStore => unreachable!("a scan has all the patience there is"),
    })
}
