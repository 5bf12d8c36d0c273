//! The server's messages, cut out of bytes as they arrive: a tag, a length of four bytes, a body.
//!
//! A length is checked against [`MESSAGE_BYTES_MAX`] before memory is taken for it. What has arrived of a message stays
//! until the rest does. Nothing is copied but the beginning of a message that has to move to the front.

use std::ops::Range;

use super::replication_error::ReplicationError;
use crate::bytes_at::array_at;

/// Longest message accepted; those of a base backup are 32 KiB, those of WAL 128 KiB.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A whole message. Its body is in the buffer until [`FrameBuffer::space`] is called.
#[derive(Clone, Default)]
pub(super) struct Frame {
    pub(super) tag: u8,
    body: Range<usize>,
}

pub(super) struct FrameBuffer {
    bytes: Vec<u8>,
    /// What has arrived and was not answered yet: from here
    start: usize,
    /// to here.
    end: usize,
}

impl FrameBuffer {
    pub(super) fn new() -> FrameBuffer {
        FrameBuffer {
            bytes: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// The next message, if all of it has arrived.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, ReplicationError> {
        let Some(bytes) = self.frame_bytes()? else {
            return Ok(None);
        };
        if self.end - self.start < bytes {
            return Ok(None);
        }
        let frame = Frame {
            tag: self.bytes[self.start],
            body: self.start + HEADER_BYTES..self.start + bytes,
        };
        self.start += bytes;
        Ok(Some(frame))
    }

    /// Content of a message that was answered since the last call of [`space`](Self::space).
    pub(super) fn body(&self, frame: &Frame) -> &[u8] {
        &self.bytes[frame.body.clone()]
    }

    /// Where the next bytes are to be read into; never empty.
    pub(super) fn space(&mut self) -> Result<&mut [u8], ReplicationError> {
        let wanted = self.frame_bytes()?.unwrap_or(HEADER_BYTES);
        let is_short =
            self.bytes.len() - self.start < wanted || self.bytes.len() - self.end < SPACE_BYTES_MIN;
        if is_short {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        // One byte more, for the case that all of the message is here and was not asked for.
        if self.bytes.len() <= wanted.max(self.end) {
            self.bytes.resize(wanted.max(self.end) + 1, 0);
        }
        Ok(&mut self.bytes[self.end..])
    }

    /// So many bytes were read into the space.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.bytes.len(), "read into the space");
    }

    /// Bytes of the next message with its header, if that has arrived.
    fn frame_bytes(&self) -> Result<Option<usize>, ReplicationError> {
        let arrived = &self.bytes[self.start..self.end];
        let Some(length) = array_at(arrived, 1).map(u32::from_be_bytes) else {
            return Ok(None);
        };
        // The length counts itself, and not the tag.
        usize::try_from(length)
            .ok()
            .filter(|length| (4..=MESSAGE_BYTES_MAX + 4).contains(length))
            .map(|length| Some(length + 1))
            .ok_or_else(|| ReplicationError::Protocol("a message of impossible length".into()))
    }
}

/// Tag and length.
const HEADER_BYTES: usize = 5;
const BUFFER_BYTES: usize = 256 << 10;
/// With less than this behind what has arrived, that moves to the front.
const SPACE_BYTES_MIN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short");
        [&[tag], length.to_be_bytes().as_slice(), body].concat()
    }

    /// Feeds `bytes` in chunks of `chunk` and answers the messages.
    fn cut(bytes: &[u8], chunk: usize) -> Vec<(u8, Vec<u8>)> {
        let mut buffer = FrameBuffer::new();
        let mut found = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = buffer.space().expect("good lengths");
            let count = chunk.min(rest.len()).min(space.len());
            space[..count].copy_from_slice(&rest[..count]);
            buffer.filled(count);
            rest = &rest[count..];
            while let Some(frame) = buffer.next().expect("good lengths") {
                found.push((frame.tag, buffer.body(&frame).to_vec()));
            }
        }
        found
    }

    #[test]
    fn messages_come_out_whole_however_they_arrive() {
        let bodies: Vec<Vec<u8>> = [0, 1, 5, 70_000, 0, 300_000, MESSAGE_BYTES_MAX, 3, 200_000]
            .into_iter()
            .map(|bytes| (0..251).cycle().take(bytes).collect())
            .collect();
        let sent: Vec<(u8, Vec<u8>)> = (b'a'..).zip(bodies).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|(t, b)| message(*t, b)).collect();
        for chunk in [1, 7, 4096, 131_072, bytes.len()] {
            assert!(cut(&bytes, chunk) == sent, "in chunks of {chunk}");
        }
    }

    #[test]
    fn memory_is_not_taken_for_impossible_lengths() {
        for length in [0, 3, (1 << 20) + 5, u32::MAX] {
            let mut buffer = FrameBuffer::new();
            let header = [b"d", length.to_be_bytes().as_slice()].concat();
            buffer.space().expect("empty")[..5].copy_from_slice(&header);
            buffer.filled(5);
            assert!(buffer.next().is_err(), "{length}");
            assert!(buffer.space().is_err(), "{length}");
        }
    }
}
