//! A server that greets as Postgres does, begins any stream that it is asked for, and then sends what a test wants.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use postgres::replication::ConnectionSettings;

use crate::follower::settings;

pub(crate) struct FakePrimary {
    port: u16,
    thread: JoinHandle<()>,
}

impl FakePrimary {
    /// Serves one connection: `stream` is called when its stream has begun, and the connection is closed behind it.
    pub(crate) fn start(stream: impl FnOnce(TcpStream) + Send + 'static) -> FakePrimary {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let serve = move || {
            let (mut socket, _) = listener.accept().expect("a connection");
            socket.set_nodelay(true).expect("an option");
            let mut length = [0; 4];
            socket.read_exact(&mut length).expect("a start");
            let rest = u32::from_be_bytes(length) - 4;
            read(&mut socket, rest);
            socket.write_all(&frame(b'R', &[0; 4])).expect("sent");
            let version = b"server_version\x0015.0\0";
            socket.write_all(&frame(b'S', version)).expect("sent");
            socket.write_all(&frame(b'Z', b"I")).expect("sent");
            // START_REPLICATION.
            let mut header = [0; 5];
            socket.read_exact(&mut header).expect("a command");
            let [tag, length @ ..] = header;
            assert_eq!(tag, b'Q');
            read(&mut socket, u32::from_be_bytes(length) - 4);
            socket.write_all(&frame(b'W', &[0, 0, 0])).expect("sent");
            stream(socket);
        };
        let thread = std::thread::Builder::new().name("fake primary".to_owned());
        FakePrimary {
            port,
            thread: thread.spawn(serve).expect("a thread"),
        }
    }

    pub(crate) fn settings(&self) -> ConnectionSettings {
        let port = self.port;
        settings(&format!(
            "host=127.0.0.1 port={port} user=u sslmode=disable"
        ))
    }

    /// Whatever went wrong on its side.
    pub(crate) fn finish(self) {
        self.thread.join().expect("no panic");
    }
}

/// A message.
pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short");
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

/// Content of a message of WAL.
pub(crate) fn wal(at: u64, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![b'w'];
    message.extend(at.to_be_bytes());
    message.extend(at.to_be_bytes());
    message.extend(0_i64.to_be_bytes());
    message.extend(bytes);
    message
}

fn read(socket: &mut TcpStream, count: u32) {
    let mut bytes = vec![0; count as usize];
    socket.read_exact(&mut bytes).expect("all of it");
}
