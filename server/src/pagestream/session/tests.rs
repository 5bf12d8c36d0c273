use super::*;

const TENANT: &str = "0123456789abcdef0123456789abcdef";

fn send(session: &mut Session, tag: u8, body: &[u8]) -> (Next, Vec<u8>) {
    let mut out = Vec::new();
    let frame = Frame {
        tag,
        body,
        consumed_bytes: 5 + body.len(),
    };
    let next = session.message(frame, &mut out).expect("well formed");
    (next, out)
}

fn query(session: &mut Session, text: &str) -> (Next, Vec<u8>) {
    send(session, b'Q', format!("{text}\0").as_bytes())
}

fn asked(next: Next) -> Pagestream {
    match next {
        Next::Pagestream(ask) => ask,
        other => panic!("{other:?} is not a pagestream"),
    }
}

#[test]
fn pagestreams_are_asked_for_by_id_or_name_in_any_case() {
    let mut session = Session::default();
    let text = format!("PageStream_V3 {TENANT}-0104 main;");
    let ask = asked(query(&mut session, &text).0);
    assert_eq!(
        (ask.version, ask.tenant.as_str(), ask.branch.as_str()),
        (Version::V3, TENANT, "main")
    );
    let ask = asked(query(&mut session, "pagestream_v2 acme-0104 main").0);
    assert_eq!(
        (ask.version, ask.tenant.as_str()),
        (Version::V2, "acme-0104")
    );
}

#[test]
fn what_is_not_supported_says_so_and_the_session_goes_on() {
    let mut session = Session::default();
    for (text, code) in [
        ("basebackup a b", "0A000"),
        ("fullbackup a b", "0A000"),
        ("lease lsn a b 0/1", "0A000"),
        ("select 1", "42601"),
        ("pagestream_v3 a", "42601"),
        ("pagestream_v3 a b c", "42601"),
    ] {
        let (next, out) = query(&mut session, text);
        assert_eq!(next, Next::More);
        assert!(
            out.windows(5).any(|w| w == code.as_bytes()),
            "{text}: {out:?}"
        );
        assert!(out.ends_with(b"Z\0\0\0\x05I"));
    }
    assert_eq!(
        query(&mut session, "SET x = 1").1,
        b"C\0\0\0\x08SET\0Z\0\0\0\x05I"
    );
    assert_eq!(query(&mut session, " ; ").1, b"I\0\0\0\x04Z\0\0\0\x05I");
}

#[test]
fn the_extended_protocol_reaches_the_same_commands() {
    let mut session = Session::default();
    let parse = format!("s0\0pagestream_v3 {TENANT} main\0\0\0");
    assert_eq!(send(&mut session, b'P', parse.as_bytes()).1, b"1\0\0\0\x04");
    assert_eq!(
        send(&mut session, b'D', b"Ss0\0").1,
        b"t\0\0\0\x06\0\0n\0\0\0\x04"
    );
    assert_eq!(send(&mut session, b'S', b"").1, b"Z\0\0\0\x05I");
    assert_eq!(
        send(&mut session, b'B', b"\0s0\0\0\0\0\0\0\x01\0\0").1,
        b"2\0\0\0\x04"
    );
    let ask = asked(send(&mut session, b'E', b"\0\0\0\0\0").0);
    assert_eq!(ask.branch, "main");
    let mut out = Vec::new();
    session.pagestream_done(&ask, &mut out);
    assert_eq!(out, b"c\0\0\0\x04C\0\0\0\x0bCOPY 0\0");
    assert_eq!(send(&mut session, b'C', b"Ss0\0").1, b"3\0\0\0\x04");
}

#[test]
fn after_an_error_everything_up_to_sync_is_skipped() {
    let mut session = Session::default();
    let (_, out) = send(&mut session, b'P', b"s0\0basebackup a b\0\0\0");
    assert_eq!(out[0], b'E');
    assert!(send(&mut session, b'D', b"Ss0\0").1.is_empty());
    assert!(send(&mut session, b'B', b"\0s0\0").1.is_empty());
    assert_eq!(send(&mut session, b'S', b"").1, b"Z\0\0\0\x05I");
    let (_, out) = send(&mut session, b'B', b"\0s0\0");
    assert!(out.windows(5).any(|w| w == b"26000"));
}

#[test]
fn statements_are_bounded() {
    let mut session = Session::default();
    for number in 0..STATEMENTS_MAX {
        let parse = format!("s{number}\0set x\0\0\0");
        assert_eq!(send(&mut session, b'P', parse.as_bytes()).1[0], b'1');
    }
    let (_, out) = send(&mut session, b'P', b"more\0set x\0\0\0");
    assert!(out.windows(5).any(|w| w == b"53400"));
}

#[test]
fn a_malformed_message_ends_the_connection() {
    for (tag, body) in [
        (b'Q', &b"no nul"[..]),
        (b'D', b"Xs0\0"),
        (b'C', b""),
        (b'?', b""),
    ] {
        let frame = Frame {
            tag,
            body,
            consumed_bytes: 5 + body.len(),
        };
        let mut out = Vec::new();
        assert!(Session::default().message(frame, &mut out).is_err());
    }
}
