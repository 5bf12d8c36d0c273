//! TCP through the ring of a core: listeners that share a port, and streams whose `recv` and `send` are the ring's.
//!
//! A stream owns the buffers that the kernel reads and writes: what is received waits in one until it is asked for, what is
//! written is copied into the other and on its way at once, or is handed over with its buffer
//! ([`TcpStream::poll_send`]); `poll_flush` waits until the kernel has all of it. While a receive is under way its buffer is
//! the ring's; dropping the stream cancels it.
//!
//! Sockets are blocking ones: on others the ring would answer "try again" instead of waiting.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::{AsyncRead, AsyncWrite};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::core_ring::{CoreRing, Memory, Operation};

/// A listening socket of one core. Several cores may listen on the same address: the kernel deals connections to them.
pub struct TcpListener {
    ring: Rc<CoreRing>,
    socket: Rc<OwnedFd>,
    address: SocketAddr,
}

impl TcpListener {
    /// Listens on `address`, port 0 for any.
    /// # Errors
    /// What the system says: the address is taken by a socket that does not share it, or is none of this machine's.
    /// # Panics
    /// On a thread that runs no core.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = StdListener::from(socket);
        Ok(TcpListener {
            ring: CoreRing::current(),
            address: listener.local_addr()?,
            socket: Rc::new(listener.into()),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, which any core may take over. One that comes just as the future is dropped is closed.
    /// # Errors
    /// What the system says; worth another try after a while.
    pub async fn accept(&self) -> io::Result<StdStream> {
        let accepted = self.ring.accept(&self.socket).await;
        Ok(accepted.into_descriptor()?.into())
    }
}

/// A connection of this core.
pub struct TcpStream {
    ring: Rc<CoreRing>,
    socket: Rc<OwnedFd>,
    inbound: Inbound,
    outbound: Outbound,
}

/// What comes in.
enum Inbound {
    /// `buffer[from..to]` was received and not asked for. `more` if the socket had more then.
    Here {
        buffer: Vec<u8>,
        from: usize,
        to: usize,
        more: bool,
    },
    Receiving(Operation),
    /// An error was returned, or the operation is being replaced.
    Broken,
}

/// What goes out.
enum Outbound {
    Idle(Vec<u8>),
    /// The operation sends its buffer from that byte on.
    Sending(Operation, usize),
    Broken,
}

impl TcpStream {
    /// Takes over a connection, from whatever core.
    /// # Panics
    /// On a thread that runs no core.
    pub fn adopt(stream: StdStream) -> TcpStream {
        TcpStream {
            ring: CoreRing::current(),
            socket: Rc::new(stream.into()),
            inbound: Inbound::Here {
                buffer: vec![0; RECEIVE_BYTES],
                from: 0,
                to: 0,
                more: true,
            },
            outbound: Outbound::Idle(Vec::new()),
        }
    }

    /// Sends all of `bytes` without copying them, and leaves an empty buffer in their place, with as much room. Ready as soon
    /// as they are on their way, which is when the kernel has taken what was sent before; `poll_flush` tells when it has
    /// these.
    ///
    /// # Errors
    /// What the system said of what was sent before.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<()>> {
        let mut buffer = ready!(self.poll_sent(cx))?;
        // Once per connection: from then on both have it.
        buffer.reserve(bytes.capacity());
        std::mem::swap(&mut buffer, bytes);
        let send = self.ring.send(&self.socket, buffer, 0);
        self.outbound = Outbound::Sending(send, 0);
        Poll::Ready(Ok(()))
    }

    /// Waits until the kernel has taken all that is on its way, and gives the buffer back.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        loop {
            match std::mem::replace(&mut self.outbound, Outbound::Broken) {
                Outbound::Idle(buffer) => return Poll::Ready(Ok(buffer)),
                Outbound::Sending(mut operation, from) => {
                    let Poll::Ready(done) = Pin::new(&mut operation).poll(cx) else {
                        self.outbound = Outbound::Sending(operation, from);
                        return Poll::Pending;
                    };
                    let sent = from + done.result? as usize;
                    let Memory::Bytes(mut buffer) = done.memory else {
                        unreachable!("a send has the bytes it was given")
                    };
                    if sent == buffer.len() {
                        buffer.clear();
                        self.outbound = Outbound::Idle(buffer);
                    } else {
                        let rest = self.ring.send(&self.socket, buffer, sent);
                        self.outbound = Outbound::Sending(rest, sent);
                    }
                }
                Outbound::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.inbound, Inbound::Broken) {
                Inbound::Here {
                    buffer,
                    from,
                    to,
                    more,
                } if from < to => {
                    let count = into.len().min(to - from);
                    into[..count].copy_from_slice(&buffer[from..from + count]);
                    this.inbound = Inbound::Here {
                        buffer,
                        from: from + count,
                        to,
                        more,
                    };
                    return Poll::Ready(Ok(count));
                }
                Inbound::Here { buffer, more, .. } => {
                    let receive = this.ring.receive(&this.socket, buffer, !more);
                    this.inbound = Inbound::Receiving(receive);
                }
                Inbound::Receiving(mut receive) => {
                    let Poll::Ready(done) = Pin::new(&mut receive).poll(cx) else {
                        this.inbound = Inbound::Receiving(receive);
                        return Poll::Pending;
                    };
                    let to = done.result? as usize;
                    let Memory::Bytes(buffer) = done.memory else {
                        unreachable!("a receive has the bytes it was given")
                    };
                    this.inbound = Inbound::Here {
                        buffer,
                        from: 0,
                        to,
                        more: done.more || to == 0,
                    };
                    if to == 0 {
                        return Poll::Ready(Ok(0));
                    }
                }
                Inbound::Broken => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut buffer = ready!(this.poll_sent(cx))?;
        let count = bytes.len().min(SEND_BYTES_MAX);
        buffer.extend_from_slice(&bytes[..count]);
        let send = this.ring.send(&this.socket, buffer, 0);
        this.outbound = Outbound::Sending(send, 0);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let buffer = ready!(this.poll_sent(cx))?;
        this.outbound = Outbound::Idle(buffer);
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let buffer = ready!(this.poll_sent(cx))?;
        this.outbound = Outbound::Idle(buffer);
        rustix::net::shutdown(&*this.socket, rustix::net::Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Bytes received at once: hundreds of requests.
const RECEIVE_BYTES: usize = 16 << 10;
/// Bytes sent at once: a full batch of answers.
const SEND_BYTES_MAX: usize = 288 << 10;

#[cfg(test)]
mod tests;
