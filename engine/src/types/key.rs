//! Engine keys: opaque, ordered, at most 24 bytes.
//!
//! The engine knows nothing of what a key means. Whoever opens it supplies a [`KeySpace`]: which of the 1,024
//! partitions a key belongs to, and which stripe (the run of neighbouring keys that stays on one core and in
//! consecutive extents).

use std::cmp::Ordering;
use std::fmt;

/// Bytes of a key. Shorter strings are padded with zeros; two strings that differ only in trailing zeros are
/// the same key.
pub const KEY_BYTES: usize = 24;

/// Number of partitions, fixed by the formats.
pub const PARTITIONS: u16 = 1024;

/// An opaque key; ordered as its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; KEY_BYTES]);

impl Ord for Key {
    // As three numbers: searches compare keys several times per read, and a call of memcmp costs more than that.
    fn cmp(&self, other: &Key) -> Ordering {
        self.words().cmp(&other.words())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Key {
    /// The lowest key.
    pub const MIN: Key = Key([0; KEY_BYTES]);
    /// The highest key.
    pub const MAX: Key = Key([0xff; KEY_BYTES]);

    /// A key from at most [`KEY_BYTES`] bytes, padded with zeros; `None` if there are more.
    pub fn from_slice(bytes: &[u8]) -> Option<Key> {
        let mut key = [0; KEY_BYTES];
        key.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Key(key))
    }

    /// Its bytes as numbers that order alike.
    fn words(&self) -> [u64; KEY_BYTES / 8] {
        let (words, _) = self.0.as_chunks::<8>();
        [0, 1, 2].map(|nth| u64::from_be_bytes(words[nth]))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One of the 1,024 partitions of the key space; always below [`PARTITIONS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Partition(u16);

impl Partition {
    /// The partition of a hash: its low ten bits.
    pub fn of_hash(hash: u32) -> Partition {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the remainder is below 1,024"
        )]
        Partition((hash % u32::from(PARTITIONS)) as u16)
    }

    /// The partition with this number, or `None` if there is none.
    pub fn new(number: u16) -> Option<Partition> {
        (number < PARTITIONS).then_some(Partition(number))
    }

    /// Its number, below [`PARTITIONS`].
    pub fn number(self) -> u16 {
        self.0
    }
}

/// What the engine must know of keys, supplied by whoever opens it. Both functions are part of the stored
/// format: they must answer the same for ever. Keys of one stripe are all in one partition.
pub trait KeySpace: Send + Sync + 'static {
    /// The partition that owns `key`.
    fn partition(&self, key: &Key) -> Partition;

    /// A number that neighbouring keys share exactly if they belong to one stripe.
    fn stripe(&self, key: &Key) -> u64;
}
