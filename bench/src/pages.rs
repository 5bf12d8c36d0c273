//! Generated pages, and how a page that came back is judged.
//!
//! A generated page begins and ends with a stamp of what it is, so that a swapped or cut page is noticed at the cost of
//! two comparisons. Between the stamps are random bytes (nothing to compress), or a run of small numbers that lz4
//! halves several times.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::access::mix;
use crate::error::{BenchError, Result};
use crate::pagestream::codec::{PAGE_BYTES, RelationPage};

const STAMP_BYTES: usize = 16;

/// What is between the stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Content {
    /// Random bytes.
    Incompressible,
    /// Like rows of a table: a few bytes in each thirty-two differ.
    Compressible,
}

/// Fills a page that says which one it is.
pub(crate) fn fill(page: &mut [u8; PAGE_BYTES], which: RelationPage, content: Content) {
    match content {
        Content::Incompressible => {
            let seed = mix(u64::from(which.relation) << 32 | u64::from(which.block));
            ChaCha8Rng::seed_from_u64(seed).fill_bytes(page);
        }
        Content::Compressible => {
            page.fill(0);
            for (row, bytes) in (0u32..).zip(page.chunks_exact_mut(32)) {
                bytes[..4].copy_from_slice(&(which.block.wrapping_mul(256) + row).to_le_bytes());
                bytes[8..16].copy_from_slice(b"generate");
            }
        }
    }
    let stamp = stamp(which);
    page[..STAMP_BYTES].copy_from_slice(&stamp);
    page[PAGE_BYTES - STAMP_BYTES..].copy_from_slice(&stamp);
}

fn stamp(which: RelationPage) -> [u8; STAMP_BYTES] {
    let place = u64::from(which.relation) << 32 | u64::from(which.block);
    let space = u64::from(which.tablespace) << 32 | u64::from(which.database);
    let mut bytes = [0; STAMP_BYTES];
    bytes[..8].copy_from_slice(&place.to_le_bytes());
    bytes[8..].copy_from_slice(&mix(place ^ mix(space ^ u64::from(which.fork))).to_le_bytes());
    bytes
}

/// How a page that came back is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Check {
    /// Its length only.
    None,
    /// It is the generated page that was asked for.
    Stamp,
    /// It looks like a page of Postgres: zeros, or a header whose pointers are in order.
    Postgres,
}

impl Check {
    /// # Errors
    /// The page is not what it should be.
    pub(crate) fn check(self, which: RelationPage, page: &[u8]) -> Result<()> {
        let right = match self {
            Check::None => true,
            Check::Stamp => {
                let stamp = stamp(which);
                page.starts_with(&stamp) && page.ends_with(&stamp)
            }
            Check::Postgres => looks_like_postgres(page),
        };
        if right {
            Ok(())
        } else {
            Err(BenchError::Protocol(format!("a wrong page for {which:?}")))
        }
    }
}

/// pd_lower, pd_upper, pd_special and pd_pagesize_version, or a page that was never written.
fn looks_like_postgres(page: &[u8]) -> bool {
    let number = |at: usize| {
        page.get(at..at + 2)
            .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    };
    let (lower, upper, special, size) = (number(12), number(14), number(16), number(18));
    let zeros = page.iter().all(|&b| b == 0);
    zeros
        || (size & 0xff00 == 8192
            && 24 <= lower
            && lower <= upper
            && upper <= special
            && special <= 8192)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RelationPage = RelationPage {
        tablespace: 1663,
        database: 5,
        relation: 7,
        fork: 0,
        block: 1,
    };

    #[test]
    fn a_page_of_another_place_or_cut_short_is_noticed() {
        for content in [Content::Incompressible, Content::Compressible] {
            let mut page = [0; PAGE_BYTES];
            fill(&mut page, A, content);
            Check::Stamp.check(A, &page).expect("its own page");
            let others = [
                RelationPage { block: 2, ..A },
                RelationPage { relation: 8, ..A },
                RelationPage { fork: 1, ..A },
                RelationPage { database: 6, ..A },
            ];
            others
                .iter()
                .for_each(|&b| assert!(Check::Stamp.check(b, &page).is_err(), "{b:?}"));
            page[4096..].fill(0);
            assert!(Check::Stamp.check(A, &page).is_err());
        }
    }

    #[test]
    fn incompressible_pages_do_not_repeat_themselves() {
        let mut counts = [0u32; 256];
        let mut page = [0; PAGE_BYTES];
        for block in 0..64 {
            fill(
                &mut page,
                RelationPage { block, ..A },
                Content::Incompressible,
            );
            let inner = &page[STAMP_BYTES..PAGE_BYTES - STAMP_BYTES];
            inner.iter().for_each(|&b| counts[usize::from(b)] += 1);
        }
        // 2,040 each, sigma 45.
        assert!(
            counts.iter().all(|&c| (1750..2330).contains(&c)),
            "{counts:?}"
        );
    }

    #[test]
    fn headers_of_postgres_pages_are_known() {
        let mut page = [0; PAGE_BYTES];
        Check::Postgres.check(A, &page).expect("a page of zeros");
        for (at, value) in [(12, 28u16), (14, 8000), (16, 8192), (18, 8196)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        Check::Postgres.check(A, &page).expect("a heap page");
        page[12..14].copy_from_slice(&9000u16.to_le_bytes());
        assert!(Check::Postgres.check(A, &page).is_err());
    }
}
