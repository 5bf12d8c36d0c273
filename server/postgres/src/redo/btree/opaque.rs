//! The special space of a btree page: siblings, level, flags.
//!
//! | at | bytes | field |
//! |---:|------:|-------|
//! |  0 |     4 | left sibling, 0 for none |
//! |  4 |     4 | right sibling, 0 for none |
//! |  8 |     4 | level, 0 for leaves |
//! | 12 |     2 | flags |
//! | 14 |     2 | cycle of the vacuum during which it was last split |

use super::RedoError;
use crate::page::PageMut;

pub(super) const LEAF: u16 = 0x0001;
pub(super) const ROOT: u16 = 0x0002;
pub(super) const DELETED: u16 = 0x0004;
pub(super) const META: u16 = 0x0008;
pub(super) const HALF_DEAD: u16 = 0x0010;
pub(super) const HAS_GARBAGE: u16 = 0x0040;
pub(super) const INCOMPLETE_SPLIT: u16 = 0x0080;
pub(super) const HAS_FULL_XID: u16 = 0x0100;

/// The special space.
#[derive(Clone, Copy, Default)]
pub(super) struct Opaque {
    pub(super) previous: u32,
    pub(super) next: u32,
    pub(super) level: u32,
    pub(super) flags: u16,
    pub(super) cycle_id: u16,
}

impl Opaque {
    /// Bytes on the page.
    pub(super) const BYTES: usize = 16;

    /// Line pointer of the first tuple that is not the high key.
    pub(super) fn first_data_key(&self) -> u16 {
        if self.next == 0 { 1 } else { 2 }
    }

    fn decode(bytes: [u8; Opaque::BYTES]) -> Opaque {
        let [
            p0,
            p1,
            p2,
            p3,
            n0,
            n1,
            n2,
            n3,
            l0,
            l1,
            l2,
            l3,
            f0,
            f1,
            c0,
            c1,
        ] = bytes;
        Opaque {
            previous: u32::from_le_bytes([p0, p1, p2, p3]),
            next: u32::from_le_bytes([n0, n1, n2, n3]),
            level: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            cycle_id: u16::from_le_bytes([c0, c1]),
        }
    }

    fn encode(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.previous.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.next.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.level.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.cycle_id.to_le_bytes());
    }
}

/// Access to the special space of a btree page.
pub(super) trait PageOpaque {
    /// The special space.
    fn opaque(&self) -> Result<Opaque, RedoError>;

    /// Replaces it.
    fn set_opaque(&mut self, opaque: Opaque) -> Result<(), RedoError>;

    /// Changes some of its fields.
    fn update_opaque(&mut self, update: impl FnOnce(&mut Opaque)) -> Result<(), RedoError> {
        let mut opaque = self.opaque()?;
        update(&mut opaque);
        self.set_opaque(opaque)
    }
}

impl PageOpaque for PageMut<'_> {
    fn opaque(&self) -> Result<Opaque, RedoError> {
        let bytes = self.special_space(Opaque::BYTES)?;
        Ok(Opaque::decode(
            bytes.try_into().expect("as many were asked for"),
        ))
    }

    fn set_opaque(&mut self, opaque: Opaque) -> Result<(), RedoError> {
        opaque.encode(self.special_space_mut(Opaque::BYTES)?);
        Ok(())
    }
}
