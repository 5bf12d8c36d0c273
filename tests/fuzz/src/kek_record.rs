//! Wrapped KEKs as they lie in the store.
#![no_main]

use engine::crypto::kek::KekRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = KekRecord::decode("kek", bytes) {
        let again =
            KekRecord::decode("kek", &record.encode()).expect("what was read can be written");
        assert_eq!(again.wrapped, record.wrapped);
        assert_eq!(again.context, record.context);
    }
});
