//! Postgres's control file. The checksum is made right first, or nothing would get past it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres::control_file::{CONTROL_FILE_BYTES, ControlFile, SUPPORTED_MAJORS};

fuzz_target!(|bytes: &[u8]| {
    let mut file = bytes.to_vec();
    let _short_or_damaged = ControlFile::decode(&file);
    file.resize(CONTROL_FILE_BYTES, 0);
    // Where versions 1300 and 1800 of the file keep their checksum.
    for crc_at in [288, 292] {
        let mut file = file.clone();
        let crc = crc32c::crc32c(&file[..crc_at]);
        file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        if let Ok(control) = ControlFile::decode(&file) {
            assert!(SUPPORTED_MAJORS.contains(&control.postgres_major));
            assert!(control.wal_segment_bytes.is_power_of_two());
        }
    }
});
