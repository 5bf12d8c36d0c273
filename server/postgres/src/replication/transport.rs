//! The byte stream under a connection: TCP, Unix socket, or TLS over TCP. Blocking.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::{ClientConnection, StreamOwned};

use super::settings::{ConnectionSettings, Host};

pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    /// Connects without TLS. Tries all addresses of the host. Reads and writes wait as long as the connection may take.
    pub(super) fn connect(settings: &ConnectionSettings) -> io::Result<Transport> {
        let transport = match &settings.host {
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", settings.port));
                Transport::Unix(UnixStream::connect(path)?)
            }
            Host::Tcp(name) => Transport::Tcp(connect_tcp(name, settings)?),
        };
        transport.set_timeouts(settings.connect_timeout)?;
        Ok(transport)
    }

    /// Longest wait of a read or write, if they block.
    pub(super) fn set_timeouts(&self, wait_max: Duration) -> io::Result<()> {
        let wait_max = Some(wait_max);
        match self {
            Transport::Unix(stream) => {
                stream.set_read_timeout(wait_max)?;
                stream.set_write_timeout(wait_max)
            }
            Transport::Tcp(stream) => set_tcp_timeouts(stream, wait_max),
            Transport::Tls(stream) => set_tcp_timeouts(&stream.sock, wait_max),
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.read(buffer),
            Transport::Unix(stream) => stream.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.write(buffer),
            Transport::Unix(stream) => stream.write(buffer),
            Transport::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => stream.flush(),
            Transport::Unix(stream) => stream.flush(),
            Transport::Tls(stream) => stream.flush(),
        }
    }
}

fn connect_tcp(name: &str, settings: &ConnectionSettings) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (name, settings.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, settings.connect_timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                // A machine that went away without a word is noticed even while we wait for nothing.
                let socket = stream.as_fd();
                sockopt::set_socket_keepalive(socket, true)?;
                sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
                sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
                sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn set_tcp_timeouts(stream: &TcpStream, wait_max: Option<Duration>) -> io::Result<()> {
    stream.set_read_timeout(wait_max)?;
    stream.set_write_timeout(wait_max)
}

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;
