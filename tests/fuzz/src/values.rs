//! Small values that an import stores beside pages: what decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres::page::PageHeader;
use postgres::value::{
    BackupFacts, CheckpointState, DatabaseDirectory, LatestEnd, PlainFile, RelationSize,
    SlruSegment, Tablespace,
};

macro_rules! round_trip {
    ($bytes:expr, $($value:ty),*) => {
        $(if let Ok(value) = <$value>::decode($bytes) {
            assert_eq!(value.encode(), $bytes, stringify!($value));
        })*
    };
}

fuzz_target!(|bytes: &[u8]| {
    round_trip!(
        bytes,
        RelationSize,
        DatabaseDirectory,
        Tablespace,
        SlruSegment,
        CheckpointState,
        PlainFile,
        BackupFacts,
        LatestEnd
    );
    let _header = PageHeader::decode(bytes);
});
