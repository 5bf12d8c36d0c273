//! A redo for tests and the simulator: simple, and such that a delta left out, applied twice or in another order shows in
//! every byte.
//!
//! A delta is a flag (0 changes the value, 1 begins it, 2 can't be applied) and a pattern. The value becomes as long as the pattern
//! if it was shorter; each of its bytes becomes five times itself plus the pattern's, which repeats.

use engine::redo::{Redo, RedoFailed};
use engine::types::{Key, Lsn, PAGE_BYTES};

/// How it is named in the engine's parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct PatternRedo;

/// What a delta's first byte says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeltaFlag {
    /// The value before is needed.
    Changes,
    /// It is not.
    Begins,
    /// An error.
    Fails,
}

/// The bytes of a delta.
pub fn delta(flag: DeltaFlag, pattern: &[u8]) -> Vec<u8> {
    let flag = match flag {
        DeltaFlag::Changes => 0,
        DeltaFlag::Begins => BEGINS,
        DeltaFlag::Fails => FAILS,
    };
    [&[flag], pattern].concat()
}

/// What a delta makes of a value.
///
/// # Panics
/// If it is one that fails, or the value would be longer than a page.
pub fn apply_to(value: &mut Vec<u8>, delta: &[u8]) {
    let mut page = [0; PAGE_BYTES];
    page[..value.len()].copy_from_slice(value);
    let applied = PatternRedo.apply(&Key([0; 24]), Lsn(1), delta, &mut page, value.len());
    let len = applied.expect("one that can be applied");
    *value = page[..len].to_vec();
}

impl Redo for PatternRedo {
    fn begins(&self, delta: &[u8]) -> bool {
        delta[0] == BEGINS
    }

    fn apply(
        &self,
        _: &Key,
        lsn: Lsn,
        delta: &[u8],
        page: &mut [u8; PAGE_BYTES],
        len: usize,
    ) -> Result<usize, RedoFailed> {
        let (flag, pattern) = delta.split_first().expect("a delta has a flag");
        if *flag == FAILS {
            return Err(RedoFailed(format!("record that ends at {lsn}").into()));
        }
        let (before, len) = if *flag == BEGINS {
            (0, pattern.len())
        } else {
            (len, len.max(pattern.len()))
        };
        page[before..].fill(0);
        for (byte, more) in page[..len].iter_mut().zip(pattern.iter().cycle()) {
            *byte = byte.wrapping_mul(5).wrapping_add(*more);
        }
        Ok(len)
    }
}

const BEGINS: u8 = 1;
const FAILS: u8 = 2;
