//! Sealed records: their envelope, its checksum set right, and what is in the seals of key tables, tenants and names.
//! The first byte of the input says which.
#![no_main]

use engine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((0, body)) => fuzzing::key_table(body),
        Some((1, body)) => fuzzing::catalog_records(body),
        Some((_, stored)) => {
            let mut stored = stored.to_vec();
            if let Some(rest) = stored.len().checked_sub(4) {
                let checksum = crc32c::crc32c(&stored[..rest]);
                stored[rest..].copy_from_slice(&checksum.to_le_bytes());
            }
            fuzzing::sealed_record(&stored.into());
        }
        None => {}
    }
});
