//! What each request reads, and what its answer says. Knows keys and LSNs, no sockets.

use engine::types::{Key, Lsn, PAGE_BYTES};
use postgres::key::{DEFAULT_TABLESPACE, Fork, PostgresKey, Relation, Slru};
use postgres::value::{RelationSize, SlruSegment, ValueError};

use super::codec::{self, Ask, Echo, RelationFork};
use crate::shards::{Answer, BranchHandle, Core, ErrorKind, ReadError};

/// Why a request gets an error for an answer. The connection goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("relation {0} is no relation")]
    NoSuchFile(u32),
    #[error("fork {0} is no fork: there are 0 to 3")]
    NoSuchFork(u8),
    #[error("SLRU {0} is no SLRU: there are 0 to 2")]
    NoSuchSlru(u8),
    #[error("relation {relation} fork {fork} does not exist at {at}")]
    NoRelation {
        relation: Relation,
        fork: u8,
        at: Lsn,
    },
    #[error("relation {relation} fork {fork}: block {block} of {blocks} has no version at {at}")]
    NoVersion {
        relation: Relation,
        fork: u8,
        block: u32,
        blocks: u32,
        at: Lsn,
    },
    #[error("database {database} does not exist at {at}")]
    NoDatabase { database: u32, at: Lsn },
    #[error("segment {segment} of {} does not exist at {at}", slru.directory())]
    NoSegment { slru: Slru, segment: u32, at: Lsn },
    #[error("{at} did not arrive within {waited:?}: the last LSN is {last}")]
    NotYet {
        at: Lsn,
        last: Lsn,
        waited: std::time::Duration,
    },
    #[error("{at} is not there (the last LSN is {last}), and the server is shutting down")]
    Stopping { at: Lsn, last: Lsn },
    #[error(transparent)]
    Lsn(#[from] super::lsn_rules::BadLsn),
    #[error("{what}: {source}")]
    Read { what: Ask, source: ReadError },
    #[error("{what}: {source}")]
    Value { what: Ask, source: ValueError },
    #[error("{what}: a page of {got_bytes} bytes")]
    PageLength { what: Ask, got_bytes: usize },
}

/// What one key answers, if one key does.
pub(super) fn single_key(ask: Ask) -> Result<Option<Key>, RequestError> {
    Ok(match ask {
        Ask::GetPage(rel, block) => {
            let (relation, fork) = relation(rel)?;
            Some(
                PostgresKey::Block {
                    relation,
                    fork,
                    block,
                }
                .encode(),
            )
        }
        Ask::Exists(rel) | Ask::Nblocks(rel) => Some(size_key(rel)?),
        Ask::DbSize { .. } | Ask::GetSlruSegment { .. } => None,
    })
}

/// Appends the answer to a request whose one key was read at `at`.
pub(super) async fn put_single(
    reader: &Reader<'_>,
    out: &mut Vec<u8>,
    echo: &Echo,
    ask: Ask,
    answer: &Answer,
) -> Result<Found, RequestError> {
    let missing = match &answer.result {
        // What a key names is gone, or nobody logged what is on the page.
        Ok(0) => true,
        Ok(_) => false,
        Err(e) if e.kind() == ErrorKind::NotFound => true,
        Err(e) => {
            let source = e.clone();
            return Err(RequestError::Read { what: ask, source });
        }
    };
    match ask {
        Ask::GetPage(..) if !missing => {
            if answer.result.as_ref().ok() != Some(&PAGE_BYTES) {
                let got_bytes = answer.value().map_or(0, <[u8]>::len);
                return Err(RequestError::PageLength {
                    what: ask,
                    got_bytes,
                });
            }
            codec::put_page(out, echo, answer);
        }
        Ask::GetPage(rel, block) => {
            let is_hole = answer.result.is_ok();
            if reader.is_past_end(rel, block, is_hole).await? {
                codec::put_page(out, echo, &[0; PAGE_BYTES]);
                return Ok(Found::PastEnd);
            }
            codec::put_page(out, echo, &[0; PAGE_BYTES]);
        }
        Ask::Exists(_) => codec::put_exists(out, echo, !missing),
        Ask::Nblocks(rel) => {
            let blocks = match answer.value() {
                Some(value) if !missing => size(ask, value)?.blocks,
                _ => return Err(reader.no_relation(rel)?),
            };
            codec::put_nblocks(out, echo, blocks);
        }
        Ask::DbSize { .. } | Ask::GetSlruSegment { .. } => {
            unreachable!("these are not answered by one key")
        }
    }
    Ok(Found::Value)
}

/// Whether an answer came from a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It did.
    Value,
    /// A page of zeros, past the end of its relation.
    PastEnd,
}

/// Reads for requests that need more than one key, one after the other; allocates.
pub(super) struct Reader<'a> {
    pub(super) core: &'a Core,
    pub(super) branch: &'a BranchHandle,
    pub(super) at: Lsn,
}

impl Reader<'_> {
    /// Appends the answer to any request, reading all it needs.
    pub(super) async fn put(
        &self,
        out: &mut Vec<u8>,
        echo: &Echo,
        ask: Ask,
    ) -> Result<Found, RequestError> {
        match ask {
            Ask::DbSize { database } => {
                codec::put_db_size(out, echo, self.database_bytes(ask, database).await?);
            }
            Ask::GetSlruSegment { kind, segment } => {
                let blocks = self.slru_segment(ask, kind, segment).await?;
                codec::put_slru_segment(out, echo, &blocks);
            }
            Ask::GetPage(..) | Ask::Exists(_) | Ask::Nblocks(_) => {
                let key = single_key(ask)?.expect("one key answers these");
                let mut reads = self.core.reads(1);
                reads.push(self.branch, key, self.at);
                let answer = reads.next().await.expect("one read is in flight");
                return put_single(self, out, echo, ask, &answer).await;
            }
        }
        Ok(Found::Value)
    }

    /// Whether `block`, which has no page, lies past the end of a fork that exists. One within the fork has to be a hole.
    async fn is_past_end(
        &self,
        rel: RelationFork,
        block: u32,
        is_hole: bool,
    ) -> Result<bool, RequestError> {
        let ask = Ask::Nblocks(rel);
        let Some(value) = self.value(ask, size_key(rel)?).await? else {
            return Err(self.no_relation(rel)?);
        };
        let blocks = size(ask, &value)?.blocks;
        if block >= blocks || is_hole {
            return Ok(block >= blocks);
        }
        let (relation, _) = relation(rel)?;
        Err(RequestError::NoVersion {
            relation,
            fork: rel.fork,
            block,
            blocks,
            at: self.at,
        })
    }

    fn no_relation(&self, rel: RelationFork) -> Result<RequestError, RequestError> {
        let (relation, _) = relation(rel)?;
        Ok(RequestError::NoRelation {
            relation,
            fork: rel.fork,
            at: self.at,
        })
    }

    async fn database_bytes(&self, what: Ask, database: u32) -> Result<i64, RequestError> {
        let (from, to) = PostgresKey::relation_sizes_of(database);
        let sizes = self
            .core
            .scan(self.branch, from, to, self.at)
            .await
            .map_err(|source| RequestError::Read { what, source })?;
        if sizes.iter().all(|(_, value)| value.is_empty()) {
            return Err(RequestError::NoDatabase {
                database,
                at: self.at,
            });
        }
        let mut blocks = 0_i64;
        for (key, value) in &sizes {
            if !value.is_empty()
                && let Some(PostgresKey::RelationSize { relation, .. }) = PostgresKey::decode(key)
                && relation.tablespace == DEFAULT_TABLESPACE
            {
                blocks += i64::from(size(what, value)?.blocks);
            }
        }
        Ok(blocks * i64::try_from(PAGE_BYTES).expect("8192"))
    }

    async fn slru_segment(
        &self,
        what: Ask,
        kind: u8,
        segment: u32,
    ) -> Result<Vec<u8>, RequestError> {
        let slru = Slru::from_number(kind)
            .filter(|slru| *slru != Slru::CommitTimestamps)
            .ok_or(RequestError::NoSuchSlru(kind))?;
        let at = self.at;
        let missing = || RequestError::NoSegment { slru, segment, at };
        let segment = u64::from(segment);
        let key = PostgresKey::SlruSegment { slru, segment }.encode();
        let value = self.value(what, key).await?.ok_or_else(missing)?;
        let pages = SlruSegment::decode(&value)
            .map_err(|source| RequestError::Value { what, source })?
            .pages;
        let mut blocks = Vec::with_capacity(codec::SLRU_BLOCKS_MAX * PAGE_BYTES);
        for block in 0..pages {
            let key = PostgresKey::SlruPage {
                slru,
                segment,
                block,
            }
            .encode();
            let page = match self.core.read(self.branch, key, at).await {
                // Nobody logged what is on it.
                Ok(page) if page.is_empty() => vec![0; PAGE_BYTES],
                Ok(page) => page,
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(missing()),
                Err(source) => return Err(RequestError::Read { what, source }),
            };
            if page.len() != PAGE_BYTES || blocks.len() == blocks.capacity() {
                let got_bytes = page.len();
                return Err(RequestError::PageLength { what, got_bytes });
            }
            blocks.extend_from_slice(&page);
        }
        Ok(blocks)
    }

    async fn value(&self, what: Ask, key: Key) -> Result<Option<Vec<u8>>, RequestError> {
        match self.core.read(self.branch, key, self.at).await {
            // Empty: what the key names is gone.
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RequestError::Read { what, source }),
        }
    }
}

fn relation(rel: RelationFork) -> Result<(Relation, Fork), RequestError> {
    if rel.relation == 0 {
        return Err(RequestError::NoSuchFile(rel.relation));
    }
    let fork = Fork::from_number(rel.fork).ok_or(RequestError::NoSuchFork(rel.fork))?;
    let relation = Relation {
        tablespace: rel.tablespace,
        database: rel.database,
        number: rel.relation,
    };
    Ok((relation, fork))
}

fn size_key(rel: RelationFork) -> Result<Key, RequestError> {
    let (relation, fork) = relation(rel)?;
    Ok(PostgresKey::RelationSize { relation, fork }.encode())
}

fn size(what: Ask, value: &[u8]) -> Result<RelationSize, RequestError> {
    RelationSize::decode(value).map_err(|source| RequestError::Value { what, source })
}
