//! Objects in memory, for tests and the simulator: answers at once, in an order that depends on nothing but the
//! calls, and hands bodies out in pieces as a network would.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, Iter};

use super::objects::{ListedObject, Objects, StoreError};

/// An object store in memory. Clones share the objects, also across threads.
#[derive(Clone, Debug)]
pub struct MemoryObjects {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    chunk_bytes: usize,
}

impl MemoryObjects {
    /// An empty store whose bodies come in chunks of `chunk_bytes`, which must be positive.
    pub fn new(chunk_bytes: usize) -> MemoryObjects {
        assert!(chunk_bytes > 0, "bodies come in chunks of at least a byte");
        MemoryObjects {
            objects: Arc::default(),
            chunk_bytes,
        }
    }

    /// Replaces an object's bytes behind everybody's back, or removes it: damage, for tests.
    pub fn tamper(&self, path: &str, body: Option<Bytes>) {
        match body {
            Some(body) => self.lock().insert(path.to_owned(), body),
            None => self.lock().remove(path),
        };
    }

    /// The bytes of an object, if it is there.
    pub fn peek(&self, path: &str) -> Option<Bytes> {
        self.lock().get(path).cloned()
    }

    /// Number of objects.
    pub fn object_count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // Every change of the map is one call: a panic elsewhere leaves nothing half done.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, path: &str) -> Result<Bytes, StoreError> {
        self.peek(path).ok_or_else(|| StoreError::NotFound {
            path: path.to_owned(),
        })
    }
}

impl Objects for MemoryObjects {
    type Body = Iter<std::vec::IntoIter<Result<Bytes, StoreError>>>;

    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError> {
        let whole = self.find(path)?;
        let have_bytes = whole.len() as u64;
        if range.end > have_bytes {
            return Err(StoreError::Truncated {
                path: path.to_owned(),
                want_end: range.end,
                object_bytes_max: have_bytes,
            });
        }
        let at = |position: u64| {
            usize::try_from(position).expect("not larger than an object in memory, checked above")
        };
        let mut rest = whole.slice(at(range.start.min(range.end))..at(range.end));
        let mut chunks = Vec::with_capacity(rest.len().div_ceil(self.chunk_bytes));
        while !rest.is_empty() {
            chunks.push(Ok(rest.split_to(self.chunk_bytes.min(rest.len()))));
        }
        Ok(stream::iter(chunks))
    }

    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
        self.find(path)
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
        let mut objects = self.lock();
        if objects.contains_key(path) {
            return Err(StoreError::AlreadyExists {
                path: path.to_owned(),
            });
        }
        objects.insert(path.to_owned(), body);
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let directory = if prefix.is_empty() || prefix.ends_with('/') {
            prefix.to_owned()
        } else {
            format!("{prefix}/")
        };
        let from = match after {
            Some(after) if after >= directory.as_str() => Bound::Excluded(after),
            _ => Bound::Included(directory.as_str()),
        };
        Ok(self
            .lock()
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(&directory))
            .map(|(path, body)| ListedObject {
                path: path.clone(),
                size_bytes: body.len() as u64,
            })
            .collect())
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.lock().remove(path);
        Ok(())
    }
}
