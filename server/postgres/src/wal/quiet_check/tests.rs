use super::*;
use crate::wal::decoder::tests::{record, record_with_main_data};
use crate::wal::record::RecordScratch;
use crate::wal::version::WalVersion;

const START: Lsn = Lsn(0x100_0028);

/// What `check` says to a record at `lsn`.
fn observe(check: &QuietCheck, lsn: Lsn, bytes: &[u8]) -> Result<Option<Lsn>, Change> {
    let end = Lsn(lsn.0 + bytes.len() as u64);
    let mut scratch = RecordScratch::new();
    let record = Record::parse(WalVersion::V15, lsn, end, bytes, &mut scratch);
    check.observe(&record.expect("sound"))
}

#[test]
fn harmless_records_pass_and_the_end_of_this_backup_stops() {
    let check = QuietCheck::of_backup(START);
    for operation in XLOG_HARMLESS {
        let harmless = record(0, operation, 0, &[]);
        assert_eq!(
            observe(&check, START, &harmless),
            Ok(None),
            "{operation:#x}"
        );
    }
    assert_eq!(observe(&check, START, &record(8, 0x10, 0, &[])), Ok(None));
    let other = record_with_main_data(0, BACKUP_END, &(START.0 - 8).to_le_bytes());
    assert_eq!(observe(&check, START, &other), Ok(None));
    let own = record_with_main_data(0, BACKUP_END, &START.0.to_le_bytes());
    let end = Lsn(START.0 + own.len() as u64);
    assert_eq!(observe(&check, START, &own), Ok(Some(end)));
}

#[test]
fn everything_else_is_a_change() {
    let check = QuietCheck::of_backup(START);
    let mut changes = 0;
    for manager in 0..=255u8 {
        for operation in (0..=0xf0u8).step_by(16) {
            let harmless = (manager == 0 && XLOG_HARMLESS.contains(&operation))
                || (manager == 8 && operation == 0x10);
            let observed = observe(&check, START, &record(manager, operation, 0, &[]));
            assert_eq!(observed.is_ok(), harmless, "{manager} {operation:#x}");
            changes += u32::from(observed.is_err());
        }
    }
    assert_eq!(changes, 256 * 16 - 9);
    // With a transaction id even a no-op moves the next id.
    assert!(observe(&check, START, &record(0, 0x20, 700, &[])).is_err());
}

#[test]
fn a_change_names_its_record_and_block() {
    let mut body = vec![0, 0, 0, 0];
    for word in [1663u32, 5, 16384, 7] {
        body.extend(word.to_le_bytes());
    }
    let check = QuietCheck::of_backup(START);
    let change = observe(&check, START, &record(10, 0, 700, &body));
    assert_eq!(
        change.expect_err("a change").to_string(),
        "Heap record 0x00 at 0/1000028, block 7 of 1663/5/16384"
    );
    let change = observe(&check, START, &record(0, 0xa0, 0, &[]));
    assert_eq!(
        change.expect_err("a change").to_string(),
        "XLOG record page image for a hint bit at 0/1000028"
    );
}

#[test]
fn a_shutdown_ends_with_its_own_checkpoint_only() {
    let check = QuietCheck::of_shutdown(START);
    let checkpoint = record(0, CHECKPOINT_SHUTDOWN, 0, &[]);
    let end = Lsn(START.0 + checkpoint.len() as u64);
    assert_eq!(observe(&check, START, &checkpoint), Ok(Some(end)));
    assert_eq!(observe(&check, Lsn(START.0 + 120), &checkpoint), Ok(None));
}
