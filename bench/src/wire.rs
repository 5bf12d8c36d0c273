//! The empty server: pagestream answered without reading anything. It is the wire baseline: what the network, the
//! framing and the runtime cost with the storage taken away.
//!
//! Built like the real frontend: one pinned glommio executor per core with a listener of its own, all requests that
//! have arrived are answered with one write. It runs as a child process, so that its CPU time can be told from the
//! client's.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use futures_util::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

use crate::counters::Counters;
use crate::error::{BenchError, Doing, Result};
use crate::pages::Check;
use crate::pagestream::client::{self, Load, Locality, Target};
use crate::pagestream::codec::{
    ANSWER_PAGE, ECHO_BYTES, GET_PAGE, PAGE_ANSWER_BYTES, PAGE_BYTES, REQUEST_BYTES, RelationPage,
};
use crate::pagestream::keyspace::Keyspace;
use crate::pagestream::session::Session;
use crate::rounds::Measured;

/// Requests answered with one write at most.
const BATCH_MAX: usize = 64;
/// No startup packet and no command is longer.
const MESSAGE_BYTES_MAX: usize = 10_000;

/// A running empty server; killed when dropped.
pub(crate) struct EmptyServer {
    child: Child,
    /// One per core.
    addresses: Vec<SocketAddr>,
}

impl EmptyServer {
    /// Starts this program again as empty server on `cores` cores.
    ///
    /// # Errors
    /// The child can't be started or does not say where it listens.
    pub(crate) fn start(cores: usize) -> Result<Self> {
        let program = std::env::current_exe().doing(|| "find this program")?;
        let mut child = Command::new(program)
            .args(["wire-server", "--cores", &cores.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .doing(|| "start the empty server")?;
        let stdout = child.stdout.take().expect("it was asked to be piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        // From here on the child is killed whatever happens.
        let mut server = Self {
            child,
            addresses: Vec::new(),
        };
        read.doing(|| "hear from the empty server")?;
        let addresses: std::result::Result<Vec<SocketAddr>, _> =
            line.split_ascii_whitespace().map(str::parse).collect();
        server.addresses = addresses
            .ok()
            .filter(|addresses| addresses.len() == cores)
            .ok_or_else(|| BenchError::Protocol(format!("the empty server says {line:?}")))?;
        Ok(server)
    }
}

impl Drop for EmptyServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One round of `load` on the empty server: it knows no pages, so whatever is asked is answered, unchecked.
///
/// # Errors
/// As [`client::run`].
pub(crate) fn run(server: &EmptyServer, load: &Load) -> Result<Measured> {
    let target = Target {
        addresses: server.addresses.clone(),
        session: Session {
            tenant: "0".repeat(32),
            timeline: "0".repeat(32),
            token: None,
        },
        stripe_blocks: 1,
    };
    let mut keyspace = Keyspace::default();
    let first = RelationPage {
        tablespace: 1663,
        database: 1,
        relation: 1,
        fork: 0,
        block: 0,
    };
    keyspace.push(first, 1 << 20);
    let load = Load {
        locality: Locality::Any,
        check: Check::None,
        ..load.clone()
    };
    client::run(
        &target,
        &keyspace,
        &load,
        &Counters::new(Some(server.child.id()), None),
    )
}

/// Serves on `cores` cores, prints the addresses in one line, and never returns but on an error.
///
/// # Errors
/// No executor, or no port.
pub(crate) fn serve(cores: usize) -> Result<()> {
    let (report, reported) = std::sync::mpsc::sync_channel(cores);
    let mut threads = Vec::new();
    for core in 0..cores {
        let report = report.clone();
        let thread = LocalExecutorBuilder::new(Placement::Fixed(core))
            .name("wire")
            .spawn(move || async move {
                let listener = TcpListener::bind("127.0.0.1:0").doing(|| "listen")?;
                let address = listener.local_addr().doing(|| "listen")?;
                report
                    .send((core, address))
                    .expect("the starter waits for every core");
                loop {
                    let stream = listener.accept().await.doing(|| "accept")?;
                    glommio::spawn_local(async move {
                        // Clients leave when they have enough.
                        let _ = converse(stream).await;
                    })
                    .detach();
                }
            })
            .doing(|| format!("start an executor on core {core}"))?;
        threads.push(thread);
    }
    drop(report);
    let mut addresses: Vec<_> = reported.iter().take(cores).collect();
    addresses.sort_unstable_by_key(|&(core, _)| core);
    let line: Vec<String> = addresses
        .iter()
        .map(|(_, address)| address.to_string())
        .collect();
    println!("{}", line.join(" "));
    for thread in threads {
        let ended: Result<()> = thread.join().doing(|| "serve")?;
        ended?;
    }
    Ok(())
}

async fn converse(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    skip(&mut stream, length).await?;
    stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    skip(&mut stream, [head[1], head[2], head[3], head[4]]).await?;
    stream.write_all(b"W\0\0\0\x07\0\0\0").await?;

    let mut requests = vec![0; BATCH_MAX * REQUEST_BYTES];
    let mut filled = 0;
    let mut answers = vec![0; BATCH_MAX * PAGE_ANSWER_BYTES];
    for answer in answers.chunks_exact_mut(PAGE_ANSWER_BYTES) {
        answer[..6].copy_from_slice(&[b'd', 0, 0, 0x20, 0x2e, ANSWER_PAGE]);
        answer[6 + ECHO_BYTES..].copy_from_slice(&[0x5a; PAGE_BYTES]);
    }
    loop {
        let got = stream.read(&mut requests[filled..]).await?;
        if got == 0 {
            return Ok(());
        }
        filled += got;
        let whole = filled / REQUEST_BYTES;
        let pairs = requests
            .chunks_exact(REQUEST_BYTES)
            .zip(answers.chunks_exact_mut(PAGE_ANSWER_BYTES));
        for (request, answer) in pairs.take(whole) {
            if request[..6] != [b'd', 0, 0, 0, 46, GET_PAGE] {
                return Err(std::io::Error::other("the empty server knows GetPage only"));
            }
            answer[6..6 + ECHO_BYTES].copy_from_slice(&request[6..]);
        }
        stream
            .write_all(&answers[..whole * PAGE_ANSWER_BYTES])
            .await?;
        requests.copy_within(whole * REQUEST_BYTES..filled, 0);
        filled -= whole * REQUEST_BYTES;
    }
}

/// Reads and forgets a message whose length counts itself.
async fn skip(stream: &mut TcpStream, length: [u8; 4]) -> std::io::Result<()> {
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(std::io::Error::other)?;
    let body = length
        .checked_sub(4)
        .filter(|&body| body <= MESSAGE_BYTES_MAX);
    let mut body = vec![0; body.ok_or_else(|| std::io::Error::other("not a message"))?];
    stream.read_exact(&mut body).await
}
