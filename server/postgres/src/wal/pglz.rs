//! Decompression of pglz, Postgres's own method.
//!
//! A control byte stands before every eight items, lowest bit first. Bit 0: the item is one literal byte. Bit 1: it
//! is a copy of earlier output, in two bytes: the upper nibble of the first and all of the second say how far back
//! (1..=4095), the lower nibble how long, less 3; if that makes 18, a third byte is added to it.

/// Decompresses `input` into `out`. Answers the bytes written, or `None` if a copy refers to what is not there, or
/// input is left when `out` is full.
pub(super) fn decompress(input: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut at, mut written) = (0, 0);
    while at < input.len() && written < out.len() {
        let mut control = input[at];
        at += 1;
        for _ in 0..8 {
            if at >= input.len() || written >= out.len() {
                break;
            }
            if control & 1 == 0 {
                out[written] = input[at];
                at += 1;
                written += 1;
            } else {
                let (first, second) = (input[at], *input.get(at + 1)?);
                at += 2;
                let back = usize::from(first & 0xf0) << 4 | usize::from(second);
                let mut length = usize::from(first & 0x0f) + LENGTH_LEAST;
                if length == LENGTH_EXTENDED {
                    length += usize::from(*input.get(at)?);
                    at += 1;
                }
                if back == 0 || back > written {
                    return None;
                }
                written = copy(out, written, back, length);
            }
            control >>= 1;
        }
    }
    (at == input.len()).then_some(written)
}

/// Appends `length` bytes (or as many as fit) that repeat what is `back` bytes behind the end.
fn copy(out: &mut [u8], written: usize, back: usize, length: usize) -> usize {
    let end = out.len().min(written + length);
    let from = written - back;
    let mut at = written;
    while at < end {
        // All from `from` to here repeats; so each step can be twice as long as the one before.
        let step = (at - from).min(end - at);
        out.copy_within(from..from + step, at);
        at += step;
    }
    end
}

const LENGTH_LEAST: usize = 3;
const LENGTH_EXTENDED: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    fn decompressed(input: &[u8], bytes: usize) -> Option<Vec<u8>> {
        let mut out = vec![0xee; bytes];
        let written = decompress(input, &mut out)?;
        out.truncate(written);
        Some(out)
    }

    #[test]
    fn literals_and_copies_come_out() {
        assert_eq!(decompressed(&[0, b'a', b'b'], 2), Some(b"ab".to_vec()));
        // "ab", then 6 bytes from 2 back: overlapping.
        let repeated = [0b100, b'a', b'b', 0x03, 2];
        assert_eq!(decompressed(&repeated, 8), Some(b"abababab".to_vec()));
        // One literal and 18 + 200 bytes from 1 back.
        let run = [0b10, b'x', 0x0f, 1, 200];
        assert_eq!(decompressed(&run, 219), Some(vec![b'x'; 219]));
        // The copy is cut where the output ends.
        assert_eq!(decompressed(&run, 100), Some(vec![b'x'; 100]));
    }

    #[test]
    fn damage_is_refused() {
        for (input, bytes) in [
            (&[0b1, 0x03, 1][..], 8),      // a copy of nothing
            (&[0b10, b'x', 0x03, 0], 8),   // from 0 back
            (&[0b10, b'x', 0x03, 2], 8),   // from before the start
            (&[0b10, b'x', 0x03], 8),      // cut short
            (&[0b10, b'x', 0x0f, 1], 100), // cut short
            (&[0, b'a', b'b', b'c'], 2),   // too much
        ] {
            assert_eq!(decompressed(input, bytes), None, "{input:?}");
        }
        assert_eq!(decompressed(&[0, b'a'], 2), Some(b"a".to_vec()));
    }
}
