//! The reference: a plain map from key to its versions, for every branch that was ever begun, and the judgement of
//! answers against it.

use std::collections::BTreeMap;

use engine::types::{BranchId, Key, KeySpace, Lsn, PAGE_BYTES, Partition};

use super::rng::Rng;
use super::trace::{FNV_START, fnv1a};

/// The keys of a simulation: a group (which is a stripe) and a number in it, big-endian, so that neighbours in a
/// group are neighbours in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimKeySpace;

/// The key number `number` of `group`.
pub fn key(group: u32, number: u32) -> Key {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&group.to_be_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Key::from_slice(&bytes).expect("eight bytes fit")
}

impl KeySpace for SimKeySpace {
    fn partition(&self, key: &Key) -> Partition {
        let hash = fnv1a(FNV_START, &key.0[..4]);
        Partition::of_hash(u32::try_from(hash >> 40).expect("24 bits are left"))
    }

    fn stripe(&self, key: &Key) -> u64 {
        u64::from(u32::from_be_bytes([key.0[0], key.0[1], key.0[2], key.0[3]]))
    }
}

/// A value, by what makes it: its bytes follow from branch, key, LSN and shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    seed: u64,
    len_bytes: usize,
    /// Repeats every so many bytes: compressible if that is few.
    period_bytes: usize,
}

impl Version {
    /// A value of random shape: mostly pages, some of them compressible, some small values, a few empty ones.
    pub fn draw(rng: &mut Rng) -> Version {
        let len_bytes = match rng.below(10) {
            0 => 0,
            1..=3 => 1 + rng.index(300),
            4 => 1 + rng.index(PAGE_BYTES),
            _ => PAGE_BYTES,
        };
        let period_bytes = if rng.chance(500) { PAGE_BYTES } else { 16 };
        Version {
            seed: rng.number(),
            len_bytes,
            period_bytes,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut state = self.seed | 1;
        let mut bytes = Vec::with_capacity(self.len_bytes);
        for at in 0..self.len_bytes {
            if at < self.period_bytes {
                // xorshift64: fast, and its low byte is random enough to tell pages apart.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push(u8::try_from(state >> 56).expect("eight bits are left"));
            } else {
                bytes.push(bytes[at - self.period_bytes]);
            }
        }
        bytes
    }
}

/// What became of a branch that was to be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Being written, or given up before its commit began: must never be visible.
    Unfinished,
    /// Its commit was begun and its end not heard: visible or not, as a whole.
    Doubtful,
    /// Visible, for ever.
    Committed,
}

/// What one branch must answer.
#[derive(Clone, Debug)]
pub struct ModelBranch {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: BranchId,
    /// What became of it.
    pub fate: Fate,
    /// The first LSN that it can show.
    pub readable_from: Lsn,
    /// The last one there is.
    pub last_lsn: Lsn,
    /// Every version of every key.
    pub versions: BTreeMap<Key, BTreeMap<Lsn, Version>>,
}

impl ModelBranch {
    /// All versions in the order in which an import sends them: no particular one, but always the same.
    pub fn in_order_of_arrival(&self) -> Vec<(Key, Lsn, Version)> {
        let all = self.versions.iter().flat_map(|(key, versions)| {
            versions.iter().map(|(lsn, version)| (*key, *lsn, *version))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, _, version)| version.seed);
        all
    }

    /// The newest version of `key` at or below `at`.
    pub fn newest(&self, key: &Key, at: Lsn) -> Option<&Version> {
        self.versions
            .get(key)?
            .range(..=at)
            .next_back()
            .map(|(_, version)| version)
    }
}
