//! Randomness as a value: the operating system's in production, a seed's in the simulator and in tests that
//! compare bytes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

/// Where keys, salts and ids come from. Cheap to clone; clones of a seeded one share its sequence.
#[derive(Clone)]
pub struct Entropy(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<Mutex<ChaCha20Rng>>),
}

impl Entropy {
    /// The operating system's generator: the only one for data that anybody cares for.
    pub fn system() -> Entropy {
        Entropy(Source::System)
    }

    /// A generator that answers the same for the same seed. For simulations and golden bytes.
    pub fn seeded(seed: u64) -> Entropy {
        Entropy(Source::Seeded(Arc::new(Mutex::new(
            ChaCha20Rng::seed_from_u64(seed),
        ))))
    }

    /// Fresh bytes.
    ///
    /// # Panics
    /// If the operating system has no randomness.
    pub fn draw<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.0 {
            Source::System => getrandom::fill(&mut bytes)
                .expect("the operating system's generator works once booted"),
            Source::Seeded(rng) => rng
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .fill_bytes(&mut bytes),
        }
        bytes
    }

    /// Fresh bytes that are a key: wiped when dropped.
    pub fn draw_secret<const N: usize>(&self) -> Zeroizing<[u8; N]> {
        Zeroizing::new(self.draw())
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Entropy(system)",
            Source::Seeded(_) => "Entropy(seeded)",
        })
    }
}
