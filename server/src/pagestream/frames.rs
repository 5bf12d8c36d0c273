//! Frames of the PostgreSQL protocol, version 3: finding one in received bytes, and writing the few backend messages
//! that a pageserver sends. Integers are big-endian; lengths count themselves but not the tag before them.

/// Why received bytes are not a frame. The stream is out of step: the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedFrame {
    /// A length that cannot be: shorter than itself, or above the limit.
    #[error("frame of {got_bytes} bytes, outside {min_bytes}..={max_bytes}")]
    Length {
        /// What the frame says.
        got_bytes: u32,
        /// The smallest length it could have.
        min_bytes: usize,
        /// The largest that is accepted.
        max_bytes: usize,
    },
    /// A text field without its NUL, or not UTF-8, or bytes behind the last field.
    #[error("malformed {0} message")]
    Fields(&'static str),
}

/// A tagged frame inside a receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Message type.
    pub tag: u8,
    /// What follows the length.
    pub body: &'a [u8],
    /// Bytes to consume from the buffer.
    pub consumed_bytes: usize,
}

/// The first tagged frame of `received`, or `None` if it has not come completely. `frame_bytes_max` bounds its length
/// field, so a receive buffer of that size and one byte always suffices.
pub fn next_frame(
    received: &[u8],
    frame_bytes_max: usize,
) -> Result<Option<Frame<'_>>, MalformedFrame> {
    let Some((&tag, rest)) = received.split_first() else {
        return Ok(None);
    };
    let Some(body) = sized(rest, 4, frame_bytes_max)? else {
        return Ok(None);
    };
    Ok(Some(Frame {
        tag,
        body,
        consumed_bytes: 5 + body.len(),
    }))
}

/// The first untagged packet of `received` (the form of everything before authentication), or `None` if it has not
/// come completely: its body, to be consumed with the 4 bytes of its length.
pub fn next_startup_packet(received: &[u8]) -> Result<Option<&[u8]>, MalformedFrame> {
    sized(received, 8, STARTUP_PACKET_BYTES_MAX)
}

/// Postgres's own bound.
pub const STARTUP_PACKET_BYTES_MAX: usize = 10_000;

fn sized(
    received: &[u8],
    min_bytes: usize,
    max_bytes: usize,
) -> Result<Option<&[u8]>, MalformedFrame> {
    let Some(length) = received.first_chunk::<4>() else {
        return Ok(None);
    };
    let got_bytes = u32::from_be_bytes(*length);
    let frame_bytes = usize::try_from(got_bytes).unwrap_or(usize::MAX);
    if !(min_bytes..=max_bytes).contains(&frame_bytes) {
        return Err(MalformedFrame::Length {
            got_bytes,
            min_bytes,
            max_bytes,
        });
    }
    Ok(received.get(4..frame_bytes))
}

/// Reads NUL-ended texts and integers off the front of a message body.
pub struct Fields<'a> {
    message: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `body`; `message` names it in errors.
    pub fn new(message: &'static str, body: &'a [u8]) -> Fields<'a> {
        Fields {
            message,
            rest: body,
        }
    }

    /// The next NUL-ended UTF-8 text.
    pub fn text(&mut self) -> Result<&'a str, MalformedFrame> {
        let malformed = MalformedFrame::Fields(self.message);
        let end = self.rest.iter().position(|&b| b == 0).ok_or(malformed)?;
        let text = std::str::from_utf8(&self.rest[..end]).map_err(|_| malformed)?;
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, MalformedFrame> {
        Ok(self.bytes::<1>()?[0])
    }

    /// The next unsigned 16 bits.
    pub fn u16(&mut self) -> Result<u16, MalformedFrame> {
        Ok(u16::from_be_bytes(self.bytes()?))
    }

    /// Succeeds if nothing is left.
    pub fn end(self) -> Result<(), MalformedFrame> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(MalformedFrame::Fields(self.message))
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], MalformedFrame> {
        let (field, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(MalformedFrame::Fields(self.message))?;
        self.rest = rest;
        Ok(*field)
    }
}

/// Appends a message: its tag, and what `body` writes behind a length filled in afterwards.
pub fn put(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let frame_bytes = u32::try_from(out.len() - length_at).expect("messages are small");
    out[length_at..length_at + 4].copy_from_slice(&frame_bytes.to_be_bytes());
}

/// Appends `text` and a NUL; a NUL inside ends it early.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().take_while(|&b| b != 0));
    out.push(0);
}

/// Whether an error ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The session goes on.
    Error,
    /// The connection is closed behind it.
    Fatal,
}

/// Appends an ErrorResponse. `code` is an SQLSTATE.
pub fn put_error(out: &mut Vec<u8>, severity: Severity, code: &str, text: &str) {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    put(out, b'E', |out| {
        for (field, value) in [
            (b'S', severity),
            (b'V', severity),
            (b'C', code),
            (b'M', text),
        ] {
            out.push(field);
            put_text(out, value);
        }
        out.push(0);
    });
}

/// Appends ReadyForQuery, idle.
pub fn put_ready(out: &mut Vec<u8>) {
    put(out, b'Z', |out| out.push(b'I'));
}

/// Appends CommandComplete.
pub fn put_complete(out: &mut Vec<u8>, tag: &str) {
    put(out, b'C', |out| put_text(out, tag));
}

/// Appends CopyBothResponse: text format, no columns.
pub fn put_copy_both(out: &mut Vec<u8>) {
    put(out, b'W', |out| out.extend_from_slice(&[0, 0, 0]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_only_when_it_is_complete() {
        let received = b"Q\0\0\0\x08abc\0X";
        for cut in 0..9 {
            assert_eq!(next_frame(&received[..cut], 100), Ok(None), "{cut}");
        }
        let frame = next_frame(received, 100)
            .expect("well formed")
            .expect("complete");
        assert_eq!(
            (frame.tag, frame.body, frame.consumed_bytes),
            (b'Q', &b"abc\0"[..], 9)
        );
    }

    #[test]
    fn impossible_lengths_are_refused_before_their_bytes_come() {
        for (length, limit) in [(3_u32, 100), (101, 100), (u32::MAX, 100), (0, 100)] {
            let mut received = vec![b'd'];
            received.extend_from_slice(&length.to_be_bytes());
            let refused = next_frame(&received, limit);
            assert!(
                matches!(refused, Err(MalformedFrame::Length { got_bytes, .. }) if got_bytes == length)
            );
        }
        assert!(next_startup_packet(&[0, 0, 0, 7]).is_err());
        assert!(next_startup_packet(&[0x16, 3, 1, 2, 0]).is_err());
        let packet = next_startup_packet(&[0, 0, 0, 8, 4, 210, 22, 47, 9]);
        assert_eq!(packet, Ok(Some(&[4, 210, 22, 47][..])));
    }

    #[test]
    fn backend_messages_have_the_bytes_that_drivers_expect() {
        let mut out = Vec::new();
        put_ready(&mut out);
        put_complete(&mut out, "SET");
        put_copy_both(&mut out);
        assert_eq!(out, b"Z\0\0\0\x05IC\0\0\0\x08SET\0W\0\0\0\x07\0\0\0");
        out.clear();
        put_error(&mut out, Severity::Fatal, "08P01", "no");
        assert_eq!(
            out,
            b"E\0\0\0\x1eSFATAL\0VFATAL\0C08P01\0Mno\0\0".as_slice()
        );
    }

    #[test]
    fn fields_end_where_their_message_does() {
        let mut fields = Fields::new("Parse", b"s0\0q\0\0\x01");
        assert_eq!(fields.text(), Ok("s0"));
        assert_eq!(fields.text(), Ok("q"));
        assert_eq!(fields.u16(), Ok(1));
        assert_eq!(fields.byte(), Err(MalformedFrame::Fields("Parse")));
        assert_eq!(fields.end(), Ok(()));
        assert!(Fields::new("Parse", b"no nul").text().is_err());
        assert!(Fields::new("Parse", b"\xff\0").text().is_err());
    }
}
