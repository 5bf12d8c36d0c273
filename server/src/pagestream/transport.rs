//! What a connection needs of its stream besides reading and writing: a way to hand over what is to be sent, buffer and
//! all, so that a page is copied once on its way from the shard to the kernel, not twice.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use engine::io::ring_net::TcpStream;
use futures_rustls::server::TlsStream;
use futures_util::{AsyncRead, AsyncWrite};

/// A stream of a connection.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Takes all of `bytes`, which is empty afterwards; they are on their way then, without any further call. Between calls that are pending, what is
    /// left in `bytes` is what has not been taken.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<()>>;
}

impl Transport for TcpStream {
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<()>> {
        TcpStream::poll_send(self, cx, bytes)
    }
}

/// What is sent is copied all the same, by its encryption. And it is waited for: what the encryption has taken is on its way
/// only as far as the socket had room, and nobody else would push the rest.
impl<S: AsyncRead + AsyncWrite + Unpin> Transport for TlsStream<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<()>> {
        ready!(poll_write_all(self, cx, bytes))?;
        Pin::new(self).poll_flush(cx)
    }
}

/// Writes `bytes` from the front and drops what was written.
pub(super) fn poll_write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bytes: &mut Vec<u8>,
) -> Poll<io::Result<()>> {
    let mut written = 0;
    let outcome = loop {
        if written == bytes.len() {
            break Poll::Ready(Ok(()));
        }
        match Pin::new(&mut *stream).poll_write(cx, &bytes[written..]) {
            Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => written += count,
            Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
            Poll::Pending => break Poll::Pending,
        }
    };
    bytes.drain(..written);
    outcome
}
