//! What the engine asks of an object store. Implementations: `object_store` (http, local directory, memory)
//! and the simulator's; `faulty.rs` wraps any of them.
#![expect(
    async_fn_in_trait,
    reason = "futures of the simulator belong to one thread; concrete implementations show whether theirs are Send"
)]

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

/// Why the store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no object of that name.
    #[error("{path}: no such object")]
    NotFound {
        /// Its name.
        path: String,
    },
    /// Put-if-absent found the name taken.
    #[error("{path}: exists already")]
    AlreadyExists {
        /// Its name.
        path: String,
    },
    /// The deadline passed.
    #[error("{path}: no answer within {after:?}")]
    Deadline {
        /// The object asked for.
        path: String,
        /// How long was waited.
        after: Duration,
    },
    /// The body ended early, or was not what the range asked for: it was lost on its way, and another try may bring it.
    #[error("{path}: {got_bytes} of {want_bytes} bytes")]
    ShortBody {
        /// The object asked for.
        path: String,
        /// Bytes asked for.
        want_bytes: u64,
        /// Bytes that came.
        got_bytes: u64,
    },
    /// The object as it is stored ends before the range does: no other try will bring more.
    #[error(
        "{path}: byte {want_end} asked for, the object ends at byte {object_bytes_max} or before"
    )]
    Truncated {
        /// The object asked for.
        path: String,
        /// Where the range ends.
        want_end: u64,
        /// The object's size, or a bound of it where the store does not say.
        object_bytes_max: u64,
    },
    /// The store refuses for good: credentials, bucket, permissions.
    #[error("{path}: refused: {reason}")]
    Refused {
        /// The object asked for.
        path: String,
        /// What the store said, without credentials.
        reason: String,
    },
    /// The store is away, overloaded, or answers nonsense; retrying is safe.
    #[error("{path}: {reason}")]
    Unavailable {
        /// The object asked for.
        path: String,
        /// What happened.
        reason: String,
    },
}

/// One listed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Full path below the store's root.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
}

/// An object store as the engine sees it: immutable named objects below one root. One call is one request: no
/// retries, no deadlines in here, they are `miss_stream`'s and `upload`'s. Belongs to one thread.
pub trait Objects: Clone + 'static {
    /// The body of a ranged read, in pieces, in order.
    type Body: Stream<Item = Result<Bytes, StoreError>> + Unpin + 'static;

    /// Starts reading `range` of the object; returns when the first byte is about to come. A range that reaches
    /// beyond the object's end is `Truncated`, a body that ends early by itself `ShortBody`, here or on the body; an
    /// empty range is an empty body.
    async fn get(&self, path: &str, range: Range<u64>) -> Result<Self::Body, StoreError>;

    /// The whole of a small object.
    async fn get_all(&self, path: &str) -> Result<Bytes, StoreError>;

    /// Creates the object, durably, or fails with `AlreadyExists`. A failure of any other kind leaves open
    /// whether it was created: `upload` reads back and compares.
    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError>;

    /// Objects whose path starts with the directory `prefix`, in order of path, those after `after` only.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ListedObject>, StoreError>;

    /// The first `count_max` of [`Objects::list`]. Stores that list in order and by pages need only as many pages as it
    /// takes; the default asks for all of them.
    async fn list_first(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let mut listed = self.list(prefix, after).await?;
        listed.truncate(count_max);
        Ok(listed)
    }

    /// Deletes; an object that is not there is no error.
    async fn delete(&self, path: &str) -> Result<(), StoreError>;
}
