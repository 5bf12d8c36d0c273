//! What a connection has received and not yet read: one buffer, made with the connection and reused for all it sends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use futures_util::AsyncRead;

/// A receive buffer of fixed size.
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// An empty buffer of `capacity_bytes`, which must be able to hold the longest frame.
    pub(super) fn new(capacity_bytes: usize) -> Inbox {
        Inbox {
            buffer: vec![0; capacity_bytes].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// What was received and not consumed.
    pub(super) fn received(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Drops the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "only what was received");
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Receives more; 0 bytes mean that the client will send nothing any more.
    /// # Panics
    /// If the buffer is full.
    pub(super) fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 && self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let free = &mut self.buffer[self.end..];
        assert!(!free.is_empty(), "frames are shorter than the buffer");
        let count = ready!(Pin::new(stream).poll_read(cx, free))?;
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} bytes)", self.end - self.start)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::io::Cursor;
    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_the_pieces() {
        let sent: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let mut stream = Cursor::new(sent.clone());
        let mut inbox = Inbox::new(64);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut got = Vec::new();
        for round in 0.. {
            let count = match inbox.poll_receive(&mut stream, &mut cx) {
                Poll::Ready(count) => count.expect("a cursor never fails"),
                Poll::Pending => unreachable!("a cursor is always ready"),
            };
            if count == 0 {
                break;
            }
            let take = (round % 50 + 14).min(inbox.received().len());
            got.extend_from_slice(&inbox.received()[..take]);
            inbox.consume(take);
        }
        got.extend_from_slice(inbox.received());
        assert_eq!(got, sent);
    }
}
