use std::io::{Read, Write};
use std::thread;

use futures_util::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::io::executor::{CoreConfig, CoreHandle, start_core};

/// A core that accepts one connection and gives it to `serve`; where it listens.
fn serving<T: Send + 'static>(
    serve: impl AsyncFnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, CoreHandle<T>) {
    let (report, listening) = std::sync::mpsc::sync_channel(1);
    let core = start_core(CoreConfig::default(), async move || {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).expect("a free port");
        report.send(listener.local_addr()).expect("awaited");
        let stream = listener.accept().await.expect("a client");
        serve(TcpStream::adopt(stream)).await
    });
    let core = core.expect("starts");
    (listening.recv().expect("it listens"), core)
}

fn pattern(len_bytes: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(len_bytes).collect()
}

#[test]
fn bytes_come_back_as_they_were_sent_whatever_their_number() {
    // Beyond every buffer: of the stream, and of the kernel's sockets on both sides.
    let sent = pattern(20 << 20);
    let (address, core) = serving(async move |mut stream: TcpStream| {
        let mut buffer = vec![0; 100_000];
        let mut echoed = 0;
        loop {
            let count = stream.read(&mut buffer).await.expect("received");
            if count == 0 {
                return echoed;
            }
            stream.write_all(&buffer[..count]).await.expect("sent");
            stream.flush().await.expect("on its way");
            echoed += count;
        }
    });
    let mut client = StdStream::connect(address).expect("it listens");
    let mut reader = client.try_clone().expect("another handle");
    let to_send = sent.clone();
    #[expect(clippy::disallowed_methods, reason = "the client's second thread")]
    let writer = thread::spawn(move || {
        client.write_all(&to_send).expect("taken");
        client.shutdown(std::net::Shutdown::Write).expect("open");
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).expect("the echo");
    writer.join().expect("no panic");
    assert!(received == sent, "{} bytes came back", received.len());
    assert_eq!(core.join().expect("no panic"), sent.len());
}

#[test]
fn a_stream_that_is_dropped_while_it_receives_closes_the_connection_and_hurts_nobody() {
    let (address, core) = serving(async |mut stream: TcpStream| {
        let mut buffer = [0; 16];
        let mut receive = Box::pin(stream.read(&mut buffer));
        assert!(futures_util::poll!(receive.as_mut()).is_pending());
        drop(receive);
        drop(stream);
        // The ring goes on: another connection is served.
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).expect("a free port");
        let client = StdStream::connect(listener.local_addr()).expect("it listens");
        let mut served = TcpStream::adopt(listener.accept().await.expect("a client"));
        served.write_all(b"hello").await.expect("sent");
        served.flush().await.expect("sent");
        let mut word = [0; 5];
        TcpStream::adopt(client)
            .read_exact(&mut word)
            .await
            .expect("received");
        word
    });
    let mut client = StdStream::connect(address).expect("it listens");
    assert_eq!(client.read(&mut [0; 16]).expect("the end"), 0);
    assert_eq!(&core.join().expect("no panic"), b"hello");
}

#[test]
fn an_accept_that_is_given_up_leaves_the_listener_working() {
    let core = start_core(CoreConfig::default(), async || {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).expect("a free port");
        let mut accept = Box::pin(listener.accept());
        assert!(futures_util::poll!(accept.as_mut()).is_pending());
        drop(accept);
        let client = StdStream::connect(listener.local_addr()).expect("it listens");
        // The one that was given up may have taken it; then the client hears of the end.
        let mut second = Box::pin(listener.accept());
        let again = StdStream::connect(listener.local_addr()).expect("it listens");
        let accepted = second.as_mut().await.expect("a client");
        drop((client, again));
        let mut stream = TcpStream::adopt(accepted);
        stream.read(&mut [0; 4]).await.expect("the end")
    });
    assert_eq!(core.expect("starts").join().expect("no panic"), 0);
}

#[test]
fn two_listeners_share_a_port_and_an_address_of_others_is_refused() {
    let core = start_core(CoreConfig::default(), async || {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = TcpListener::bind(any).expect("a free port");
        let second = TcpListener::bind(first.local_addr()).expect("shared");
        assert_eq!(first.local_addr(), second.local_addr());
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 9));
        assert!(TcpListener::bind(elsewhere).is_err());
    });
    core.expect("starts").join().expect("no panic");
}
