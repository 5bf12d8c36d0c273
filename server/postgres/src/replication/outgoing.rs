//! What a receiver has to send: bytes under way, and one report behind them. Bounded: of two reports that wait, the newer one
//! is sent.

use std::io;

use super::message::COPY_DATA;
use super::socket::Socket;
use super::wal_messages::{REPORT_BYTES, Report};

#[derive(Default)]
pub(super) struct Outgoing {
    /// Messages under way.
    bytes: Vec<u8>,
    /// The report behind them.
    waiting: Option<Report>,
    /// The newest report.
    last: Report,
}

impl Outgoing {
    /// Puts a report in the place of one that waits.
    pub(super) fn put(&mut self, report: Report) {
        let asks_already = self.waiting.is_some_and(|waiting| waiting.reply_requested);
        self.last = report;
        self.waiting = Some(Report {
            reply_requested: report.reply_requested || asks_already,
            ..report
        });
    }

    /// A message without content, behind the report that waits.
    pub(super) fn put_message(&mut self, tag: u8) {
        self.take_waiting();
        self.bytes.push(tag);
        self.bytes.extend(4_u32.to_be_bytes());
    }

    /// The newest report that was put.
    pub(super) fn last(&self) -> Report {
        self.last
    }

    fn take_waiting(&mut self) {
        if let Some(report) = self.waiting.take() {
            let content = report.encode();
            self.bytes.push(COPY_DATA);
            self.bytes.extend(COPY_DATA_LENGTH.to_be_bytes());
            self.bytes.extend(content);
        }
    }

    /// Whether there is something to be sent.
    pub(super) fn is_pending(&self, socket: &Socket) -> bool {
        !self.bytes.is_empty() || self.waiting.is_some() || socket.has_unsent()
    }

    /// Sends all; `WouldBlock` if the socket does not take it.
    pub(super) fn send(&mut self, socket: &mut Socket) -> io::Result<()> {
        loop {
            if self.bytes.is_empty() {
                self.take_waiting();
            }
            if self.bytes.is_empty() {
                return socket.flush();
            }
            let count = socket.write(&self.bytes)?;
            self.bytes.drain(..count);
        }
    }
}

/// Length of the message that a report goes out in: itself, and the report.
const COPY_DATA_LENGTH: u32 = 4 + 34;
const _: () = assert!(COPY_DATA_LENGTH as usize == 4 + REPORT_BYTES);
