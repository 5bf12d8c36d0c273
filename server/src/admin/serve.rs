//! The admin service's thread and sockets.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::{AdminState, router};
use crate::access::{self, AccessError};
use crate::config::AdminConfig;
use crate::running::RunningServer;

/// The running admin service.
#[derive(Debug)]
pub struct AdminService {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// Why the admin service did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address can't be listened on.
    #[error("admin.listen = {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Token or certificate.
    #[error("admin.access: {0}")]
    Access(#[from] AccessError),
    /// No thread for it.
    #[error("start the admin thread: {0}")]
    Thread(io::Error),
}

impl AdminService {
    /// Listens and serves on a thread of its own.
    pub fn start(
        config: &AdminConfig,
        server: Arc<RunningServer>,
    ) -> Result<AdminService, AdminError> {
        let token = access::token(&config.access)?;
        let tls = access::server_config(&config.access)?.map(TlsAcceptor::from);
        let listen = |source| AdminError::Listen {
            address: config.listen,
            source,
        };
        let listener = StdListener::bind(config.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let state = Arc::new(AdminState {
            server,
            token,
            body_bytes_max: usize::try_from(config.body_max.0).expect("validated: at most 16 MiB"),
        });
        let connections = usize::try_from(config.connections_max).expect("validated");
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdminError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                runtime.block_on(accept(listener, tls, router(state), connections, stopped));
            })
            .map_err(AdminError::Thread)?;
        Ok(AdminService {
            address,
            stop,
            thread,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, gives what is being answered `DRAIN_MAX`, and ends. Blocks for that long at most.
    pub fn stop(self) {
        // The thread has its end of the channel until it ends.
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the admin thread panicked");
        }
    }
}

async fn accept(
    listener: StdListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    connections_max: usize,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => {
            tracing::error!(error = %e, "the admin service does not listen");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            _ = stopped.changed() => break,
            accepted = async { (place.await, listener.accept().await) } => accepted,
        };
        let (Ok(place), Ok((stream, _))) = accepted else {
            // Out of file descriptors, most likely: others end sooner or later.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, router, stopped) = (tls.clone(), router.clone(), stopped.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, router, stopped).await,
                Some(tls) => {
                    let handshake = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await;
                    if let Ok(Ok(stream)) = handshake {
                        connection(stream, router, stopped).await;
                    }
                }
            }
            drop(place);
        });
    }
    let all = u32::try_from(connections_max).expect("validated: at most 10,000");
    // What is not answered by then is cut off with the runtime.
    let _ = tokio::time::timeout(DRAIN_MAX, places.acquire_many(all)).await;
}

async fn connection<S>(stream: S, router: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX);
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        _ = stopped.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = outcome {
        tracing::debug!(error = %e, "admin connection");
    }
}

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const HEADER_MAX: Duration = Duration::from_secs(30);
/// Time for what is being answered when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(2);
