//! The body of one ranged read: comes in order, and when it breaks off, is late or ends early, goes on from the
//! first missing byte with another attempt. Bytes that were handed out are never asked for or handed out again.
//!
//! Deadlines count the time in which the store is waited for. Time in which the reader does not ask is the
//! reader's: a slow shard does not make a store late.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rand_core::RngCore;

use super::objects::{Objects, StoreError};
use super::reliable::{Attempts, Opened, Reliable};
use crate::io::clock::{Clock, Moment, within};

/// A ranged read under way.
pub(super) struct MissStream<O: Objects, C, R> {
    store: Reliable<O, C, R>,
    path: Arc<str>,
    /// What is still missing.
    missing: Range<u64>,
    body: Option<Body<O::Body>>,
    attempts: Attempts,
    began: Moment,
}

/// One attempt's body.
struct Body<B> {
    opened: Opened<B>,
    /// How much longer the store may be waited for.
    patience: Duration,
    allowed: Duration,
}

impl<O: Objects, C: Clock, R: RngCore + 'static> MissStream<O, C, R> {
    /// A read of `range`, not started yet.
    pub(super) fn new(store: Reliable<O, C, R>, path: Arc<str>, range: Range<u64>) -> Self {
        let attempts = store.first_attempt();
        let began = store.clock().now();
        MissStream {
            store,
            path,
            missing: range,
            body: None,
            attempts,
            began,
        }
    }

    /// Makes sure that an attempt is under way and has its first bytes; retries as often as allowed.
    /// # Errors
    /// The last attempt's, once no further one may be made.
    pub(super) async fn open(&mut self) -> Result<(), StoreError> {
        while self.body.is_none() {
            match self.store.open(&self.path, self.missing.clone()).await {
                Ok(opened) => {
                    let missing_bytes = self.missing.end - self.missing.start;
                    let allowed = self.store.config().body_deadline
                        + self.store.transfer_allowance(missing_bytes);
                    self.body = Some(Body {
                        opened,
                        patience: allowed,
                        allowed,
                    });
                }
                Err(error) => self.store.again(&mut self.attempts, error).await?,
            }
        }
        Ok(())
    }

    /// The chunks as a stream that ends after the range or the first error.
    pub(super) fn into_chunks(self) -> Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>>>> {
        // `unfold` keeps the future of the next chunk, so that a reader that stops polling in the middle of a
        // retry does not start it anew.
        Box::pin(futures_util::stream::unfold(self, |mut stream| async {
            if stream.missing.is_empty() {
                return None;
            }
            let chunk = stream.next_chunk().await;
            if chunk.is_err() {
                stream.missing.start = stream.missing.end;
            }
            Some((chunk, stream))
        }))
    }

    async fn next_chunk(&mut self) -> Result<Bytes, StoreError> {
        loop {
            self.open().await?;
            match self.chunk_of_body().await {
                Ok(chunk) => {
                    self.missing.start += chunk.len() as u64;
                    self.attempts.progressed(self.store.clock().now());
                    let stats = self.store.stats();
                    stats.bytes_read(chunk.len() as u64);
                    if self.missing.is_empty() {
                        stats.record_read(self.store.clock().now().since(self.began));
                        self.store.succeeded();
                        self.body = None;
                    }
                    return Ok(chunk);
                }
                Err(error) => {
                    self.body = None;
                    self.store.again(&mut self.attempts, error).await?;
                    self.store.stats().bodies_resumed(1);
                }
            }
        }
    }

    /// The next bytes of the present attempt; never empty, never more than are missing.
    async fn chunk_of_body(&mut self) -> Result<Bytes, StoreError> {
        let body = self
            .body
            .as_mut()
            .expect("an attempt was opened just before");
        let missing_bytes = self.missing.end - self.missing.start;
        let chunk = std::mem::take(&mut body.opened.first);
        let chunk = if chunk.is_empty() {
            let asked_at = self.store.clock().now();
            let next = async {
                while let Some(chunk) = body.opened.rest.next().await.transpose()? {
                    if !chunk.is_empty() {
                        return Ok(chunk);
                    }
                }
                Err(StoreError::ShortBody {
                    path: self.path.to_string(),
                    want_bytes: missing_bytes,
                    got_bytes: 0,
                })
            };
            let Some(chunk) = within(self.store.clock(), body.patience, next).await else {
                self.store.stats().body_deadlines(1);
                return Err(StoreError::Deadline {
                    path: self.path.to_string(),
                    after: body.allowed,
                });
            };
            let waited = self.store.clock().now().since(asked_at);
            body.patience = body.patience.saturating_sub(waited);
            chunk?
        } else {
            chunk
        };
        if chunk.len() as u64 > missing_bytes {
            return Err(StoreError::Unavailable {
                path: self.path.to_string(),
                reason: "the store sent more bytes than were asked for".to_owned(),
            });
        }
        Ok(chunk)
    }
}
