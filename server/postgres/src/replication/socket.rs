//! The byte stream under a receiver: TCP, Unix socket, or TLS over TCP, nonblocking, on a tokio runtime.
//!
//! `WouldBlock` from a read means that the socket has nothing to be read, and from a write that it takes nothing: no
//! direction waits for the other, with TLS neither, and [`ready`](Socket::ready) then waits for the right one.

use std::io::{self, Read, Write};

use rustls::ClientConnection;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::transport::Transport;

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<ClientConnection>, TcpStream),
}

impl Socket {
    /// Takes a connection over, on which nothing of TLS's handshake is left.
    pub(super) fn new(transport: Transport) -> io::Result<Socket> {
        Ok(match transport {
            Transport::Tcp(stream) => Socket::Tcp(nonblocking(stream)?),
            Transport::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(stream)?)
            }
            Transport::Tls(stream) => {
                let (connection, stream) = stream.into_parts();
                Socket::Tls(Box::new(connection), nonblocking(stream)?)
            }
        })
    }

    /// Waits until a read or write may do something. May be dropped at any moment.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) | Socket::Tls(_, stream) => stream.ready(interest).await?,
            Socket::Unix(stream) => stream.ready(interest).await?,
        };
        Ok(())
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_read(buffer),
            Socket::Unix(stream) => stream.try_read(buffer),
            Socket::Tls(connection, stream) => read_tls(connection, stream, buffer),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_write(bytes),
            Socket::Unix(stream) => stream.try_write(bytes),
            Socket::Tls(connection, stream) => {
                // Only once all before them was sent, so that memory is bounded.
                flush_tls(connection, stream)?;
                connection.writer().write(bytes)
            }
        }
    }

    /// Sends what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => Ok(()),
            Socket::Tls(connection, stream) => flush_tls(connection, stream),
        }
    }

    /// Whether something that was written waits for a flush.
    pub(super) fn has_unsent(&self) -> bool {
        matches!(self, Socket::Tls(connection, _) if connection.wants_write())
    }
}

fn nonblocking(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn read_tls(
    connection: &mut ClientConnection,
    stream: &TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        // What was decrypted already comes first: the socket may have nothing more.
        match connection.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        connection.read_tls(&mut Ciphertext(stream))?;
        if let Err(error) = connection.process_new_packets() {
            // The alert goes out if it can.
            let _ = flush_tls(connection, stream);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
}

fn flush_tls(connection: &mut ClientConnection, stream: &TcpStream) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(&mut Ciphertext(stream))?;
    }
    Ok(())
}

/// What TLS reads from and writes to.
struct Ciphertext<'a>(&'a TcpStream);

impl Read for Ciphertext<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Ciphertext<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
