//! Which partition and stripe each key belongs to: part of the stored format, the same for ever.
//!
//! | key                                   | stripe                                | hashed for the stripe                             |
//! |---------------------------------------|---------------------------------------|---------------------------------------------------|
//! | block of a relation                   | 1,024 blocks (8 MiB) of a fork        | 0, tablespace, database, relation, fork, block / 1024 |
//! | size of a fork, relation map          | all of one database                   | 1, database                                       |
//! | page of an SLRU                       | 32 segments (1,024 pages)             | 2, SLRU, segment / 32 (low half, high half)       |
//! | all else, and keys of no known layout | all of the cluster                    | 3                                                 |
//!
//! The hash starts at 0 and takes one 32-bit word after the other: `hash = fmix64((hash ^ word) + GOLDEN)`, all
//! wrapping, `fmix64` being MurmurHash3's 64-bit finalizer. The stripe is the hash itself (neighbours of different
//! stripes differ but for a chance of 2^-64).
//!
//! The partition of a block is `combine(murmur32(relation), murmur32(block / 1024))` modulo 1,024: what sharded clients
//! of the pagestream protocol compute of a page to choose among their addresses, at a stripe of 1,024 blocks. So where the
//! number of cores divides 1,024, and a client is given one address per core, its requests for pages arrive at the
//! core that owns them. `murmur32` is MurmurHash3's 32-bit finalizer, `combine(a, b)` is
//! `a ^ (b + 0x9e3779b9 + (a << 6) + (a >> 2))`, all wrapping. Tablespace, database and fork are not part of it: the
//! catalogs of many databases, and the small forks beside a relation, share partitions and so extents.
//!
//! The partition of every other key is the upper half of its stripe's hash modulo 1,024. (Clients ask for all else at
//! their first address; sizes follow their database all the same, or one core would hold those of all databases.)

use engine::types::{Key, KeySpace, Partition};

use crate::key::{PostgresKey, Relation};

/// Names these rules and the layout of the keys, in every branch that is written: one written with others is refused.
/// The first rules dealt blocks to partitions by another hash.
pub const KEY_SPACE_TAG: [u8; 8] = *b"pg-key-2";

/// Blocks of a relation's fork that stay together in one partition.
pub const STRIPE_BLOCKS: u32 = 1024;

const STRIPE_SLRU_SEGMENTS: u64 = 32;

/// Postgres's rules for [`KeySpace`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresKeySpace;

impl KeySpace for PostgresKeySpace {
    fn partition(&self, key: &Key) -> Partition {
        if let Some(PostgresKey::Block {
            relation, block, ..
        }) = PostgresKey::decode(key)
        {
            let stripe = murmur32(block / STRIPE_BLOCKS);
            return Partition::of_hash(combine(murmur32(relation.number), stripe));
        }
        let upper = u32::try_from(self.stripe(key) >> 32).expect("32 bits are left");
        Partition::of_hash(upper)
    }

    fn stripe(&self, key: &Key) -> u64 {
        match PostgresKey::decode(key) {
            Some(PostgresKey::Block {
                relation:
                    Relation {
                        tablespace,
                        database,
                        number,
                    },
                fork,
                block,
            }) => hash_words([
                0,
                tablespace,
                database,
                number,
                u32::from(fork.number()),
                block / STRIPE_BLOCKS,
            ]),
            Some(PostgresKey::RelationSize {
                relation: Relation { database, .. },
                ..
            })
            | Some(PostgresKey::FormerBlocks {
                relation: Relation { database, .. },
                ..
            })
            | Some(PostgresKey::RelationMap { database, .. }) => hash_words([1, database]),
            Some(PostgresKey::SlruPage { slru, segment, .. }) => {
                let stripe = segment / STRIPE_SLRU_SEGMENTS;
                let low = u32::try_from(stripe & 0xffff_ffff).expect("masked to 32 bits");
                let high = u32::try_from(stripe >> 32).expect("32 bits are left");
                hash_words([2, u32::from(slru.number()), low, high])
            }
            _ => hash_words([3]),
        }
    }
}

fn hash_words<const N: usize>(words: [u32; N]) -> u64 {
    words.into_iter().fold(0, |hash: u64, word| {
        let mut mixed = (hash ^ u64::from(word)).wrapping_add(GOLDEN);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    })
}

fn murmur32(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

fn combine(a: u32, b: u32) -> u32 {
    let moved = (a << 6).wrapping_add(a >> 2);
    a ^ b.wrapping_add(0x9e37_79b9).wrapping_add(moved)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::key::{Fork, Slru};

    const CLIENT_HASHES: [(u32, u32, u32); 5] = [
        (0x2122_2324, 0x3132_3334, 0xb345_b882),
        (16384, 0, 0x2607_364c),
        (16384, 1024, 0x9555_de87),
        (1259, 0, 0xbef6_0bf2),
        (0xffff_ffff, 0xffff_ffff, 0x880f_55e9),
    ];

    fn block(number: u32, block: u32) -> Key {
        PostgresKey::Block {
            relation: Relation {
                tablespace: 1663,
                database: 5,
                number,
            },
            fork: Fork::Main,
            block,
        }
        .encode()
    }

    #[test]
    fn neighbouring_blocks_share_a_stripe_exactly_within_1024_blocks() {
        let space = PostgresKeySpace;
        assert_eq!(
            space.stripe(&block(16384, 0)),
            space.stripe(&block(16384, 1023))
        );
        assert_ne!(
            space.stripe(&block(16384, 1023)),
            space.stripe(&block(16384, 1024))
        );
        assert_ne!(
            space.stripe(&block(16384, 0)),
            space.stripe(&block(16385, 0))
        );
        assert_eq!(
            space.partition(&block(16384, 7)),
            space.partition(&block(16384, 1000))
        );
    }

    /// Hashes that a client computes, worked out apart from this code.
    #[test]
    fn a_sharded_client_asks_the_core_that_owns_the_page() {
        for (relation, at, hash) in CLIENT_HASHES {
            let partition = PostgresKeySpace.partition(&block(relation, at)).number();
            for cores in (0..=10).map(|power| 1_u32 << power) {
                assert_eq!(
                    u32::from(partition) % cores,
                    hash % cores,
                    "block {at} of relation {relation}, {cores} addresses"
                );
            }
        }
    }

    #[test]
    fn forks_and_databases_share_partitions_and_no_stripes() {
        let space = PostgresKeySpace;
        let of = |database, fork| {
            let relation = Relation {
                tablespace: 1663,
                database,
                number: 1259,
            };
            let block = 3;
            PostgresKey::Block {
                relation,
                fork,
                block,
            }
            .encode()
        };
        let keys = [
            of(1, Fork::Main),
            of(2, Fork::Main),
            of(1, Fork::FreeSpaceMap),
        ];
        let partitions: HashSet<_> = keys.iter().map(|key| space.partition(key)).collect();
        let stripes: HashSet<_> = keys.iter().map(|key| space.stripe(key)).collect();
        assert_eq!((partitions.len(), stripes.len()), (1, 3));
    }

    #[test]
    fn stripes_of_one_relation_spread_over_the_partitions() {
        let space = PostgresKeySpace;
        let partitions: HashSet<_> = (0..1024)
            .map(|stripe| space.partition(&block(16384, stripe * STRIPE_BLOCKS)))
            .collect();
        // A perfect hash would reach 1024 * (1 - 1/e) = 647 of them.
        assert!(
            (600..700).contains(&partitions.len()),
            "{}",
            partitions.len()
        );
    }

    #[test]
    fn both_ends_of_what_is_scanned_are_in_the_partition_of_what_is_between() {
        let relation = Relation {
            tablespace: 1663,
            database: 5,
            number: 16384,
        };
        let fork = Fork::VisibilityMap;
        let size = PostgresKey::RelationSize { relation, fork };
        let directory = PostgresKey::DatabaseDirectory {
            database: 5,
            tablespace: 1663,
        };
        let (slru, segment) = (Slru::Clog, 9);
        let in_slru = PostgresKey::SlruSegment { slru, segment };
        for ((low, high), between) in [
            (PostgresKey::relation_sizes_of(5), size),
            (PostgresKey::directories_of(5), directory),
            (PostgresKey::all_database_directories(), directory),
            (PostgresKey::segments_of(slru), in_slru),
        ] {
            let space = PostgresKeySpace;
            let between = between.encode();
            assert!((low..=high).contains(&between));
            for end in [low, high] {
                assert_eq!(space.partition(&end), space.partition(&between));
            }
        }
    }

    #[test]
    fn small_keys_of_one_database_are_in_one_partition() {
        let space = PostgresKeySpace;
        let size = |database, number| {
            let relation = Relation {
                tablespace: 1663,
                database,
                number,
            };
            let fork = Fork::Main;
            space.stripe(&PostgresKey::RelationSize { relation, fork }.encode())
        };
        assert_eq!(size(5, 1), size(5, 2));
        assert_ne!(size(5, 1), size(6, 1));
        let cluster = |key: PostgresKey| space.stripe(&key.encode());
        assert_eq!(
            cluster(PostgresKey::ControlFile),
            cluster(PostgresKey::SlruSegment {
                slru: Slru::Clog,
                segment: 9
            })
        );
    }
}
