//! The messages inside a pagestream, versions 2 and 3. Integers are big-endian. This file is the only description of
//! these bytes; it knows nothing of sockets, branches or pages, and allocates nothing once the output has room.
//!
//! A request: tag u8, request id u64 (version 3 only), request LSN u64, not-modified-since LSN u64, then the body:
//!
//! | tag | request        | body                                                  | bytes in v2 / v3 |
//! | --: | -------------- | ----------------------------------------------------- | ---------------: |
//! |   0 | Exists         | tablespace u32, database u32, relation u32, fork u8   |          30 / 38 |
//! |   1 | Nblocks        | as Exists                                             |          30 / 38 |
//! |   2 | GetPage        | as Exists, block u32                                  |          34 / 42 |
//! |   3 | DbSize         | database u32                                          |          21 / 29 |
//! |   4 | GetSlruSegment | kind u8, segment u32                                  |          22 / 30 |
//!
//! A response: tag u8; in version 3 all of the request behind its tag, exactly as it came (for an error: its header
//! only); then the payload:
//!
//! | tag | response       | payload                                   |
//! | --: | -------------- | ----------------------------------------- |
//! | 100 | Exists         | u8                                        |
//! | 101 | Nblocks        | u32                                       |
//! | 102 | GetPage        | 8192 bytes                                |
//! | 103 | Error          | text and a NUL                            |
//! | 104 | DbSize         | i64, bytes                                |
//! | 105 | GetSlruSegment | block count u32, blocks of 8192 bytes     |
//!
//! Responses are written as CopyData frames (`d`, length i32 that counts itself), since that is the only way they travel.
//! A client crashes on an echo that differs by a bit, so the echo is the request's own bytes, never re-encoded.

use std::fmt;

use engine::types::{Lsn, PAGE_BYTES};

/// Which of the two dialects a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// No request ids, no echo.
    V2,
    /// Every response echoes its request.
    V3,
}

impl Version {
    /// Bytes of tag and header together.
    const fn header_bytes(self) -> usize {
        match self {
            Version::V2 => HEADER_BYTES_V2,
            Version::V3 => HEADER_BYTES_V2 + REQUEST_ID_BYTES,
        }
    }
}

/// One fork of one relation, as the wire names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RelationFork {
    /// Oid of the tablespace.
    pub tablespace: u32,
    /// Oid of the database; 0 for shared relations.
    pub database: u32,
    /// The relation's file number.
    pub relation: u32,
    /// 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Whether the fork is there.
    Exists(RelationFork),
    /// How many blocks it has.
    Nblocks(RelationFork),
    /// One page.
    GetPage(RelationFork, u32),
    /// Bytes of the relations of a database in the default tablespace.
    DbSize {
        /// Oid of the database.
        database: u32,
    },
    /// All blocks of one SLRU segment.
    GetSlruSegment {
        /// 0 clog, 1 multixact members, 2 multixact offsets; others are refused later, by name.
        kind: u8,
        /// Number of the segment.
        segment: u32,
    },
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Exists(rel) => write!(f, "look for {rel}"),
            Ask::Nblocks(rel) => write!(f, "size of {rel}"),
            Ask::GetPage(rel, block) => write!(f, "read {rel} block {block}"),
            Ask::DbSize { database } => write!(f, "size of database {database}"),
            Ask::GetSlruSegment { kind, segment } => {
                write!(f, "read SLRU {kind} segment {segment}")
            }
        }
    }
}

impl fmt::Display for RelationFork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RelationFork {
            tablespace,
            database,
            relation,
            fork,
        } = self;
        write!(f, "relation {tablespace}/{database}/{relation} fork {fork}")
    }
}

/// One request, with the bytes that its response must echo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked.
    pub ask: Ask,
    /// Read at this LSN or at the last ingested, whichever is lower.
    pub request_lsn: Lsn,
    /// The client's word that nothing changed between here and `request_lsn`.
    pub not_modified_since: Lsn,
    /// What the response begins with, behind its tag.
    pub echo: Echo,
}

/// The part of a request that its response repeats; empty in version 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Echo {
    bytes: [u8; ECHO_BYTES_MAX],
    whole: u8,
    header: u8,
}

impl Echo {
    /// The echo of version 2: nothing.
    pub const NONE: Echo = Echo {
        bytes: [0; ECHO_BYTES_MAX],
        whole: 0,
        header: 0,
    };

    fn of(version: Version, message: &[u8]) -> Echo {
        if version == Version::V2 {
            return Echo::NONE;
        }
        let mut echo = Echo::NONE;
        let rest = &message[1..];
        echo.bytes[..rest.len()].copy_from_slice(rest);
        echo.whole = u8::try_from(rest.len()).expect("requests are at most 42 bytes");
        echo.header = u8::try_from(version.header_bytes() - 1).expect("headers are 25 bytes");
        echo
    }

    fn whole(&self) -> &[u8] {
        &self.bytes[..usize::from(self.whole)]
    }

    fn header(&self) -> &[u8] {
        &self.bytes[..usize::from(self.header)]
    }
}

/// Why bytes are not a request. The connection that sent them is out of step and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedRequest {
    /// No bytes at all.
    #[error("pagestream request: empty message")]
    Empty,
    /// A tag outside the table.
    #[error("pagestream request: unknown tag {0}")]
    UnknownTag(u8),
    /// Too short or too long for its tag.
    #[error("pagestream request: tag {tag} with {got_bytes} bytes, expected {want_bytes}")]
    Length {
        /// The tag.
        tag: u8,
        /// What the table says.
        want_bytes: usize,
        /// What came.
        got_bytes: usize,
    },
}

/// Reads one request: the content of one CopyData message, no more and no less.
pub fn decode(version: Version, message: &[u8]) -> Result<Request, MalformedRequest> {
    let (&tag, _) = message.split_first().ok_or(MalformedRequest::Empty)?;
    let body_bytes = match tag {
        TAG_EXISTS | TAG_NBLOCKS => RELATION_FORK_BYTES,
        TAG_GET_PAGE => RELATION_FORK_BYTES + 4,
        TAG_DB_SIZE => 4,
        TAG_GET_SLRU_SEGMENT => 5,
        other => return Err(MalformedRequest::UnknownTag(other)),
    };
    let want_bytes = version.header_bytes() + body_bytes;
    if message.len() != want_bytes {
        return Err(MalformedRequest::Length {
            tag,
            want_bytes,
            got_bytes: message.len(),
        });
    }
    let (header, body) = message.split_at(version.header_bytes());
    let lsns_at = header.len() - 2 * LSN_BYTES;
    let ask = match tag {
        TAG_EXISTS => Ask::Exists(relation_fork(body)),
        TAG_NBLOCKS => Ask::Nblocks(relation_fork(body)),
        TAG_GET_PAGE => Ask::GetPage(relation_fork(body), u32_at(body, RELATION_FORK_BYTES)),
        TAG_DB_SIZE => Ask::DbSize {
            database: u32_at(body, 0),
        },
        _ => Ask::GetSlruSegment {
            kind: body[0],
            segment: u32_at(body, 1),
        },
    };
    Ok(Request {
        ask,
        request_lsn: lsn_at(header, lsns_at),
        not_modified_since: lsn_at(header, lsns_at + LSN_BYTES),
        echo: Echo::of(version, message),
    })
}

/// Appends the answer to an Exists.
pub fn put_exists(out: &mut Vec<u8>, echo: &Echo, exists: bool) {
    put_head(out, TAG_EXISTS_ANSWER, echo.whole(), 1);
    out.push(u8::from(exists));
}

/// Appends the answer to an Nblocks.
pub fn put_nblocks(out: &mut Vec<u8>, echo: &Echo, blocks: u32) {
    put_head(out, TAG_NBLOCKS_ANSWER, echo.whole(), 4);
    out.extend_from_slice(&blocks.to_be_bytes());
}

/// Appends the answer to a GetPage. The page's own bytes are copied once, here.
pub fn put_page(out: &mut Vec<u8>, echo: &Echo, page: &[u8; PAGE_BYTES]) {
    put_head(out, TAG_GET_PAGE_ANSWER, echo.whole(), PAGE_BYTES);
    out.extend_from_slice(page);
}

/// Appends the answer to a DbSize.
pub fn put_db_size(out: &mut Vec<u8>, echo: &Echo, size_bytes: i64) {
    put_head(out, TAG_DB_SIZE_ANSWER, echo.whole(), 8);
    out.extend_from_slice(&size_bytes.to_be_bytes());
}

/// Appends the answer to a GetSlruSegment. `blocks` is a whole number of pages, at most [`SLRU_BLOCKS_MAX`].
pub fn put_slru_segment(out: &mut Vec<u8>, echo: &Echo, blocks: &[u8]) {
    assert!(blocks.len().is_multiple_of(PAGE_BYTES), "whole blocks");
    assert!(
        blocks.len() <= SLRU_BLOCKS_MAX * PAGE_BYTES,
        "a segment has at most 32 blocks"
    );
    let count = u32::try_from(blocks.len() / PAGE_BYTES).expect("at most 32, asserted above");
    put_head(
        out,
        TAG_GET_SLRU_SEGMENT_ANSWER,
        echo.whole(),
        4 + blocks.len(),
    );
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(blocks);
}

/// Appends an error answer: the connection stays in step. A NUL inside `text` would end it early, so it is cut there.
pub fn put_error(out: &mut Vec<u8>, echo: &Echo, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    let cut = text.floor_char_boundary(ERROR_TEXT_BYTES_MAX);
    let text = &text.as_bytes()[..cut];
    put_head(out, TAG_ERROR_ANSWER, echo.header(), text.len() + 1);
    out.extend_from_slice(text);
    out.push(0);
}

/// Bytes that the answer to one GetPage takes in the output, framing included.
pub const PAGE_ANSWER_BYTES_MAX: usize = FRAME_HEAD_BYTES + 1 + ECHO_BYTES_MAX + PAGE_BYTES;

/// Blocks of one SLRU segment, as Postgres cuts them.
pub const SLRU_BLOCKS_MAX: usize = 32;

fn put_head(out: &mut Vec<u8>, tag: u8, echo: &[u8], payload_bytes: usize) {
    let frame_bytes = 4 + 1 + echo.len() + payload_bytes;
    let frame_bytes = u32::try_from(frame_bytes).expect("the largest answer is 262,190 bytes");
    out.push(b'd');
    out.extend_from_slice(&frame_bytes.to_be_bytes());
    out.push(tag);
    out.extend_from_slice(echo);
}

fn relation_fork(body: &[u8]) -> RelationFork {
    RelationFork {
        tablespace: u32_at(body, 0),
        database: u32_at(body, 4),
        relation: u32_at(body, 8),
        fork: body[12],
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].first_chunk().expect("four bytes");
    u32::from_be_bytes(*field)
}

fn lsn_at(bytes: &[u8], at: usize) -> Lsn {
    let field = bytes[at..at + LSN_BYTES]
        .first_chunk()
        .expect("eight bytes");
    Lsn(u64::from_be_bytes(*field))
}

const TAG_EXISTS: u8 = 0;
const TAG_NBLOCKS: u8 = 1;
const TAG_GET_PAGE: u8 = 2;
const TAG_DB_SIZE: u8 = 3;
const TAG_GET_SLRU_SEGMENT: u8 = 4;
const TAG_EXISTS_ANSWER: u8 = 100;
const TAG_NBLOCKS_ANSWER: u8 = 101;
const TAG_GET_PAGE_ANSWER: u8 = 102;
const TAG_ERROR_ANSWER: u8 = 103;
const TAG_DB_SIZE_ANSWER: u8 = 104;
const TAG_GET_SLRU_SEGMENT_ANSWER: u8 = 105;

const LSN_BYTES: usize = 8;
const REQUEST_ID_BYTES: usize = 8;
const HEADER_BYTES_V2: usize = 1 + 2 * LSN_BYTES;
const RELATION_FORK_BYTES: usize = 13;
const FRAME_HEAD_BYTES: usize = 5;
const ECHO_BYTES_MAX: usize = Version::V3.header_bytes() - 1 + RELATION_FORK_BYTES + 4;
/// Longer error texts are cut: a client shows one line.
const ERROR_TEXT_BYTES_MAX: usize = 1024;

const _: () = assert!(ECHO_BYTES_MAX == 41);
const _: () = assert!(PAGE_ANSWER_BYTES_MAX == FRAME_HEAD_BYTES + 8234);

#[cfg(test)]
mod tests;
