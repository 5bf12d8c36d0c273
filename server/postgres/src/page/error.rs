//! Why a page can't be changed the way it was asked to.

/// What is wrong with a page, or with the change asked of it. The page may be half changed when a primitive
/// answers with it: whoever holds it throws it away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageError {
    /// The header's bounds contradict each other.
    #[error("page bounds: lower {lower}, upper {upper}, special {special}")]
    Bounds {
        /// End of the line pointers.
        lower: u16,
        /// Start of the tuples.
        upper: u16,
        /// Start of the special space.
        special: u16,
    },
    /// A line pointer that isn't there.
    #[error("no line pointer {offset}, the page has {count}")]
    NoItem {
        /// The offset number asked for.
        offset: u16,
        /// How many there are.
        count: u16,
    },
    /// A line pointer that should point to a tuple and does not.
    #[error("line pointer {offset} has no tuple: {length} bytes at {at}")]
    NoTuple {
        /// The offset number.
        offset: u16,
        /// Where it points to.
        at: u16,
        /// The length it says.
        length: u16,
    },
    /// A line pointer in use where a free one is needed.
    #[error("line pointer {offset} is in use")]
    Used {
        /// The offset number.
        offset: u16,
    },
    /// A new line pointer would leave a gap, or be one more than such a page can have.
    #[error("line pointer {offset} can't be made, the page has {count}")]
    Offset {
        /// The offset number asked for.
        offset: u16,
        /// How many there are.
        count: u16,
    },
    /// The tuple doesn't fit.
    #[error("no space for {bytes} bytes between lower {lower} and upper {upper}")]
    NoSpace {
        /// Bytes of the tuple.
        bytes: usize,
        /// End of the line pointers.
        lower: u16,
        /// Start of the tuples.
        upper: u16,
    },
    /// Tuples that together are longer than the page.
    #[error("the tuples need {bytes} bytes, more than the page has")]
    Lengths {
        /// Sum of the aligned lengths.
        bytes: usize,
    },
    /// More tuples than a page can have.
    #[error("more than {max} tuples")]
    TooManyTuples {
        /// The most there can be.
        max: usize,
    },
    /// Offset numbers to delete that aren't there or not in ascending order.
    #[error("offset numbers to delete are not ascending or past the page's {count}")]
    DeleteOrder {
        /// How many line pointers there are.
        count: u16,
    },
    /// A special space of another length than the access method has.
    #[error("special space at {special}, not {bytes} bytes")]
    Special {
        /// Where it starts.
        special: u16,
        /// How long it should be.
        bytes: usize,
    },
    /// Bytes past the end of the page or of what they are part of.
    #[error("{bytes} bytes at {at} are out of bounds")]
    Range {
        /// Where.
        at: usize,
        /// How many.
        bytes: usize,
    },
}
