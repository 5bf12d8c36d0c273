//! A server on a data set: started, asked whether it serves, measured, stopped.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::now_ns;
use crate::dataset::{Dataset, Place};
use crate::error::{BenchError, Doing, Result};
use crate::pages::Check;
use crate::pagestream::codec::{self, Answer, RelationPage};
use crate::pagestream::session::{self, Session};
use crate::server_child::ServerChild;

/// Longest time from start to the first page.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at a server that starts.
const LOOK: Duration = Duration::from_millis(2);
/// Ports that are tried: the pages' from here on, one per core, and the admin's below.
const FIRST_PORT: u16 = 64_100;

/// Pages asked for at once when the cache is filled.
const WARM_BATCH: u32 = 32;

/// How the server runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerConfig {
    /// Shards, each with a port of its own.
    pub(crate) cores: u16,
    /// Size of the cache on disk.
    pub(crate) cache_bytes: u64,
    /// RAM tier of all cores together.
    pub(crate) ram_bytes: u64,
    /// Microseconds that a core spins before it sleeps.
    pub(crate) spin_us: u64,
}

/// A running server; told to stop, then killed, when dropped.
pub(crate) struct ServerProcess {
    child: ServerChild,
    /// One per core.
    pub(crate) addresses: Vec<SocketAddr>,
    /// From the start of the process to the first page read.
    pub(crate) first_page_after: Duration,
}

impl ServerProcess {
    /// Starts `pageserver serve` (the program beside this one) on `place` and waits for its first page.
    ///
    /// # Errors
    /// No such program, it ends, or it serves no right page within a minute.
    pub(crate) fn start(place: &Place, dataset: Dataset, config: ServerConfig) -> Result<Self> {
        let file = write_config(place, config)?;
        let addresses: Vec<SocketAddr> = (0..config.cores)
            .map(|core| ([127, 0, 0, 1], FIRST_PORT + core).into())
            .collect();
        let started_ns = now_ns();
        let child = ServerChild::start(&place.served, &file)?;
        let mut server = Self {
            child,
            addresses,
            first_page_after: Duration::ZERO,
        };
        let session = session_of(dataset);
        loop {
            let waited = Duration::from_nanos(now_ns() - started_ns);
            match first_page(server.addresses[0], &session) {
                Ok(()) => {
                    server.first_page_after = Duration::from_nanos(now_ns() - started_ns);
                    return Ok(server);
                }
                Err(e) if waited > START_TIMEOUT => return Err(e),
                Err(_) => {}
            }
            server.child.look()?;
            std::thread::sleep(LOOK);
        }
    }

    /// Reads every page of the data set once, in order, so that all are in the cache.
    ///
    /// # Errors
    /// The first page that is refused or wrong.
    pub(crate) fn warm(&self, dataset: Dataset) -> Result<()> {
        let mut stream = session::open(self.addresses[0], &session_of(dataset))?;
        let mut bytes =
            vec![0; usize::try_from(WARM_BATCH).expect("small") * codec::PAGE_ANSWER_BYTES];
        for first in (0..dataset.pages).step_by(usize::try_from(WARM_BATCH).expect("small")) {
            let blocks = first..dataset.pages.min(first + WARM_BATCH);
            let mut requests = Vec::new();
            let echo = |block: u32| codec::echo(block.into(), u64::MAX, 0, Dataset::page(block));
            blocks
                .clone()
                .for_each(|block| codec::put_request(&mut requests, &echo(block)));
            stream.write_all(&requests).doing(|| "ask for pages")?;
            for block in blocks {
                let answer = &mut bytes[..codec::PAGE_ANSWER_BYTES];
                read_answer(&mut stream, answer, &echo(block), Dataset::page(block))?;
            }
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Stops the server as an operator would, and waits for its end.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub(crate) fn stop(self) -> Result<()> {
        self.child.stop()
    }
}

/// How a client names the data set.
pub(crate) fn session_of(dataset: Dataset) -> Session {
    Session {
        tenant: dataset.tenant.to_string(),
        timeline: dataset.branch.to_string(),
        token: None,
    }
}

fn write_config(place: &Place, config: ServerConfig) -> Result<PathBuf> {
    let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
    let text = format!(
        "[pages]\nlisten = \"127.0.0.1:{FIRST_PORT}\"\nport_per_core = true\n\
         [admin]\nlisten = \"127.0.0.1:{}\"\n\
         [store]\nurl = {}\n[keys]\nkeyring = {}\n\
         [cache]\nsize = \"{}B\"\nram = \"{}B\"\n[runtime]\ncores = {}\nspin = \"{}us\"\n",
        FIRST_PORT - 1,
        format_args!("\"file://{}\"", place.objects.display()),
        quoted(&place.keyring),
        config.cache_bytes,
        config.ram_bytes,
        config.cores,
        config.spin_us,
    );
    let file = place.served.join("bench.toml");
    fs::write(&file, text).doing(|| format!("write {}", file.display()))?;
    Ok(file)
}

/// Reads block 0 by itself.
fn first_page(address: SocketAddr, session: &Session) -> Result<()> {
    let mut stream: TcpStream = session::open(address, session)?;
    let page = Dataset::page(0);
    let echo = codec::echo(1, u64::MAX, 0, page);
    let mut request = Vec::new();
    codec::put_request(&mut request, &echo);
    stream.write_all(&request).doing(|| "ask for a page")?;
    let mut bytes = vec![0; codec::PAGE_ANSWER_BYTES];
    read_answer(&mut stream, &mut bytes, &echo, page)
}

/// Reads one answer into `bytes`, which has room for a page's, and judges it.
fn read_answer(
    stream: &mut TcpStream,
    bytes: &mut [u8],
    echo: &codec::Echo,
    page: RelationPage,
) -> Result<()> {
    let mut filled = 0;
    loop {
        // An answer's head says how long it is: no byte of the next one is taken.
        let want = match bytes[..filled].split_first_chunk::<5>() {
            None => 5,
            Some((&[_, a, b, c, d], _)) => {
                let length =
                    usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                length.saturating_add(1).min(bytes.len())
            }
        };
        let got = stream
            .read(&mut bytes[filled..want])
            .doing(|| "read a page")?;
        filled += got;
        match codec::take_answer(&bytes[..filled], echo)? {
            Some((Answer::Page(bytes), _)) => return Check::Stamp.check(page, bytes),
            Some((Answer::Error(text), _)) => return Err(BenchError::Protocol(text)),
            None if got == 0 => {
                return Err(BenchError::Protocol(
                    "the server closed the connection".to_owned(),
                ));
            }
            None => {}
        }
    }
}
