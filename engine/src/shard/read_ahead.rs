//! Who reads in sequence. A miss on the extent right behind another miss of the same layer is taken for a scan, and
//! the fetch is widened to a run of extents.
//!
//! Scans of one relation stay in one stripe, one partition and so one core for 8 MiB; a scan is noticed anew in each
//! stripe, which costs it one extent fetched alone.

use crate::types::ObjectId;

/// The last few sequences that missed.
pub(crate) struct ReadAhead {
    streams: [Option<Stream>; STREAMS],
    next_victim: usize,
}

#[derive(Clone, Copy)]
struct Stream {
    object: ObjectId,
    next_extent: u32,
}

impl ReadAhead {
    /// No sequence known.
    pub(crate) fn new() -> ReadAhead {
        ReadAhead {
            streams: [None; STREAMS],
            next_victim: 0,
        }
    }

    /// Notes a miss; says whether it continues a sequence.
    pub(crate) fn continues(&mut self, object: ObjectId, extent_no: u32) -> bool {
        let known = self
            .streams
            .iter()
            .flatten()
            .any(|stream| stream.object == object && stream.next_extent == extent_no);
        if !known {
            self.streams[self.next_victim] = Some(Stream {
                object,
                next_extent: extent_no.saturating_add(1),
            });
            self.next_victim = (self.next_victim + 1) % STREAMS;
        }
        known
    }

    /// The sequence that was about to read `extent_no` will find everything below `next_extent` fetched.
    pub(crate) fn fetched(&mut self, object: ObjectId, extent_no: u32, next_extent: u32) {
        for stream in self.streams.iter_mut().flatten() {
            if stream.object == object && stream.next_extent == extent_no {
                stream.next_extent = next_extent;
            }
        }
    }
}

/// Sequences followed at once on one core; the oldest is forgotten first.
const STREAMS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BranchId, Id};

    #[test]
    fn the_second_extent_in_a_row_is_a_sequence_and_random_ones_are_not() {
        let object = ObjectId {
            branch: BranchId(Id([1; 16])),
            epoch: 1,
            sequence: 1,
        };
        let mut ahead = ReadAhead::new();
        assert!(!ahead.continues(object, 4));
        assert!(!ahead.continues(object, 9));
        assert!(ahead.continues(object, 5));
        ahead.fetched(object, 5, 37);
        assert!(ahead.continues(object, 37));
        assert!(!ahead.continues(object, 6));
    }
}
