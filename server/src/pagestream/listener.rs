//! The page service's sockets: on each core one that listens, on one port for all (the kernel deals connections to the
//! cores) or on a port per core. The only file that knows which runtime the sockets belong to.
//!
//! Where cores share a port, a core that was dealt two connections more than another has hands new ones over: eight
//! clients on two cores are four and four, not what a hash of their ports makes of them.

use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, io};

use async_channel::{Receiver, Sender, bounded};
use engine::io::glommio_clock::{GlommioClock, sleep_on_core, spawn_on_core};
use engine::io::ring_net::{TcpListener, TcpStream};
use futures_util::AsyncWriteExt;
use futures_util::future::select;
use rustls::ServerConfig;

use super::connection::{self, ConnectionError, CoreContext, Settings};
use super::counters::FrontendCounters;
use super::frames::{self, Severity};
use super::latency::RequestLatency;
use super::limits::{ConnectionLimits, ConnectionPermit, RequestLimits};
use super::patience::{Ended, TICK, Watch};
use super::startup::Access;
use crate::catalog::ServerCatalog;
use crate::config::PagesConfig;
use crate::shards::Core;

/// What the page service of a whole server is made of. One per server, shared by its cores.
pub struct PageService {
    config: PagesConfig,
    access: Access,
    tls: Option<Arc<ServerConfig>>,
    connections: Arc<ConnectionLimits>,
    catalog: Arc<ServerCatalog>,
    stopping: Arc<AtomicBool>,
    cores: Vec<CoreDoor>,
}

impl fmt::Debug for PageService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PageService({}, {} cores)",
            self.config.listen,
            self.cores.len()
        )
    }
}

/// What other cores know of a core.
struct CoreDoor {
    counters: Arc<FrontendCounters>,
    latency: Arc<RequestLatency>,
    /// Connections served there.
    open: AtomicU32,
    handed_over: (Sender<StdStream>, Receiver<StdStream>),
}

/// Why the page service could not start.
#[derive(Debug, thiserror::Error)]
#[error("pages.listen = {address}: {source}")]
pub struct ListenError {
    /// Where it was to listen.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

impl PageService {
    /// A service for `cores` cores that nobody can reach yet.
    pub fn new(
        config: PagesConfig,
        access: Access,
        tls: Option<Arc<ServerConfig>>,
        catalog: Arc<ServerCatalog>,
        cores: usize,
    ) -> Arc<PageService> {
        let door = || CoreDoor {
            counters: Arc::default(),
            latency: Arc::default(),
            open: AtomicU32::new(0),
            handed_over: bounded(HANDED_OVER_MAX),
        };
        Arc::new(PageService {
            connections: ConnectionLimits::new(
                config.connections_max,
                config.connections_per_tenant_max,
            ),
            config,
            access,
            tls,
            catalog,
            stopping: Arc::default(),
            cores: (0..cores).map(|_| door()).collect(),
        })
    }

    /// Makes sure that nobody else listens here: a port that cores share could be shared with another server by mistake.
    pub fn probe(&self) -> Result<(), ListenError> {
        let ports = if self.config.port_per_core {
            u16::try_from(self.cores.len()).unwrap_or(u16::MAX)
        } else {
            1
        };
        for offset in 0..ports {
            let mut address = self.config.listen;
            if address.port() != 0 {
                address.set_port(address.port().saturating_add(offset));
            }
            StdListener::bind(address).map_err(|source| ListenError { address, source })?;
        }
        Ok(())
    }

    /// Each core's counters.
    pub fn counters(&self) -> impl Iterator<Item = &FrontendCounters> {
        self.cores.iter().map(|door| door.counters.as_ref())
    }

    /// Each core's latencies.
    pub fn latencies(&self) -> impl Iterator<Item = &RequestLatency> + Clone {
        self.cores.iter().map(|door| door.latency.as_ref())
    }

    /// Stops accepting, ends idle connections, lets the others answer what they took. [`PageService::run`] returns when
    /// that is done.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the service was told to stop.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Where core `core` listens when core 0 listens at `first`.
    fn address_of(&self, core: usize, first: SocketAddr) -> SocketAddr {
        let mut address = first;
        if self.config.port_per_core {
            let offset = u16::try_from(core).unwrap_or(u16::MAX);
            address.set_port(first.port().saturating_add(offset));
        }
        address
    }

    /// Serves on this core until [`PageService::stop`] and the end of its last connection. `first` is where core 0
    /// listens (core 0 itself passes the configured address); the address bound here goes to `bound`.
    pub async fn run(
        self: Arc<Self>,
        core: Core,
        first: SocketAddr,
        bound: Sender<Result<SocketAddr, ListenError>>,
    ) {
        let number = core.core();
        let address = self.address_of(number, first);
        let listener = match listen(address) {
            Ok((listener, local)) => {
                // Whoever started us waits for this; if not, there is nobody to tell.
                let _ = bound.send(Ok(local)).await;
                listener
            }
            Err(source) => {
                let _ = bound.send(Err(ListenError { address, source })).await;
                return;
            }
        };
        let door = &self.cores[number];
        let context = Rc::new(CoreContext {
            settings: settings(&self.config),
            access: self.access.clone(),
            tls: self.tls.clone().map(Into::into),
            requests: RequestLimits::new(
                self.config.requests_per_core_max,
                self.config.requests_per_tenant_max,
            ),
            counters: Arc::clone(&door.counters),
            latency: Arc::clone(&door.latency),
            clock: GlommioClock::since(now()),
            catalog: Arc::clone(&self.catalog),
            core,
        });
        let watch = Rc::new(Watch::default());
        let host = Rc::new(Host {
            service: Arc::clone(&self),
            context,
            watch: Rc::clone(&watch),
            number,
        });
        let accepting = spawn_on_core(Rc::clone(&host).accept(listener));
        let welcoming = spawn_on_core(Rc::clone(&host).welcome());
        while !self.stopping() {
            sleep_on_core(TICK).await;
            watch.tick();
        }
        accepting.cancel().await;
        welcoming.cancel().await;
        // Another core may still hand connections over: it keeps what it cannot, and those under way are hung up.
        let (_, handed_over) = &self.cores[number].handed_over;
        handed_over.close();
        while handed_over.try_recv().is_ok() {}
        watch.drain();
        while watch.connections() > 0 {
            sleep_on_core(DRAIN_POLL).await;
            watch.tick();
        }
    }
}

/// Everything that serves connections on one core.
struct Host {
    service: Arc<PageService>,
    context: Rc<CoreContext>,
    watch: Rc<Watch>,
    number: usize,
}

impl Host {
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok(accepted) => {
                    let target = self.target();
                    let left = if target == self.number {
                        Some(accepted)
                    } else {
                        let (sender, _) = &self.service.cores[target].handed_over;
                        sender.try_send(accepted).err().map(|e| e.into_inner())
                    };
                    if let Some(accepted) = left {
                        Rc::clone(&self).start(accepted);
                    }
                }
                Err(e) => {
                    tracing::warn!(error = %e, "accept a page connection");
                    sleep_on_core(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Serves what other cores hand over.
    async fn welcome(self: Rc<Self>) {
        let (_, receiver) = &self.service.cores[self.number].handed_over;
        while let Ok(accepted) = receiver.recv().await {
            Rc::clone(&self).start(accepted);
        }
    }

    /// The core that should have the next connection: this one, unless another has fewer.
    fn target(&self) -> usize {
        if self.service.config.port_per_core {
            return self.number;
        }
        let open = |number: usize| self.service.cores[number].open.load(Ordering::Relaxed);
        let least = (0..self.service.cores.len())
            .min_by_key(|&number| open(number))
            .unwrap_or(self.number);
        if open(least) < open(self.number) {
            least
        } else {
            self.number
        }
    }

    fn start(self: Rc<Self>, stream: StdStream) {
        let counters = &self.context.counters;
        counters.connections_accepted.add(1);
        let Some(permit) = self.service.connections.admit() else {
            counters.connections_refused.add(1);
            spawn_on_core(refuse(stream)).detach();
            return;
        };
        let open = &self.service.cores[self.number].open;
        let now = open.fetch_add(1, Ordering::Relaxed) + 1;
        counters.connections_open.set(u64::from(now));
        spawn_on_core(self.serve(stream, permit)).detach();
    }

    async fn serve(self: Rc<Self>, stream: StdStream, permit: ConnectionPermit) {
        let peer = stream.peer_addr().ok();
        let patience = self.watch.patience();
        let outcome = match stream.set_nodelay(true) {
            Ok(()) => {
                let stream = TcpStream::adopt(stream);
                connection::serve(&self.context, stream, &patience, permit).await
            }
            Err(e) => Err(e.into()),
        };
        let counters = &self.context.counters;
        match outcome {
            Ok(()) => {}
            Err(ConnectionError::Socket(e)) => {
                tracing::debug!(?peer, error = %e, "connection lost")
            }
            Err(ConnectionError::Malformed(text)) => {
                counters.connections_malformed.add(1);
                tracing::warn!(?peer, reason = text, "not the page protocol");
            }
            Err(ConnectionError::Ended(Ended::TimedOut)) => {
                counters.connections_timed_out.add(1);
                tracing::info!(?peer, "connection timed out");
            }
            Err(ConnectionError::Ended(Ended::Draining)) => {
                tracing::debug!(?peer, "connection ended by the shutdown");
            }
        }
        let open = &self.service.cores[self.number].open;
        let now = open.fetch_sub(1, Ordering::Relaxed) - 1;
        counters.connections_open.set(u64::from(now));
    }
}

/// Tells a client that there are too many, if it listens, and hangs up.
async fn refuse(stream: StdStream) {
    let mut out = Vec::new();
    frames::put_error(&mut out, Severity::Fatal, "53300", "too many connections");
    let mut stream = TcpStream::adopt(stream);
    // A client that does not take it is dropped all the same; its socket's buffer has room for this.
    let told = pin!(async {
        stream.write_all(&out).await?;
        stream.flush().await
    });
    let _ = select(told, pin!(sleep_on_core(REFUSE_TIMEOUT))).await;
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let local = listener.local_addr();
    Ok((listener, local))
}

fn settings(config: &PagesConfig) -> Settings {
    Settings {
        frame_bytes_max: usize::try_from(config.frame_max.0).expect("validated: at most 1 MiB"),
        requests_max: usize::try_from(config.requests_per_connection_max)
            .expect("validated: at most 1,024"),
        handshake_timeout: config.handshake_timeout.0,
        open_timeout: config.open_timeout.0,
        idle_timeout: config.idle_timeout.0,
        write_timeout: config.write_timeout.0,
        lsn_wait_timeout: config.lsn_wait_timeout.0,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the origin of a clock that measures only how long requests take"
)]
fn now() -> Instant {
    Instant::now()
}

const ACCEPT_RETRY: Duration = Duration::from_millis(100);
const DRAIN_POLL: Duration = Duration::from_millis(5);
const REFUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections on their way to another core; more are kept where they were accepted.
const HANDED_OVER_MAX: usize = 128;
