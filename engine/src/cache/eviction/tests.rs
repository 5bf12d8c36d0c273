//! Hit ratios against a plain simulation of the published algorithm, and against LRU; and the queues under random use.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;
use crate::cache::extent_id::stable_hash;

const UNIVERSE: u32 = 20_000;
const SLOTS: u32 = 1_000;

/// Requests of a zipf load, with one scan over everything after each quarter.
fn zipf_with_scans(alpha: f64, requests: usize) -> Vec<u32> {
    let weights = (1..=UNIVERSE).map(|rank| f64::from(rank).powf(-alpha));
    let cumulative: Vec<f64> = weights
        .scan(0.0, |sum, w| {
            *sum += w;
            Some(*sum)
        })
        .collect();
    let total = cumulative[cumulative.len() - 1];
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut trace = Vec::new();
    for request in 0..requests {
        let at = f64::from(random.next_u32()) / f64::from(u32::MAX) * total;
        let rank = cumulative.partition_point(|&c| c < at);
        let rank = u32::try_from(rank).expect("small").min(UNIVERSE - 1);
        // Neighbouring ranks are not neighbours in a scan.
        trace.push(rank.wrapping_mul(7_919) % UNIVERSE);
        if request % (requests / 4) == requests / 4 - 1 {
            trace.extend(0..UNIVERSE);
        }
    }
    trace
}

fn ours(trace: &[u32]) -> f64 {
    let mut fifo = S3Fifo::default();
    fifo.grow(SLOTS);
    let mut holds = vec![0; SLOTS as usize];
    let mut slot_of = HashMap::new();
    let mut unused: Vec<u32> = (0..SLOTS).collect();
    let mut hits = 0;
    for &page in trace {
        if let Some(&slot) = slot_of.get(&page) {
            hits += 1;
            fifo.touch(slot);
            continue;
        }
        let slot = unused.pop().unwrap_or_else(|| {
            let hash = |s: u32| stable_hash(&holds[s as usize]);
            let slot = fifo.evict(|_| false, hash).expect("nothing is held");
            slot_of.remove(&holds[slot as usize]);
            slot
        });
        holds[slot as usize] = page;
        slot_of.insert(page, slot);
        fifo.insert(slot, stable_hash(&page));
    }
    assert_eq!(fifo.check_invariants(), SLOTS as usize);
    f64::from(hits) / trace.len() as f64
}

/// S3-FIFO as published: algorithm 1 of the paper, with queues of page numbers.
#[derive(Default)]
struct Published {
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghost: VecDeque<u32>,
    ghosts: HashSet<u32>,
    frequency: HashMap<u32, u8>,
}

impl Published {
    const SMALL: usize = SLOTS as usize / 10;
    const MAIN: usize = SLOTS as usize - Self::SMALL;

    fn request(&mut self, page: u32) -> bool {
        if let Some(frequency) = self.frequency.get_mut(&page) {
            *frequency = (*frequency + 1).min(3);
            return true;
        }
        while self.small.len() + self.main.len() >= SLOTS as usize {
            if self.small.len() >= Self::SMALL {
                self.evict_small();
            } else {
                self.evict_main();
            }
        }
        if self.ghosts.remove(&page) {
            self.ghost.retain(|&g| g != page);
            self.main.push_front(page);
        } else {
            self.small.push_front(page);
        }
        self.frequency.insert(page, 0);
        false
    }

    fn evict_small(&mut self) {
        while let Some(page) = self.small.pop_back() {
            if self.frequency[&page] > 1 {
                self.frequency.insert(page, 0);
                self.main.push_front(page);
                if self.main.len() > Self::MAIN {
                    return self.evict_main();
                }
            } else {
                self.frequency.remove(&page);
                self.ghost.push_front(page);
                self.ghosts.insert(page);
                if self.ghost.len() > Self::MAIN {
                    let oldest = self.ghost.pop_back().expect("not empty");
                    self.ghosts.remove(&oldest);
                }
                return;
            }
        }
    }

    fn evict_main(&mut self) {
        while let Some(page) = self.main.pop_back() {
            let frequency = self.frequency.get_mut(&page).expect("queued");
            if *frequency == 0 {
                self.frequency.remove(&page);
                return;
            }
            *frequency -= 1;
            self.main.push_front(page);
        }
    }
}

fn published(trace: &[u32]) -> f64 {
    let mut cache = Published::default();
    let hits = trace.iter().filter(|&&page| cache.request(page)).count();
    hits as f64 / trace.len() as f64
}

fn lru(trace: &[u32]) -> f64 {
    let mut used_at = HashMap::new();
    let mut by_use = BTreeMap::new();
    let mut hits = 0;
    for (now, &page) in trace.iter().enumerate() {
        match used_at.insert(page, now) {
            Some(before) => {
                hits += 1;
                by_use.remove(&before);
            }
            None if by_use.len() == SLOTS as usize => {
                let (_, oldest) = by_use.pop_first().expect("not empty");
                used_at.remove(&oldest);
            }
            None => {}
        }
        by_use.insert(now, page);
    }
    f64::from(hits) / trace.len() as f64
}

#[test]
fn hits_are_those_of_the_published_algorithm_and_clearly_above_lru() {
    for alpha in [0.99, 0.8] {
        let trace = zipf_with_scans(alpha, 200_000);
        let (ours, published, lru) = (ours(&trace), published(&trace), lru(&trace));
        println!("zipf {alpha}: ours {ours:.4}, published {published:.4}, LRU {lru:.4}");
        assert!(
            (ours - published).abs() < 0.02,
            "{ours} against {published}"
        );
        assert!(ours > lru + 0.04, "{ours} against LRU {lru}");
    }
}

#[test]
fn a_scan_does_not_flush_what_is_used() {
    let mut fifo = S3Fifo::default();
    fifo.grow(100);
    for slot in 0..100 {
        fifo.insert(slot, slot.into());
    }
    // The first sixty are in use; they move to the main queue as the small one is worked off.
    for slot in 0..60 {
        fifo.touch(slot);
        fifo.touch(slot);
    }
    for scanned in 1_000..11_000u64 {
        let slot = fifo.evict(|_| false, u64::from).expect("nothing is held");
        assert!(slot >= 60, "the scan pushed slot {slot} out");
        fifo.insert(slot, scanned);
    }
    assert_eq!(fifo.check_invariants(), 100);
}

#[test]
fn slots_that_are_held_are_passed_over_and_the_search_ends() {
    let mut fifo = S3Fifo::default();
    fifo.grow(1_000);
    assert_eq!(fifo.evict(|_| false, u64::from), None, "nothing is queued");
    for slot in 0..1_000 {
        fifo.insert(slot, slot.into());
    }
    assert_eq!(fifo.evict(|slot| slot < 10, u64::from), Some(10));
    assert_eq!(fifo.evict(|_| true, u64::from), None);
    assert_eq!(fifo.check_invariants(), 999);
    fifo.remove(500);
    assert_eq!(fifo.check_invariants(), 998);
}

#[test]
fn an_extent_that_comes_back_soon_goes_to_the_main_queue() {
    let mut fifo = S3Fifo::default();
    fifo.grow(10);
    for slot in 0..10 {
        fifo.insert(slot, slot.into());
    }
    assert_eq!(fifo.evict(|_| false, u64::from), Some(0));
    fifo.insert(0, 0);
    assert_eq!(fifo.standing(0), (true, false));
    assert_eq!(fifo.evict(|_| false, u64::from), Some(1));
    fifo.insert(1, 99);
    assert_eq!(fifo.standing(1), (false, false));
}
