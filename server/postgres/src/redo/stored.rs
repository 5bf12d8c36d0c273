//! Redo of stored deltas, as the engine asks for it.

use engine::redo::{Redo, RedoFailed};
use engine::types::{Key, Lsn, PAGE_BYTES};

use super::{Delta, DeltaScratch, redo};
use crate::key::PostgresKey;

/// Applies the deltas of Postgres's pages. A page that is stored as empty (it was not there, or nobody logged what is on it) is one of
/// zeros to a delta.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresRedo;

impl Redo for PostgresRedo {
    fn begins(&self, delta: &[u8]) -> bool {
        Delta::stored_begins_page(delta)
    }

    fn apply(
        &self,
        key: &Key,
        lsn: Lsn,
        delta: &[u8],
        page: &mut [u8; PAGE_BYTES],
        len: usize,
    ) -> Result<usize, RedoFailed> {
        if len != 0 && len != PAGE_BYTES {
            return Err(failed(format_args!("a page of {len} bytes below it")));
        }
        let key =
            PostgresKey::decode(key).ok_or_else(|| failed("its key is of no known layout"))?;
        let mut scratch = DeltaScratch::new();
        let delta = Delta::decode(key, lsn, delta, &mut scratch).map_err(failed)?;
        redo(&delta, page).map_err(failed)?;
        Ok(PAGE_BYTES)
    }
}

fn failed(reason: impl std::fmt::Display) -> RedoFailed {
    RedoFailed(reason.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{BlockTag, Fork, Relation, Slru};
    use crate::redo::{Change, Implied, PageChange};
    use crate::wal::{ResourceManager, WalVersion};

    const CLOG: PostgresKey = PostgresKey::SlruPage {
        slru: Slru::Clog,
        segment: 0,
        block: 0,
    };

    fn stored(delta: &Delta<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        delta.encode(&mut bytes);
        bytes
    }

    fn custom(will_init: bool) -> (Key, Vec<u8>) {
        let relation = Relation {
            tablespace: 1663,
            database: 5,
            number: 16384,
        };
        let tag = BlockTag {
            relation,
            fork: Fork::Main,
            block: 7,
        };
        let change = Change {
            version: WalVersion::V15,
            end: Lsn(0x2000),
            xid: 700,
            manager: ResourceManager(200),
            info: 0x30,
            block_id: 0,
            tag,
            others: &[],
            data: &[],
            main: &[],
            hint_bits_logged: false,
            will_init,
        };
        let delta = Delta::Record(PageChange {
            image: None,
            change,
        });
        (tag.key().encode(), stored(&delta))
    }

    #[test]
    fn a_stored_delta_changes_its_page_and_an_empty_page_is_one_of_zeros() {
        let status = Implied::TransactionStatus {
            status: 1,
            positions: &[5, 0],
        };
        let bytes = stored(&Delta::Implied(status));
        let mut page = [0; PAGE_BYTES];
        let key = CLOG.encode();
        let len = PostgresRedo.apply(&key, Lsn(0x1000), &bytes, &mut page, 0);
        assert_eq!((len, page[1]), (Ok(PAGE_BYTES), 1 << 2));
        let short = PostgresRedo.apply(&key, Lsn(0x1000), &bytes, &mut page, 100);
        assert!(short.is_err(), "no page has 100 bytes");
    }

    #[test]
    fn what_cant_be_replayed_names_its_record() {
        let (key, bytes) = custom(true);
        let mut page = [0; PAGE_BYTES];
        let failed = PostgresRedo.apply(&key, Lsn(0x2000), &bytes, &mut page, PAGE_BYTES);
        let text = failed.expect_err("a custom resource manager").to_string();
        assert!(text.contains("0x30 that ends at 0/2000"), "{text}");
        let none = PostgresRedo.apply(&key, Lsn(0x2000), &[9], &mut page, PAGE_BYTES);
        assert!(
            none.expect_err("no delta")
                .to_string()
                .contains("version 9")
        );
    }

    #[test]
    fn only_what_needs_nothing_before_it_begins_a_page() {
        let zero = stored(&Delta::Implied(Implied::Zero));
        let status = Implied::TransactionStatus {
            status: 1,
            positions: &[],
        };
        let status = stored(&Delta::Implied(status));
        let cases = [
            (zero, true),
            (status, false),
            (custom(true).1, true),
            (custom(false).1, false),
            (Vec::new(), false),
        ];
        for (bytes, begins) in cases {
            assert_eq!(PostgresRedo.begins(&bytes), begins, "{bytes:?}");
        }
    }
}
