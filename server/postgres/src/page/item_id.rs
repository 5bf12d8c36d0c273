//! A line pointer: 4 bytes, little-endian: offset of the tuple in bits 0..15, state in 15..17, length in 17..32.

/// What a line pointer stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemState {
    /// Free.
    Unused,
    /// Points to a tuple.
    Normal,
    /// Points to another line pointer (heap).
    Redirect,
    /// Dead; of an index tuple that still has its bytes, of a heap tuple that has none any more.
    Dead,
}

impl ItemState {
    fn bits(self) -> u32 {
        match self {
            ItemState::Unused => 0,
            ItemState::Normal => 1,
            ItemState::Redirect => 2,
            ItemState::Dead => 3,
        }
    }
}

/// A line pointer as it is on the page; any four bytes are one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemId(pub u32);

impl ItemId {
    /// Bytes on the page.
    pub const BYTES: usize = 4;

    /// A free line pointer.
    pub const UNUSED: ItemId = ItemId(0);

    /// A dead line pointer without a tuple.
    pub const DEAD: ItemId = ItemId(3 << STATE_SHIFT);

    /// Line pointer to a tuple. Of offset and length the lower 15 bits count.
    pub fn normal(at: u16, length: u16) -> ItemId {
        ItemId::new(ItemState::Normal, at, length)
    }

    /// Line pointer to another line pointer.
    pub fn redirect(to: u16) -> ItemId {
        ItemId::new(ItemState::Redirect, to, 0)
    }

    /// Any line pointer. Of offset and length the lower 15 bits count.
    pub fn new(state: ItemState, at: u16, length: u16) -> ItemId {
        ItemId(
            (u32::from(at) & MASK_15)
                | state.bits() << STATE_SHIFT
                | (u32::from(length) & MASK_15) << LENGTH_SHIFT,
        )
    }

    /// Its state.
    pub fn state(self) -> ItemState {
        match self.0 >> STATE_SHIFT & 3 {
            0 => ItemState::Unused,
            1 => ItemState::Normal,
            2 => ItemState::Redirect,
            _ => ItemState::Dead,
        }
    }

    /// Whether it is not free.
    pub fn is_used(self) -> bool {
        self.0 >> STATE_SHIFT & 3 != 0
    }

    /// Whether it is for a tuple that has bytes.
    pub fn has_storage(self) -> bool {
        self.length() != 0
    }

    /// Where the tuple is, or the line pointer redirected to.
    pub fn at(self) -> u16 {
        fifteen_bits(self.0)
    }

    /// Bytes of the tuple.
    pub fn length(self) -> u16 {
        fifteen_bits(self.0 >> LENGTH_SHIFT)
    }

    /// The same for a tuple elsewhere.
    #[must_use]
    pub fn moved_to(self, at: u16) -> ItemId {
        ItemId(self.0 & !MASK_15 | u32::from(at) & MASK_15)
    }

    /// The same for a tuple of another length.
    #[must_use]
    pub fn with_length(self, length: u16) -> ItemId {
        ItemId(self.0 & !(MASK_15 << LENGTH_SHIFT) | (u32::from(length) & MASK_15) << LENGTH_SHIFT)
    }
}

fn fifteen_bits(word: u32) -> u16 {
    u16::try_from(word & MASK_15).expect("15 bits fit")
}

const MASK_15: u32 = 0x7fff;
const STATE_SHIFT: u32 = 15;
const LENGTH_SHIFT: u32 = 17;
