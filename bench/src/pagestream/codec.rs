//! Bytes of pagestream version 3, the client's side. Big-endian. Only GetPage is sent: it is what load is made of.

use crate::error::{BenchError, Result};

/// Bytes of one page.
pub(crate) const PAGE_BYTES: usize = 8192;

/// One block of a relation, as the protocol names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RelationPage {
    pub(crate) tablespace: u32,
    pub(crate) database: u32,
    pub(crate) relation: u32,
    pub(crate) fork: u8,
    pub(crate) block: u32,
}

/// What a request carries behind its tag, and what its answer has to repeat.
pub(crate) type Echo = [u8; ECHO_BYTES];

/// Request id, request LSN, not-modified-since LSN, relation, block.
pub(crate) const ECHO_BYTES: usize = 3 * 8 + 3 * 4 + 1 + 4;
/// What an error repeats: the header only.
const ERROR_ECHO_BYTES: usize = 3 * 8;
/// CopyData's tag and length, the answer's tag, the echo, the page.
pub(crate) const PAGE_ANSWER_BYTES: usize = 5 + 1 + ECHO_BYTES + PAGE_BYTES;
/// CopyData's tag and length, the request's tag, the echo.
pub(crate) const REQUEST_BYTES: usize = 5 + 1 + ECHO_BYTES;
/// No answer to GetPage is longer; errors are far shorter.
const ANSWER_BYTES_MAX: usize = PAGE_ANSWER_BYTES;

pub(crate) const GET_PAGE: u8 = 2;
pub(crate) const ANSWER_PAGE: u8 = 102;
pub(crate) const ANSWER_ERROR: u8 = 103;

const _: () = assert!(ECHO_BYTES == 41 && PAGE_ANSWER_BYTES == 5 + 8234 && REQUEST_BYTES == 47);

/// The fields of a GetPage request in their order on the wire.
pub(crate) fn echo(request_id: u64, lsn: u64, not_modified_since: u64, page: RelationPage) -> Echo {
    let mut bytes = [0; ECHO_BYTES];
    bytes[0..8].copy_from_slice(&request_id.to_be_bytes());
    bytes[8..16].copy_from_slice(&lsn.to_be_bytes());
    bytes[16..24].copy_from_slice(&not_modified_since.to_be_bytes());
    bytes[24..28].copy_from_slice(&page.tablespace.to_be_bytes());
    bytes[28..32].copy_from_slice(&page.database.to_be_bytes());
    bytes[32..36].copy_from_slice(&page.relation.to_be_bytes());
    bytes[36] = page.fork;
    bytes[37..41].copy_from_slice(&page.block.to_be_bytes());
    bytes
}

/// The page that a request names.
pub(crate) fn page_of(echo: &Echo) -> RelationPage {
    let number =
        |at: usize| u32::from_be_bytes([echo[at], echo[at + 1], echo[at + 2], echo[at + 3]]);
    RelationPage {
        tablespace: number(24),
        database: number(28),
        relation: number(32),
        fork: echo[36],
        block: number(37),
    }
}

/// Appends a GetPage request in its CopyData.
pub(crate) fn put_request(out: &mut Vec<u8>, echo: &Echo) {
    out.push(b'd');
    out.extend_from_slice(&[0, 0, 0, 46]);
    out.push(GET_PAGE);
    out.extend_from_slice(echo);
}

/// One answer at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// The page that was asked for.
    Page(&'a [u8]),
    /// The server's refusal.
    Error(String),
}

/// The answer to `expected` at the start of `bytes`, and how many bytes it took; `None` if more bytes are to come.
///
/// # Errors
/// Anything else than an answer to that very request: a client that went on would count nonsense.
pub(crate) fn take_answer<'a>(
    bytes: &'a [u8],
    expected: &Echo,
) -> Result<Option<(Answer<'a>, usize)>> {
    let Some((&[tag, a, b, c, d], rest)) = bytes.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if tag == b'E' {
        let text = String::from_utf8_lossy(rest).replace('\0', " ");
        return refuse(format!("the server ended the stream: {text}"));
    }
    // The length counts itself, and the answer has at least its tag and a header.
    if tag != b'd' || !(4 + 1 + ERROR_ECHO_BYTES..=ANSWER_BYTES_MAX).contains(&length) {
        return refuse(format!("message {tag} of {length} bytes is no answer"));
    }
    let Some(body) = rest.get(..length - 4) else {
        return Ok(None);
    };
    let answer = match (body[0], &body[1..]) {
        (ANSWER_PAGE, fields) => match fields.split_first_chunk::<ECHO_BYTES>() {
            Some((echo, page)) if echo == expected && page.len() == PAGE_BYTES => {
                Answer::Page(page)
            }
            Some((echo, page)) if page.len() == PAGE_BYTES => {
                return refuse(format!(
                    "asked for {:?}, answered {:?}",
                    page_of(expected),
                    page_of(echo)
                ));
            }
            _ => return refuse(format!("a page answer of {length} bytes")),
        },
        (ANSWER_ERROR, fields) if fields[..ERROR_ECHO_BYTES] == expected[..ERROR_ECHO_BYTES] => {
            let text = fields[ERROR_ECHO_BYTES..]
                .split(|&byte| byte == 0)
                .next()
                .unwrap_or(&[]);
            Answer::Error(String::from_utf8_lossy(text).into_owned())
        }
        (tag, _) => return refuse(format!("answer {tag} to another request")),
    };
    Ok(Some((answer, length + 1)))
}

/// Which of `shards` owns a page for a sharded client: PostgreSQL's `hash_combine` of two murmur finalizers.
pub(crate) fn shard_of(page: RelationPage, stripe_blocks: u32, shards: u32) -> u32 {
    let a = murmur32(page.relation);
    let b = murmur32(page.block / stripe_blocks);
    let combined = a ^ b
        .wrapping_add(0x9e37_79b9)
        .wrapping_add(a << 6)
        .wrapping_add(a >> 2);
    combined % shards
}

fn murmur32(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}

fn refuse<T>(text: String) -> Result<T> {
    Err(BenchError::Protocol(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: RelationPage = RelationPage {
        tablespace: 1663,
        database: 5,
        relation: 16384,
        fork: 0,
        block: 7,
    };

    fn page_answer(echo: &Echo, fill: u8) -> Vec<u8> {
        let mut bytes = vec![b'd'];
        bytes.extend_from_slice(&8238u32.to_be_bytes());
        bytes.push(ANSWER_PAGE);
        bytes.extend_from_slice(echo);
        bytes.resize(PAGE_ANSWER_BYTES, fill);
        bytes
    }

    #[test]
    fn a_request_has_the_bytes_of_the_protocol() {
        let mut out = Vec::new();
        let echo = echo(9, u64::MAX, 0x0102, PAGE);
        put_request(&mut out, &echo);
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "640000002e02\
             0000000000000009ffffffffffffffff0000000000000102\
             0000067f000000050000400000\
             00000007"
        );
        assert_eq!(page_of(&echo), PAGE);
    }

    #[test]
    fn answers_are_taken_whole_and_only_for_the_request_that_was_made() {
        let echo = echo(1, 2, 3, PAGE);
        let bytes = page_answer(&echo, 0xab);
        for cut in [0, 4, 5, 46, PAGE_ANSWER_BYTES - 1] {
            assert_eq!(
                take_answer(&bytes[..cut], &echo).expect("a part is no error"),
                None
            );
        }
        let two = [bytes.clone(), bytes.clone()].concat();
        let (answer, taken) = take_answer(&two, &echo).expect("valid").expect("whole");
        assert_eq!(answer, Answer::Page(&[0xab; PAGE_BYTES]));
        assert_eq!(taken, PAGE_ANSWER_BYTES);

        let other = super::echo(1, 2, 3, RelationPage { block: 8, ..PAGE });
        assert!(take_answer(&bytes, &other).is_err(), "the wrong block");
        let mut short = bytes.clone();
        short[1..5].copy_from_slice(&8000u32.to_be_bytes());
        assert!(take_answer(&short, &echo).is_err(), "a short page");
        let mut long = bytes;
        long[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(take_answer(&long, &echo).is_err(), "an endless message");
    }

    #[test]
    fn an_error_answer_echoes_the_header_only() {
        let echo = echo(1, 2, 3, PAGE);
        let mut bytes = vec![b'd'];
        let text = b"no such branch\0";
        bytes.extend_from_slice(
            &u32::try_from(4 + 1 + 24 + text.len())
                .expect("short")
                .to_be_bytes(),
        );
        bytes.push(ANSWER_ERROR);
        bytes.extend_from_slice(&echo[..24]);
        bytes.extend_from_slice(text);
        let (answer, taken) = take_answer(&bytes, &echo).expect("valid").expect("whole");
        assert_eq!(answer, Answer::Error("no such branch".to_owned()));
        assert_eq!(taken, bytes.len());
    }

    #[test]
    fn stripes_of_a_relation_spread_over_the_shards() {
        let mut counts = [0u32; 4];
        for block in (0..4_000_000).step_by(1024) {
            let shard = shard_of(RelationPage { block, ..PAGE }, 1024, 4);
            assert_eq!(
                shard,
                shard_of(
                    RelationPage {
                        block: block + 1023,
                        ..PAGE
                    },
                    1024,
                    4
                )
            );
            counts[usize::try_from(shard).expect("below four")] += 1;
        }
        // 977 each; sigma 27.
        assert!(
            counts.iter().all(|&c| (850..1110).contains(&c)),
            "{counts:?}"
        );
    }
}
