//! What a connection has to send: answers are appended, and go out as many at once as there are.

use std::future::poll_fn;
use std::io;

use super::transport::Transport;

/// Bytes for the client.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// What is to be sent next; append to it.
    pub(super) bytes: Vec<u8>,
    /// Some of `bytes` may be sent already: after a write that was given up nothing may follow it, or the client
    /// would take the new bytes for the rest of the frame that it has half of.
    sending: bool,
}

impl Outbox {
    /// Whether a write was given up, so that nothing may be sent any more.
    pub(super) fn is_cut_off(&self) -> bool {
        self.sending
    }

    /// Puts everything on its way and says how many bytes that was. It waits until the client has made room for what was
    /// posted before, no longer: `flush` of the stream tells when the kernel has all of it.
    ///
    /// # Cancellation
    /// Dropping the future cuts the outbox off: see [`is_cut_off`](Self::is_cut_off).
    /// # Panics
    /// If it is cut off.
    pub(super) async fn post<S: Transport>(&mut self, stream: &mut S) -> io::Result<usize> {
        assert!(!self.sending, "nothing follows a write that was given up");
        let posted = self.bytes.len();
        self.sending = true;
        poll_fn(|cx| stream.poll_send(cx, &mut self.bytes)).await?;
        self.sending = false;
        Ok(posted)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll};

    use futures_util::task::noop_waker;
    use futures_util::{AsyncRead, AsyncWrite};

    use super::super::transport::poll_write_all;
    use super::*;

    /// Takes `room` bytes and then none.
    struct Slow {
        room: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Slow {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            unreachable!("nothing is read here")
        }
    }

    impl Transport for Slow {
        fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<()>> {
            poll_write_all(self, cx, bytes)
        }
    }

    #[test]
    fn a_write_that_is_given_up_cuts_the_outbox_off() {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut stream = Slow {
            room: 8,
            taken: Vec::new(),
        };
        let mut out = Outbox::default();
        out.bytes.extend_from_slice(b"whole");
        {
            let mut sending = pin!(out.post(&mut stream));
            let sent = sending.as_mut().poll(&mut cx);
            assert!(matches!(sent, Poll::Ready(Ok(5))));
        }
        assert!(!out.is_cut_off() && out.bytes.is_empty());
        out.bytes.extend_from_slice(b"halved");
        {
            let mut sending = pin!(out.post(&mut stream));
            assert!(sending.as_mut().poll(&mut cx).is_pending());
        }
        assert!(out.is_cut_off());
        assert_eq!(stream.taken, b"wholehal");
    }
}
