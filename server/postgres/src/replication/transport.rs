//! The byte stream under a connection: TCP, Unix socket, or TLS over TCP.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::settings::{ConnectionSettings, Host};

/// Longest silence of a server before it counts as gone. Long, since a base backup begins with a checkpoint.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(900);

pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    /// Connects without TLS. Tries all addresses of the host.
    pub(super) fn connect(settings: &ConnectionSettings) -> io::Result<Transport> {
        match &settings.host {
            Host::Unix(folder) => {
                let stream =
                    UnixStream::connect(folder.join(format!(".s.PGSQL.{}", settings.port)))?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                stream.set_write_timeout(Some(SILENCE_MAX))?;
                Ok(Transport::Unix(stream))
            }
            Host::Tcp(name) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in (name.as_str(), settings.port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, settings.connect_timeout) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            stream.set_read_timeout(Some(SILENCE_MAX))?;
                            stream.set_write_timeout(Some(SILENCE_MAX))?;
                            return Ok(Transport::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
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
