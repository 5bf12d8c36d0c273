//! What can be told of a stored value by itself: whether a block is a page.

use engine::check::Inspector;
use engine::types::{Key, Lsn, PAGE_BYTES};

use crate::key::{BlockTag, PostgresKey};
use crate::page::{PageHeader, is_zero};

/// Judges blocks of relations by their page headers, and the length of what has one.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageInspector;

impl Inspector for PageInspector {
    fn inspect(&self, key: &Key, lsn: Lsn, value: &[u8]) -> Result<(), String> {
        let Some(key) = PostgresKey::decode(key) else {
            return Err("no key that this program writes".to_owned());
        };
        // An empty one says that there is none, or none that anybody logged.
        let is_page = matches!(
            key,
            PostgresKey::Block { .. } | PostgresKey::SlruPage { .. }
        );
        if !is_page || value.is_empty() {
            return Ok(());
        }
        if value.len() != PAGE_BYTES {
            return Err(format!("a page of {} bytes", value.len()));
        }
        if !matches!(key, PostgresKey::Block { .. }) || is_zero(value) {
            return Ok(());
        }
        let header = PageHeader::decode(value).map_err(|error| error.to_string())?;
        if header.lsn > lsn {
            return Err(format!("the page says that it is of {}", header.lsn));
        }
        Ok(())
    }

    fn name(&self, key: &Key) -> String {
        match PostgresKey::decode(key) {
            Some(PostgresKey::Block {
                relation,
                fork,
                block,
            }) => BlockTag {
                relation,
                fork,
                block,
            }
            .to_string(),
            Some(other) => format!("{other:?}"),
            None => {
                let digits: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("key {digits}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Fork, Relation};
    use crate::page::PageMut;

    fn tag() -> BlockTag {
        BlockTag {
            relation: Relation {
                tablespace: 1663,
                database: 5,
                number: 16_384,
            },
            fork: Fork::Main,
            block: 7,
        }
    }

    fn inspect(lsn: u64, value: &[u8]) -> Result<(), String> {
        PageInspector.inspect(&tag().key().encode(), Lsn(lsn), value)
    }

    #[test]
    fn a_page_has_a_header_and_is_not_of_the_future() {
        let mut page = [0; PAGE_BYTES];
        assert_eq!(inspect(10, &page), Ok(()));
        let mut written = PageMut::new(&mut page);
        written.init(0).expect("fits");
        written.set_lsn(Lsn(10));
        assert_eq!(inspect(10, &page), Ok(()));
        assert!(inspect(9, &page).is_err());
        assert!(inspect(10, &page[..100]).is_err());
        assert_eq!(inspect(10, &[]), Ok(()));
        page[12] = 0xff;
        page[13] = 0xff;
        assert!(inspect(10, &page).is_err());
        let name = PageInspector.name(&tag().key().encode());
        assert_eq!(name, "block 7 of 1663/5/16384");
    }
}
