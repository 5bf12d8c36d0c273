//! The reference: a plain map from key to its versions, for every branch that was ever begun.

use std::collections::BTreeMap;
use std::ops::Range;

use engine::types::{BranchId, Id, Key, KeySpace, Lsn, PAGE_BYTES, Partition};

use crate::redo::{DeltaFlag, apply_to, delta};
use crate::rng::Rng;
use crate::trace::{FNV_START, fnv1a};

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

/// A value or a change of one, by what makes it: its bytes follow from branch, key, LSN and shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    seed: u64,
    len_bytes: usize,
    /// Repeats every so many bytes: compressible if that is few.
    period_bytes: usize,
    kind: Kind,
}

/// What a version is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A whole value.
    Image,
    /// A change of the one before.
    Delta,
    /// A change that needs none before it.
    BeginningDelta,
}

impl Version {
    /// A value of random shape: mostly pages, some of them compressible, some small values, a few empty ones; and changes of
    /// the same shapes.
    pub fn draw(rng: &mut Rng) -> Version {
        let len_bytes = match rng.below(10) {
            0 => 0,
            1..=3 => 1 + rng.index(300),
            4 => 1 + rng.index(PAGE_BYTES),
            _ => PAGE_BYTES,
        };
        let period_bytes = if rng.chance(500) { PAGE_BYTES } else { 16 };
        let kind = match rng.below(10) {
            0 => Kind::BeginningDelta,
            1..=5 => Kind::Delta,
            _ => Kind::Image,
        };
        Version {
            seed: rng.number(),
            len_bytes,
            period_bytes,
            kind,
        }
    }

    /// Image or delta.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is stored.
    pub fn stored(&self) -> Vec<u8> {
        let mut pattern = self.bytes();
        let flag = match self.kind {
            Kind::Image => return pattern,
            Kind::Delta => DeltaFlag::Changes,
            Kind::BeginningDelta => DeltaFlag::Begins,
        };
        // A flag and a pattern that is not empty are at most a page.
        pattern.truncate(PAGE_BYTES - 1);
        if pattern.is_empty() {
            pattern.push(1);
        }
        delta(flag, &pattern)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut state = self.seed | 1;
        let mut bytes = Vec::with_capacity(self.len_bytes + 8);
        let period_bytes = self.period_bytes.min(self.len_bytes);
        while bytes.len() < period_bytes {
            // xorshift64: fast, and random enough to tell pages apart.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(period_bytes);
        while bytes.len() < self.len_bytes {
            // What is there is whole periods.
            let more = bytes.len().min(self.len_bytes - bytes.len());
            bytes.extend_from_within(..more);
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
    /// The branch it left, and where.
    pub parent: Option<(BranchId, Lsn)>,
    /// The first LSN that it can show.
    pub readable_from: Lsn,
    /// The last one there is.
    pub last_lsn: Lsn,
    /// Whether somebody has written to it since it became visible: its manifest without its last entry is an older
    /// state, and nobody can tell.
    pub is_written: bool,
    /// Every version of every key, with those that it has from its parent: they are the ones at and below where it
    /// left it.
    pub versions: BTreeMap<Key, BTreeMap<Lsn, Version>>,
}

impl ModelBranch {
    /// A branch of random content.
    pub fn draw(rng: &mut Rng, name: String) -> ModelBranch {
        let base = 0x100_0000 + rng.below(1 << 30);
        let span = 1 + rng.below(10_000);
        let mut branch = ModelBranch {
            name,
            id: UNKNOWN_ID,
            fate: Fate::Unfinished,
            parent: None,
            readable_from: Lsn(base + rng.below(span)),
            last_lsn: Lsn(base + span),
            is_written: false,
            versions: draw_versions(rng, base..base + span),
        };
        branch.begin_with_images();
        branch
    }

    /// A branch that leaves this one somewhere: with versions of its own, or a plain one.
    pub fn draw_child(&self, rng: &mut Rng, name: String) -> ModelBranch {
        let left_at = rng.between(self.readable_from.0, self.last_lsn.0);
        let span = 1 + rng.below(10_000);
        let mut versions = self.versions.clone();
        for of_key in versions.values_mut() {
            of_key.retain(|lsn, _| lsn.0 <= left_at);
        }
        let mut last_lsn = left_at;
        if rng.chance(800) {
            last_lsn = left_at + span;
            for (key, own) in draw_versions(rng, left_at + 1..last_lsn + 1) {
                versions.entry(key).or_default().extend(own);
            }
        }
        versions.retain(|_, of_key| !of_key.is_empty());
        let readable_from = if rng.chance(500) {
            self.readable_from.0
        } else {
            rng.between(self.readable_from.0, last_lsn)
        };
        let mut branch = ModelBranch {
            name,
            id: UNKNOWN_ID,
            fate: Fate::Unfinished,
            parent: Some((self.id, Lsn(left_at))),
            readable_from: Lsn(readable_from),
            last_lsn: Lsn(last_lsn),
            is_written: false,
            versions,
        };
        branch.begin_with_images();
        branch
    }

    /// A branch that leaves this one somewhere and is all this one's, up to where it left it.
    pub fn draw_plain_child(&self, rng: &mut Rng, name: String) -> ModelBranch {
        let left_at = Lsn(rng.between(self.readable_from.0, self.last_lsn.0));
        let mut versions = self.versions.clone();
        for of_key in versions.values_mut() {
            of_key.retain(|lsn, _| *lsn <= left_at);
        }
        versions.retain(|_, of_key| !of_key.is_empty());
        ModelBranch {
            name,
            id: UNKNOWN_ID,
            fate: Fate::Unfinished,
            parent: Some((self.id, left_at)),
            readable_from: self.readable_from,
            last_lsn: left_at,
            is_written: false,
            versions,
        }
    }

    /// Its own versions in the order in which an import sends them: no particular one, but always the same.
    pub fn in_order_of_arrival(&self) -> Vec<(Key, Lsn, Version)> {
        let left_at = self.parent.map_or(Lsn(0), |(_, left_at)| left_at);
        let all = self.versions.iter().flat_map(|(key, versions)| {
            versions.iter().map(|(lsn, version)| (*key, *lsn, *version))
        });
        let mut all: Vec<_> = all.filter(|(_, lsn, _)| *lsn > left_at).collect();
        all.sort_by_key(|(_, _, version)| version.seed);
        all
    }

    /// The value of `key` at `at`: made of all versions up to it.
    pub fn value(&self, key: &Key, at: Lsn) -> Option<Vec<u8>> {
        let mut value = None;
        for (_, version) in self.versions.get(key)?.range(..=at) {
            let stored = version.stored();
            match version.kind {
                Kind::Image => value = Some(stored),
                Kind::Delta | Kind::BeginningDelta => {
                    apply_to(value.get_or_insert_default(), &stored);
                }
            }
        }
        value
    }

    /// Makes an image of each key's first version: a change of nothing is nothing that a writer would write.
    fn begin_with_images(&mut self) {
        for versions in self.versions.values_mut() {
            if let Some(mut first) = versions.first_entry() {
                first.get_mut().kind = Kind::Image;
            }
        }
    }
}

/// Versions of some keys in some groups, with LSNs in this range.
fn draw_versions(rng: &mut Rng, lsns: Range<u64>) -> BTreeMap<Key, BTreeMap<Lsn, Version>> {
    let mut versions: BTreeMap<Key, BTreeMap<Lsn, Version>> = BTreeMap::new();
    let groups = rng.between(1, GROUPS_MAX);
    for group in 0..groups {
        let group = u32::try_from(group).expect("few");
        let keys = rng.between(1, 60);
        let gaps = rng.chance(300);
        let mut number = 0;
        for _ in 0..keys {
            number += if gaps {
                u32::try_from(rng.between(1, 5)).expect("few")
            } else {
                1
            };
            let several = rng.chance(200);
            for _ in 0..(if several { rng.between(2, 5) } else { 1 }) {
                let lsn = Lsn(lsns.start + rng.below(lsns.end - lsns.start));
                let of_key = versions.entry(key(group, number)).or_default();
                of_key.insert(lsn, Version::draw(rng));
            }
        }
    }
    versions
}

/// Of a branch that nobody has told the id of.
pub const UNKNOWN_ID: BranchId = BranchId(Id([0; 16]));

/// Groups are numbered below this.
pub const GROUPS_MAX: u64 = 4;
