//! Opened pages in memory: optional, small, owned by one core.
//!
//! An entry is a version of a page and the LSNs at which it is the page's current version, so that a reader needs no
//! index to find it. Several versions of one page may be here. The shard says up to which LSN a version is known to be
//! current; asking above that is a miss, and putting the version again moves the limit.
//!
//! All memory is taken at the start: frames of 8 KiB, their labels, and a hash table. Eviction is CLOCK: a hit sets a bit, the
//! hand clears bits until it finds one that is clear. The tier holds plaintext, so it overwrites its frames with zeros when
//! it is cleared or dropped, and shows nothing of them in `Debug`.

use std::fmt;

use hashbrown::HashTable;
use zeroize::Zeroize;

use crate::io::aligned_buffer::AlignedBuffer;
use crate::types::{Key, Lsn, PAGE_BYTES};

use super::extent_id::stable_hash;

/// A version of a page and where in the branch's history it is current.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageVersion {
    /// The process's own number of the branch.
    pub branch: u32,
    /// The page.
    pub key: Key,
    /// The LSN of the version.
    pub first: Lsn,
    /// The highest LSN at which it is known to be current; not below `first`.
    pub last: Lsn,
}

/// A bounded set of opened pages.
pub struct RamTier {
    /// Frames of `PAGE_BYTES`; `None` if the tier is off.
    frames: Option<AlignedBuffer>,
    labels: Vec<Label>,
    by_page: HashTable<u32>,
    hand: usize,
    hits: u64,
    misses: u64,
}

struct Label {
    version: PageVersion,
    page_bytes: usize,
    hit: bool,
}

/// Bytes that one page takes: its frame, its label, and its part of the table at its emptiest.
const FRAME_MEMORY_BYTES: usize = PAGE_BYTES + size_of::<Label>() + 5 * 32 / 7 + 1;

impl RamTier {
    /// A tier that takes at most `bytes` of memory. Less than one page's worth turns it off.
    pub fn new(bytes: usize) -> RamTier {
        let frames = bytes / FRAME_MEMORY_BYTES;
        RamTier {
            frames: (frames > 0).then(|| AlignedBuffer::zeroed(frames * PAGE_BYTES)),
            labels: Vec::with_capacity(frames),
            // Twice the size, so that what deletions leave behind is cleared without growing.
            by_page: HashTable::with_capacity(2 * frames),
            hand: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// Whether it keeps anything at all.
    pub fn is_on(&self) -> bool {
        self.frames.is_some()
    }

    /// Copies the version of `key` that is current at `lsn` to the start of `out`, which must have room for it
    /// (`PAGE_BYTES` always suffices), and returns its length. No allocation.
    pub fn get(&mut self, branch: u32, key: &Key, lsn: Lsn, out: &mut [u8]) -> Option<usize> {
        let frames = self.frames.as_ref()?;
        let labels = &self.labels;
        let found = self.by_page.find(page_hash(branch, key), |&at| {
            let version = &labels[at as usize].version;
            version.branch == branch
                && version.key == *key
                && (version.first..=version.last).contains(&lsn)
        });
        let Some(&at) = found else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        let label = &mut self.labels[at as usize];
        label.hit = true;
        let start = at as usize * PAGE_BYTES;
        out[..label.page_bytes].copy_from_slice(&frames[start..start + label.page_bytes]);
        Some(label.page_bytes)
    }

    /// Keeps a copy of a page of at most `PAGE_BYTES`. The same version, put before, is replaced. No allocation.
    pub fn put(&mut self, version: PageVersion, page: &[u8]) {
        assert!(version.first <= version.last, "a version is current once");
        assert!(page.len() <= PAGE_BYTES, "a page fits its frame");
        if self.frames.is_none() {
            return;
        }
        let same = |known: &PageVersion| {
            (known.branch, known.key, known.first) == (version.branch, version.key, version.first)
        };
        let hash = page_hash(version.branch, &version.key);
        let labels = &self.labels;
        let known = self
            .by_page
            .find(hash, |&at| same(&labels[at as usize].version));
        let (at, hit) = match known {
            Some(&at) => (at as usize, true),
            None => {
                let at = self.free_frame();
                let position = u32::try_from(at).expect("a tier has fewer than 2^32 frames");
                let labels = &self.labels;
                self.by_page.insert_unique(hash, position, |&at| {
                    let version = &labels[at as usize].version;
                    page_hash(version.branch, &version.key)
                });
                (at, false)
            }
        };
        let label = Label {
            version,
            page_bytes: page.len(),
            hit,
        };
        if at == self.labels.len() {
            self.labels.push(label);
        } else {
            self.labels[at] = label;
        }
        let frames = self.frames.as_mut().expect("the tier is on");
        let (kept, rest) = frames[at * PAGE_BYTES..(at + 1) * PAGE_BYTES].split_at_mut(page.len());
        kept.copy_from_slice(page);
        rest.fill(0);
    }

    /// Forgets all versions of all pages, and overwrites them.
    pub fn clear(&mut self) {
        if let Some(frames) = &mut self.frames {
            frames.zeroize();
        }
        self.labels.clear();
        self.by_page.clear();
        self.hand = 0;
    }

    /// Pages it can hold.
    pub fn capacity_pages(&self) -> usize {
        self.frames.as_ref().map_or(0, |f| f.len() / PAGE_BYTES)
    }

    /// Lookups that found their page, and those that did not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// A frame nobody uses: a new one, or the one that the hand finds. Ends after two rounds at most.
    fn free_frame(&mut self) -> usize {
        if self.labels.len() < self.capacity_pages() {
            return self.labels.len();
        }
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.labels.len();
            if std::mem::replace(&mut self.labels[at].hit, false) {
                continue;
            }
            let version = &self.labels[at].version;
            let hash = page_hash(version.branch, &version.key);
            match self.by_page.find_entry(hash, |&p| p as usize == at) {
                Ok(entry) => drop(entry.remove()),
                Err(_) => unreachable!("a labelled frame can be found"),
            }
            return at;
        }
    }
}

impl Drop for RamTier {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for RamTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RamTier({} pages)", self.labels.len())
    }
}

fn page_hash(branch: u32, key: &Key) -> u64 {
    stable_hash(&(branch, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        Key::from_slice(&number.to_be_bytes()).expect("eight bytes are a key")
    }

    fn version(number: u64, first: u64, last: u64) -> PageVersion {
        PageVersion {
            branch: 1,
            key: key(number),
            first: Lsn(first),
            last: Lsn(last),
        }
    }

    fn tier(pages: usize) -> RamTier {
        RamTier::new(pages * FRAME_MEMORY_BYTES)
    }

    #[test]
    fn a_version_is_found_where_it_is_current_and_nowhere_else() {
        let mut tier = tier(4);
        let mut out = [0; PAGE_BYTES];
        tier.put(version(7, 10, 19), &[1; PAGE_BYTES]);
        tier.put(version(7, 20, 25), &[2; 100]);
        for (branch, number, lsn, found) in [
            (1, 7, 9, None),
            (1, 7, 10, Some((PAGE_BYTES, 1))),
            (1, 7, 19, Some((PAGE_BYTES, 1))),
            (1, 7, 20, Some((100, 2))),
            (1, 7, 26, None),
            (2, 7, 10, None),
            (1, 8, 10, None),
        ] {
            let got = tier.get(branch, &key(number), Lsn(lsn), &mut out);
            assert_eq!(got.map(|len| (len, out[len - 1])), found, "at {lsn}");
        }
        tier.put(version(7, 20, 30), &[3; 100]);
        assert_eq!(tier.get(1, &key(7), Lsn(26), &mut out), Some(100));
        assert_eq!(out[0], 3, "the limit moved, and the bytes are the new ones");
        assert_eq!(tier.hits_and_misses(), (4, 4));
    }

    #[test]
    fn pages_in_use_survive_those_that_are_not_and_memory_stays_bounded() {
        let mut tier = tier(100);
        assert_eq!(tier.capacity_pages(), 100);
        let table_bytes = tier.by_page.allocation_size();
        let mut out = [0; PAGE_BYTES];
        for number in 0..10_000 {
            let byte = u8::try_from(number % 251).expect("below 251");
            tier.put(version(number, 1, 1), &[byte; PAGE_BYTES]);
            for hot in 0..10.min(number) {
                let len = tier.get(1, &key(hot), Lsn(1), &mut out);
                assert_eq!((len, u64::from(out[17])), (Some(PAGE_BYTES), hot));
            }
        }
        assert_eq!((tier.labels.len(), tier.by_page.len()), (100, 100));
        assert_eq!(tier.by_page.allocation_size(), table_bytes);
        let table_per_page = table_bytes / 100;
        assert!(PAGE_BYTES + size_of::<Label>() + table_per_page <= FRAME_MEMORY_BYTES);
    }

    #[test]
    fn a_cleared_tier_holds_no_byte_of_a_page() {
        let mut tier = tier(8);
        for number in 0..20 {
            tier.put(version(number, 1, 1), &[0xab; PAGE_BYTES]);
        }
        tier.clear();
        let frames = tier.frames.as_ref().expect("it is on");
        assert!(frames.iter().all(|&b| b == 0));
        assert_eq!(tier.get(1, &key(19), Lsn(1), &mut [0; PAGE_BYTES]), None);
        tier.put(version(1, 1, 1), &[1; 10]);
        assert_eq!(tier.get(1, &key(1), Lsn(1), &mut [0; PAGE_BYTES]), Some(10));
    }

    #[test]
    fn a_tier_without_memory_is_off() {
        let mut tier = RamTier::new(PAGE_BYTES);
        assert!(!tier.is_on());
        tier.put(version(1, 1, 1), &[1; 10]);
        assert_eq!(tier.get(1, &key(1), Lsn(1), &mut [0; PAGE_BYTES]), None);
    }
}
