//! `pg_logical/replorigin_checkpoint`, which every checkpoint writes anew and every recovery begins with: a magic number
//! (4 bytes), for each origin its number (2, padded to 8) and remote LSN (8), a CRC-32C of all before it (4).

use engine::types::Lsn;

use crate::bytes_at::{u16_at, u32_at, u64_at};

/// The origins, and how far each has come in its publisher's WAL.
/// # Errors
/// What is wrong with the file.
pub(super) fn decode(file: &[u8]) -> Result<Vec<(u16, Lsn)>, &'static str> {
    let (content, crc) = file
        .split_last_chunk::<4>()
        .ok_or("shorter than its checksum")?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
        return Err("its checksum is not that of its content");
    }
    if u32_at(content, 0) != Some(MAGIC) {
        return Err("not a file of replication origins");
    }
    let entries = content[MAGIC_BYTES..].chunks(ENTRY_BYTES);
    let decoded = entries.map(|entry| Some((u16_at(entry, 0)?, Lsn(u64_at(entry, 8)?))));
    decoded
        .collect::<Option<Vec<_>>>()
        .ok_or("ends in the middle of an origin")
}

const MAGIC: u32 = 0x1257_dade;
const MAGIC_BYTES: usize = 4;
const ENTRY_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend(content);
        let crc = crc32c::crc32c(&file);
        file.extend(crc.to_le_bytes());
        file
    }

    #[test]
    fn origins_are_read_and_damage_is_not() {
        let mut content = Vec::new();
        for (origin, lsn) in [(7u16, 0x1234u64), (9, 0x5_0000_0000)] {
            content.extend(u64::from(origin).to_le_bytes());
            content.extend(lsn.to_le_bytes());
        }
        let whole = file(&content);
        let expected = vec![(7, Lsn(0x1234)), (9, Lsn(0x5_0000_0000))];
        assert_eq!(decode(&whole), Ok(expected));
        assert_eq!(decode(&file(&[])), Ok(Vec::new()));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&whole[..at]).is_err(), "{at} bytes");
        }
        assert!(decode(&file(&content[..24])).is_err());
    }
}
