use super::super::{ImportStart, SinkError};
use super::*;
use crate::key::Slru;
use crate::redo::{Change, Implied, PageChange};
use crate::wal::{ResourceManager, WalVersion};

/// What was put: LSN, whether it is an image, bytes.
#[derive(Default)]
pub(in crate::import) struct Put(
    pub(in crate::import) BTreeMap<engine::types::Key, Vec<(u64, bool, usize)>>,
);

impl ImportSink for Put {
    fn begin(&mut self, _: &ImportStart) -> Result<(), SinkError> {
        Ok(())
    }

    fn put(
        &mut self,
        key: engine::types::Key,
        lsn: Lsn,
        value: Value<'_>,
    ) -> Result<(), SinkError> {
        let put = match value {
            Value::Image(bytes) => (lsn.0, true, bytes.len()),
            Value::Delta(bytes) => (lsn.0, false, bytes.len()),
        };
        self.0.entry(key).or_default().push(put);
        Ok(())
    }

    fn wal(&mut self, _: Lsn, _: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }

    fn progress(&mut self, _: u64) -> Result<(), SinkError> {
        Ok(())
    }
}

impl Put {
    /// LSNs of a page's images and deltas.
    fn of(&self, block: u32) -> (Vec<u64>, Vec<u64>) {
        let puts = self.0.get(&page(block).encode()).cloned();
        let (images, deltas): (Vec<_>, Vec<_>) = puts
            .unwrap_or_default()
            .into_iter()
            .partition(|(_, is_image, _)| *is_image);
        let lsns = |puts: Vec<(u64, bool, usize)>| puts.into_iter().map(|(lsn, ..)| lsn).collect();
        (lsns(images), lsns(deltas))
    }
}

fn page(block: u32) -> PostgresKey {
    PostgresKey::SlruPage {
        slru: Slru::Clog,
        segment: 0,
        block,
    }
}

const CHANGE: Delta<'static> = Delta::Implied(Implied::TransactionStatus {
    status: 1,
    positions: &[7, 0],
});
const ZERO: Delta<'static> = Delta::Implied(Implied::Zero);

fn small() -> Limits {
    Limits {
        bytes_max: 16 * PAGE_BYTES,
        deltas_max: 4,
        delta_bytes_max: 1000,
    }
}

#[test]
fn a_page_that_is_at_hand_becomes_one_image() {
    let mut table = PageTable::new(small());
    let mut put = Put::default();
    table.keep(page(0), &[0; PAGE_BYTES], Lsn(100), KeptFor::Maps);
    table.keep(page(1), &[0; PAGE_BYTES], Lsn(100), KeptFor::Slrus);
    for lsn in 110..150 {
        table.apply(page(0), Lsn(lsn), &CHANGE, false);
        table.settle(&mut put).expect("room");
    }
    table.apply(page(2), Lsn(150), &ZERO, false);
    table.apply(page(3), Lsn(151), &CHANGE, true);
    table.finish(&mut put).expect("a sink");
    assert_eq!(put.of(0), (vec![149], vec![]));
    // What nobody changed is written already.
    assert_eq!(put.of(1), (vec![], vec![]));
    assert_eq!(put.of(2), (vec![150], vec![]));
    assert_eq!(put.of(3), (vec![151], vec![]));
}

#[test]
fn a_page_that_had_to_make_room_goes_on_with_deltas_until_its_next_image() {
    let mut table = PageTable::new(small());
    let mut put = Put::default();
    for block in 0..20 {
        table.apply(page(block), Lsn(100 + u64::from(block)), &ZERO, false);
        table.settle(&mut put).expect("room");
        assert!(table.bytes <= small().bytes_max + PAGE_BYTES + ENTRY_BYTES);
    }
    assert_eq!(put.of(0), (vec![100], vec![]), "the oldest");
    assert_eq!(put.of(19), (vec![], vec![]), "the newest stays");
    table.apply(page(0), Lsn(200), &CHANGE, false);
    table.apply(page(0), Lsn(201), &CHANGE, false);
    table.apply(page(1), Lsn(202), &CHANGE, false);
    table.apply(page(1), Lsn(203), &ZERO, false);
    table.finish(&mut put).expect("a sink");
    assert_eq!(put.of(0), (vec![100], vec![200, 201]));
    assert_eq!(put.of(1), (vec![101, 203], vec![]), "made useless");
}

#[test]
fn chains_are_bounded_even_if_they_are_written_in_parts() {
    let mut table = PageTable::new(small());
    let mut put = Put::default();
    for lsn in 100..103 {
        table.apply(page(0), Lsn(lsn), &CHANGE, false);
    }
    // Others push them out.
    for block in 1..40 {
        table.apply(page(block), Lsn(110 + u64::from(block)), &ZERO, false);
        table.settle(&mut put).expect("room");
    }
    assert_eq!(put.of(0), (vec![], vec![100, 101, 102]));
    table.apply(page(0), Lsn(200), &CHANGE, false);
    table.settle(&mut put).expect("the fourth");
    table.apply(page(0), Lsn(201), &CHANGE, false);
    let error = table.settle(&mut put).expect_err("the fifth");
    assert!(
        matches!(error, ImportError::LongChain { count: 5, .. }),
        "{error}"
    );
}

#[test]
fn what_cant_be_replayed_is_kept_behind_the_page_as_it_was() {
    let tag = crate::key::BlockTag {
        relation: crate::key::Relation {
            tablespace: 1663,
            database: 5,
            number: 16384,
        },
        fork: crate::key::Fork::Main,
        block: 0,
    };
    let custom = Delta::Record(PageChange {
        image: None,
        change: Change {
            version: WalVersion::V15,
            end: Lsn(120),
            xid: 0,
            manager: ResourceManager(200),
            info: 0,
            block_id: 0,
            tag,
            others: &[],
            data: &[],
            main: &[],
            hint_bits_logged: false,
            will_init: true,
        },
    });
    let mut table = PageTable::new(small());
    let mut put = Put::default();
    table.apply(tag.key(), Lsn(110), &ZERO, false);
    table.apply(tag.key(), Lsn(120), &custom, false);
    assert_eq!(table.failures(), 1);
    table.finish(&mut put).expect("a sink");
    let puts: Vec<_> = put.0[&tag.key().encode()]
        .iter()
        .map(|(lsn, is_image, _)| (*lsn, *is_image))
        .collect();
    assert_eq!(puts, [(110, true), (120, false)]);
}

#[test]
fn what_is_cut_off_is_forgotten() {
    let mut table = PageTable::new(small());
    let mut put = Put::default();
    for block in 0..4 {
        table.apply(page(block), Lsn(100), &ZERO, false);
    }
    table.remove(page(2), page(u32::MAX));
    table.finish(&mut put).expect("a sink");
    let written: Vec<_> = (0..4).map(|block| put.of(block).0.len()).collect();
    assert_eq!(written, [1, 1, 0, 0]);
}
