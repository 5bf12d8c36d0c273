//! A proxy before a server that plays an object store. It holds a request that a test has named, so that the test can
//! kill whoever made it at just that moment.
//!
//! One request per connection: both sides are told so, and a client of HTTP connects again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// The running proxy; stops when dropped.
pub struct StoreProxy {
    port: u16,
    shared: Arc<Shared>,
}

/// Which request is held, and how far it comes.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    /// `GET`, `PUT`.
    pub method: &'static str,
    /// A part of the path, such as `/layers/`; one of these.
    pub paths: &'static [&'static str],
    /// So many such requests pass before one is held.
    pub passing: u64,
    /// Where it is held.
    pub hold: Hold,
}

/// Where a request is held.
#[derive(Debug, Clone, Copy)]
pub enum Hold {
    /// When this share of its body, in thousandths, was read. Nothing of it reaches the store.
    Request(u64),
    /// When it was carried out and this share of the answer, in thousandths, was sent.
    Answer(u64),
}

struct Shared {
    /// Host and port.
    upstream: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    trap: Option<Trap>,
    /// A request is held.
    sprung: bool,
    stopped: bool,
    /// Grows when what is held is let go.
    released: u64,
}

impl StoreProxy {
    /// A proxy on a free port of 127.0.0.1 before the server at `endpoint`, which is `http://HOST:PORT`.
    /// # Panics
    /// If the system gives no port or no thread, or the endpoint is another kind of URL.
    pub fn start(endpoint: &str) -> StoreProxy {
        let upstream = endpoint.strip_prefix("http://").expect("plain HTTP");
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let of_listener = Arc::clone(&shared);
        let accept = move || {
            for stream in listener.incoming() {
                if of_listener.state().stopped {
                    return;
                }
                let shared = Arc::clone(&of_listener);
                // A client that breaks off, or a request that was held, ends its own thread.
                let pass = move || stream.and_then(|stream| shared.pass(stream)).ok();
                Builder::new().spawn(pass).expect("a thread");
            }
        };
        Builder::new()
            .name("store-proxy".to_owned())
            .spawn(accept)
            .expect("a thread");
        StoreProxy { port, shared }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Holds the first request that `trap` says.
    pub fn set_trap(&self, trap: Trap) {
        let mut state = self.shared.state();
        state.trap = Some(trap);
        state.sprung = false;
    }

    /// Waits until a request is held; false if `goes_on` says false before.
    pub fn wait_sprung(&self, mut goes_on: impl FnMut() -> bool) -> bool {
        let mut state = self.shared.state();
        while !state.sprung {
            let waited = self.shared.changed.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !state.sprung && !goes_on() {
                return false;
            }
        }
        true
    }

    /// Sets no trap any more; the connection of what is held is closed.
    pub fn release(&self) {
        let mut state = self.shared.state();
        state.trap = None;
        state.sprung = false;
        state.released += 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for StoreProxy {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.release();
        // Wakes the listener; if that is gone already, all is well.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(&client);
        let mut head = String::new();
        let mut body_bytes = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                body_bytes = value.trim().parse().map_err(io::Error::other)?;
            }
            if !lower.starts_with("connection:") {
                head.push_str(&line);
            }
        }
        head.push_str("connection: close\r\n\r\n");
        let hold = self.hold_of(&head);
        if let Some(Hold::Request(share)) = hold {
            io::copy(&mut reader.take(body_bytes * share / 1000), &mut io::sink())?;
            self.hold();
            return Ok(());
        }
        let mut upstream = TcpStream::connect(&self.upstream)?;
        upstream.write_all(head.as_bytes())?;
        io::copy(&mut reader.take(body_bytes), &mut upstream)?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        let mut client = &client;
        if let Some(Hold::Answer(share)) = hold {
            let share = usize::try_from(share).map_err(io::Error::other)?;
            client.write_all(&answer[..answer.len() * share / 1000])?;
            self.hold();
            return Ok(());
        }
        client.write_all(&answer)
    }

    /// How the request with this head is to be held, if it is.
    fn hold_of(&self, head: &str) -> Option<Hold> {
        let mut state = self.state();
        let trap = state.trap.as_mut()?;
        let (method, rest) = head.split_once(' ')?;
        let path = rest.split([' ', '?']).next()?;
        if method != trap.method || !trap.paths.iter().any(|part| path.contains(part)) {
            return None;
        }
        if trap.passing > 0 {
            trap.passing -= 1;
            return None;
        }
        let hold = trap.hold;
        state.trap = None;
        Some(hold)
    }

    /// Says that a request is held, and holds it.
    fn hold(&self) {
        let mut state = self.state();
        state.sprung = true;
        self.changed.notify_all();
        let released = state.released;
        while state.released == released && !state.stopped {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
