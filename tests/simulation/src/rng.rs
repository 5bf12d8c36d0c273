//! Randomness of a simulation: one seed, split by name into independent streams, so that a change in what the
//! workload draws does not move the faults of the disk.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// Out of a thousand.
pub type PerMille = u16;

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream called `name` of `seed`. Streams of different names are independent.
    pub fn split(seed: u64, name: &str) -> Rng {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(crate::trace::fnv1a(
            crate::trace::FNV_START,
            name.as_bytes(),
        ));
        Rng(generator)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`, which must be positive. Its bias (below 2^-32 for every use here) does not matter.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below zero");
        self.0.next_u64() % end
    }

    /// A number in `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// An index below `len`, which must be positive.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("it is below a usize")
    }

    /// True `chance` times out of a thousand.
    pub fn chance(&mut self, chance: PerMille) -> bool {
        // Also drawn where the answer is known, so that switching a fault off does not shift the rest.
        self.below(1000) < u64::from(chance)
    }

    /// The generator itself, for code that takes any.
    pub fn into_core(self) -> impl RngCore + 'static {
        self.0
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_name_and_seed() {
        let draw = |seed, name| {
            let mut rng = Rng::split(seed, name);
            [rng.number(), rng.number(), rng.number()]
        };
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "store"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
    }

    #[test]
    fn a_chance_is_kept() {
        let mut rng = Rng::split(7, "chance");
        let hits = (0..10_000).filter(|_| rng.chance(100)).count();
        assert!(
            (800..1200).contains(&hits),
            "{hits} of 10,000 at 100 per mille"
        );
        assert!(!(0..1000).any(|_| rng.chance(0)));
        assert!((0..1000).all(|_| rng.chance(1000)));
    }
}
