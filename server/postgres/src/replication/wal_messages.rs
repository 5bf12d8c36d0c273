//! What goes both ways in a stream of WAL, each the content of a CopyData. Big-endian; times are microseconds since
//! 2000-01-01 UTC.
//!
//! | from | tag | fields |
//! |---|---|---|
//! | server | `w` | position of the bytes (8), end of the server's WAL (8), its time (8), bytes of WAL |
//! | server | `k` | end of the WAL it has sent (8), its time (8), 1 if it wants an answer at once (1) |
//! | us | `r` | written (8), flushed (8), applied (8), our time (8), 1 if we want an answer at once (1) |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::types::Lsn;

use crate::bytes_at::array_at;

/// A message of the server.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum WalMessage<'a> {
    Wal {
        start: Lsn,
        server_end: Lsn,
        sent_at: SystemTime,
        bytes: &'a [u8],
    },
    Keepalive {
        server_end: Lsn,
        sent_at: SystemTime,
        wants_reply: bool,
    },
}

impl WalMessage<'_> {
    /// Takes a message apart; `None` if it is none.
    pub(super) fn decode(message: &[u8]) -> Option<WalMessage<'_>> {
        let lsn_at = |at| array_at(message, at).map(u64::from_be_bytes).map(Lsn);
        let time_at = |at| array_at(message, at).map(i64::from_be_bytes).map(from_wire);
        match message.first()? {
            b'w' => Some(WalMessage::Wal {
                start: lsn_at(1)?,
                server_end: lsn_at(9)?,
                sent_at: time_at(17)?,
                bytes: message.get(25..)?,
            }),
            b'k' => Some(WalMessage::Keepalive {
                server_end: lsn_at(1)?,
                sent_at: time_at(9)?,
                wants_reply: *message.get(17)? != 0,
            }),
            _ => None,
        }
    }
}

/// How far a standby is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Everything before this was received.
    pub write: Lsn,
    /// Everything before this is durable: the server lets commits return, and moves the slot of the connection on.
    pub flush: Lsn,
    /// Everything before this can be read.
    pub apply: Lsn,
    /// The server shall answer at once.
    pub reply_requested: bool,
}

impl Report {
    pub(super) fn encode(&self) -> [u8; REPORT_BYTES] {
        let mut message = [0; REPORT_BYTES];
        message[0] = b'r';
        for (at, position) in [(1, self.write), (9, self.flush), (17, self.apply)] {
            message[at..at + 8].copy_from_slice(&position.0.to_be_bytes());
        }
        message[25..33].copy_from_slice(&to_wire(now()).to_be_bytes());
        message[33] = self.reply_requested.into();
        message
    }
}

pub(super) const REPORT_BYTES: usize = 34;

#[expect(
    clippy::disallowed_methods,
    reason = "the server shows the time of a report to people; nothing depends on it"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(EPOCH_UNIX_SECONDS)
}

fn from_wire(microseconds: i64) -> SystemTime {
    let distance = Duration::from_micros(microseconds.unsigned_abs());
    let moment = if microseconds < 0 {
        epoch().checked_sub(distance)
    } else {
        epoch().checked_add(distance)
    };
    moment.unwrap_or_else(epoch)
}

fn to_wire(moment: SystemTime) -> i64 {
    match moment.duration_since(epoch()) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        // The clock of this machine was never set.
        Err(_) => 0,
    }
}

/// 2000-01-01.
const EPOCH_UNIX_SECONDS: u64 = 946_684_800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_server_are_taken_apart() {
        let mut wal = vec![b'w'];
        wal.extend(0x16_0000_0028_u64.to_be_bytes());
        wal.extend(0x16_0000_1000_u64.to_be_bytes());
        wal.extend(1_500_000_i64.to_be_bytes());
        wal.extend(b"abc");
        let expected = WalMessage::Wal {
            start: Lsn(0x16_0000_0028),
            server_end: Lsn(0x16_0000_1000),
            sent_at: epoch() + Duration::from_millis(1500),
            bytes: b"abc",
        };
        assert_eq!(WalMessage::decode(&wal), Some(expected));
        let mut keepalive = vec![b'k'];
        keepalive.extend(7_u64.to_be_bytes());
        keepalive.extend((-1_i64).to_be_bytes());
        assert_eq!(WalMessage::decode(&keepalive), None, "cut short");
        keepalive.push(1);
        let expected = WalMessage::Keepalive {
            server_end: Lsn(7),
            sent_at: epoch() - Duration::from_micros(1),
            wants_reply: true,
        };
        assert_eq!(WalMessage::decode(&keepalive), Some(expected));
        for nonsense in [[].as_slice(), b"w", b"x12345678901234567890"] {
            assert_eq!(WalMessage::decode(nonsense), None);
        }
    }

    #[test]
    fn times_that_no_clock_shows_are_no_panic() {
        assert!(from_wire(i64::MIN) <= epoch());
        assert!(from_wire(i64::MAX) >= epoch());
        assert_eq!(to_wire(from_wire(1_234_567)), 1_234_567);
        assert_eq!(to_wire(UNIX_EPOCH), 0);
    }

    #[test]
    fn a_report_has_its_fields_where_the_server_reads_them() {
        let report = Report {
            write: Lsn(0x0102),
            flush: Lsn(0x0304),
            apply: Lsn(0x0506),
            reply_requested: true,
        };
        let message = report.encode();
        assert_eq!(message[..9], [b'r', 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((message[16], message[24], message[33]), (4, 6, 1));
    }
}
