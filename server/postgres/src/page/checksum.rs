//! The data checksum of a page: 32 parallel FNV-1a-like sums over columns of 32-bit words, folded, mixed with the
//! block number so that a page in the wrong place fails, and squeezed into 1..=65535 so that 0 means "none".
//!
//! The same in Postgres 9.3 to 18. The 32 lanes vectorise: about a microsecond a page.

use engine::types::PAGE_BYTES;

const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;
const CHECKSUM_AT: usize = 8;
const PRIME: u32 = 16_777_619;

/// The checksum that `page` should carry as number `block` of its fork (counted across segment files). The
/// checksum stored in the page does not count.
pub fn page_checksum(page: &[u8; PAGE_BYTES], block: u32) -> u16 {
    let mut sums = LANE_BASES;
    for (row_number, row) in page.chunks_exact(ROW_BYTES).enumerate() {
        let mut words = [0u32; LANES];
        for (word, bytes) in words.iter_mut().zip(row.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().expect("chunks of four"));
        }
        if row_number == 0 {
            // The stored checksum is the lower half of this word.
            words[CHECKSUM_AT / 4] &= 0xffff_0000;
        }
        mix(&mut sums, &words);
    }
    // Two rounds of zeros, so that the last words reach all bits.
    mix(&mut sums, &[0; LANES]);
    mix(&mut sums, &[0; LANES]);
    let folded = sums.into_iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(folded % 65535 + 1).expect("the remainder is below 65535")
}

fn mix(sums: &mut [u32; LANES], words: &[u32; LANES]) {
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ *word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

const LANE_BASES: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
