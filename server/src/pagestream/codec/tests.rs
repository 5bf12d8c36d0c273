//! Byte vectors for every message of both versions.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| {
            let text = std::str::from_utf8(pair).expect("ascii");
            u8::from_str_radix(text, 16).expect("hex")
        })
        .collect()
}

const FORK: RelationFork = RelationFork {
    tablespace: 1663,
    database: 5,
    relation: 16384,
    fork: 1,
};
const ID: &str = "1122334455667788";
const LSNS: &str = "00000000016b3748 00000000016b0000";
const FORK_HEX: &str = "0000067f 00000005 00004000 01";

fn request(version: Version, tag: &str, body: &str) -> Vec<u8> {
    let id = if version == Version::V3 { ID } else { "" };
    bytes(&format!("{tag}{id}{LSNS}{body}"))
}

fn cases() -> Vec<(&'static str, String, Ask, usize)> {
    vec![
        ("00", FORK_HEX.to_owned(), Ask::Exists(FORK), 30),
        ("01", FORK_HEX.to_owned(), Ask::Nblocks(FORK), 30),
        (
            "02",
            format!("{FORK_HEX} 00000007"),
            Ask::GetPage(FORK, 7),
            34,
        ),
        ("03", "00000005".to_owned(), Ask::DbSize { database: 5 }, 21),
        (
            "04",
            "02 0000000a".to_owned(),
            Ask::GetSlruSegment {
                kind: 2,
                segment: 10,
            },
            22,
        ),
    ]
}

#[test]
fn every_request_of_both_versions_is_read() {
    for (tag, body, ask, bytes_v2) in cases() {
        for (version, want_bytes) in [(Version::V2, bytes_v2), (Version::V3, bytes_v2 + 8)] {
            let message = request(version, tag, &body);
            assert_eq!(message.len(), want_bytes, "{ask:?} {version:?}");
            let request = decode(version, &message).expect("well formed");
            assert_eq!(request.ask, ask);
            assert_eq!(request.request_lsn, Lsn(0x16b_3748));
            assert_eq!(request.not_modified_since, Lsn(0x16b_0000));
            match version {
                Version::V2 => assert_eq!(request.echo.whole(), b""),
                Version::V3 => assert_eq!(request.echo.whole(), &message[1..]),
            }
        }
    }
}

#[test]
fn a_request_of_any_other_length_is_refused() {
    for (tag, body, _, _) in cases() {
        for version in [Version::V2, Version::V3] {
            let message = request(version, tag, &body);
            for cut in 1..message.len() {
                let refused = decode(version, &message[..cut]);
                assert!(
                    matches!(refused, Err(MalformedRequest::Length { got_bytes, .. }) if got_bytes == cut),
                    "{refused:?}"
                );
            }
            let longer = [message.as_slice(), &[0]].concat();
            assert!(decode(version, &longer).is_err());
        }
    }
    assert_eq!(decode(Version::V2, b""), Err(MalformedRequest::Empty));
    for tag in 5..=255 {
        assert_eq!(
            decode(Version::V3, &[tag; 42]),
            Err(MalformedRequest::UnknownTag(tag))
        );
    }
}

fn echo(version: Version, tag: &str, body: &str) -> Echo {
    decode(version, &request(version, tag, body))
        .expect("well formed")
        .echo
}

fn written(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

#[test]
fn answers_of_version_2_have_no_echo() {
    let e = echo(Version::V2, "00", FORK_HEX);
    assert_eq!(
        written(|o| put_exists(o, &e, true)),
        bytes("64 00000006 64 01")
    );
    assert_eq!(
        written(|o| put_exists(o, &e, false)),
        bytes("64 00000006 64 00")
    );
    assert_eq!(
        written(|o| put_nblocks(o, &e, 258)),
        bytes("64 00000009 65 00000102")
    );
    assert_eq!(
        written(|o| put_db_size(o, &e, 8192)),
        bytes("64 0000000d 68 0000000000002000")
    );
    assert_eq!(
        written(|o| put_error(o, &e, "no")),
        bytes("64 00000008 67 6e6f 00")
    );
    let page = [0xab; PAGE_BYTES];
    let out = written(|o| put_page(o, &e, &page));
    assert_eq!(out[..6], bytes("64 00002005 66"));
    assert_eq!(out[6..], page);
    let out = written(|o| put_slru_segment(o, &e, &[0xcd; 2 * PAGE_BYTES]));
    assert_eq!(out[..10], bytes("64 00004009 69 00000002"));
    assert_eq!(out[10..], [0xcd; 2 * PAGE_BYTES]);
}

#[test]
fn answers_of_version_3_echo_the_request_exactly() {
    let header = format!("{ID}{LSNS}");
    let e = echo(Version::V3, "00", FORK_HEX);
    assert_eq!(
        written(|o| put_exists(o, &e, true)),
        bytes(&format!("64 0000002b 64 {header} {FORK_HEX} 01"))
    );
    assert_eq!(
        written(|o| put_nblocks(o, &e, 258)),
        bytes(&format!("64 0000002e 65 {header} {FORK_HEX} 00000102"))
    );
    let e = echo(Version::V3, "03", "00000005");
    assert_eq!(
        written(|o| put_db_size(o, &e, 8192)),
        bytes(&format!(
            "64 00000029 68 {header} 00000005 0000000000002000"
        ))
    );
    let e = echo(Version::V3, "04", "020000000a");
    let out = written(|o| put_slru_segment(o, &e, &[0xcd; PAGE_BYTES]));
    let head = bytes(&format!("64 00002026 69 {header} 02 0000000a 00000001"));
    assert_eq!(out[..head.len()], head);
    assert_eq!(out[head.len()..], [0xcd; PAGE_BYTES]);

    let e = echo(Version::V3, "02", &format!("{FORK_HEX} 00000007"));
    let page = [0xab; PAGE_BYTES];
    let out = written(|o| put_page(o, &e, &page));
    let head = bytes(&format!("64 0000202e 66 {header} {FORK_HEX} 00000007"));
    assert_eq!(out[..head.len()], head);
    assert_eq!(out[head.len()..], page);
    assert_eq!(out.len() - FRAME_HEAD_BYTES, 8234);
    assert_eq!(out.len(), PAGE_ANSWER_BYTES_MAX);
}

#[test]
fn an_error_of_version_3_echoes_the_header_only_and_ends_at_the_first_nul() {
    let e = echo(Version::V3, "02", &format!("{FORK_HEX} 00000007"));
    let want = bytes(&format!("64 00000020 67 {ID}{LSNS} 6e6f 00"));
    assert_eq!(written(|o| put_error(o, &e, "no")), want);
    assert_eq!(written(|o| put_error(o, &e, "no\0pe")), want);
    let long = "ä".repeat(ERROR_TEXT_BYTES_MAX);
    let out = written(|o| put_error(o, &e, &long));
    assert_eq!(out.len(), 5 + 1 + 24 + ERROR_TEXT_BYTES_MAX + 1);
    assert!(std::str::from_utf8(&out[30..out.len() - 1]).is_ok());
}

#[test]
fn writing_pages_into_room_that_is_there_allocates_nothing() {
    let e = echo(Version::V3, "02", &format!("{FORK_HEX} 00000007"));
    let mut out = Vec::with_capacity(4 * PAGE_ANSWER_BYTES_MAX);
    let (start, capacity) = (out.as_ptr(), out.capacity());
    for _ in 0..4 {
        put_page(&mut out, &e, &[1; PAGE_BYTES]);
    }
    assert_eq!((out.as_ptr(), out.capacity()), (start, capacity));
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20_000_usize {
        let message: Vec<u8> = (0..round % 64)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56).to_le_bytes()[0] % 8
            })
            .collect();
        for version in [Version::V2, Version::V3] {
            if let Ok(request) = decode(version, &message) {
                let echoed = request.echo.whole().len();
                assert!(echoed == 0 || echoed == message.len() - 1);
            }
        }
    }
}
