//! The loop that sends requests and counts answers.
//!
//! A slot is room for one request on one connection; there are connections x depth of them. Free slots queue up; the
//! schedule says when the next one may send. A latency belongs to the measured time if its request was *due* in it, a
//! rate counts the answers that *arrived* in it. After the end, answers under way are waited for, up to a bound; what
//! never comes is recorded with the age it reached and counted as an error.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use engine::types::KeySpace;
use postgres::key::{Fork, PostgresKey, Relation};
use postgres::key_space::PostgresKeySpace;
use rustix::event::epoll;
use rustix::time::Timespec;

use super::codec::{
    Answer, Echo, PAGE_ANSWER_BYTES, REQUEST_BYTES, RelationPage, echo, page_of, put_request,
    shard_of, take_answer,
};
use super::keyspace::Keyspace;
use super::session::{self, Session};
use crate::access::{Access, Picker};
use crate::clock::{as_ns, now_ns};
use crate::counters::Counters;
use crate::error::{BenchError, Doing, Result};
use crate::latency::Latencies;
use crate::pages::Check;
use crate::rounds::Measured;
use crate::schedule::{Schedule, Turn};

/// How long answers are waited for after the end of a run.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest sleep without a look at the clock.
const TICK: Duration = Duration::from_millis(100);
/// Most bytes of answers that one connection buffers.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Keys drawn for a connection before one that its address owns must have come.
const DRAWS_MAX: u32 = 10_000;

/// Whom to ask.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Connection i goes to address i modulo their number.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) session: Session,
    /// Blocks per stripe of a sharded client.
    pub(crate) stripe_blocks: u32,
}

/// Which pages a connection asks for, where there are several addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Locality {
    /// All of them.
    Any,
    /// Those that the protocol deals to its address, as a sharded client asks.
    Sharded,
    /// Those that the engine's core of that number owns: no request crosses cores, where address i is core i.
    Same,
    /// Those that other cores own: every request crosses cores.
    Cross,
}

/// How to ask.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    /// Requests in flight per connection.
    pub(crate) depth: u32,
    pub(crate) access: Access,
    /// Requests per second in all; `None` is a closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    pub(crate) locality: Locality,
    pub(crate) check: Check,
    /// Client threads; connections are dealt out to them.
    pub(crate) threads: u32,
    pub(crate) seed: u64,
    pub(crate) lsn: u64,
    pub(crate) not_modified_since: u64,
}

/// Runs the load and counts.
///
/// # Errors
/// A connection that can't be opened or breaks, and answers that are none. Answers that are errors are counted.
pub(crate) fn run(
    target: &Target,
    keyspace: &Keyspace,
    load: &Load,
    counters: &Counters,
) -> Result<Measured> {
    let addresses = u32::try_from(target.addresses.len()).unwrap_or(0);
    if addresses == 0 || load.connections == 0 || load.depth == 0 || keyspace.pages() == 0 {
        let text = "needs an address, a connection, a depth and pages to read";
        return Err(BenchError::Unfit(text.to_owned()));
    }
    let threads = load.threads.clamp(1, load.connections);
    let mut dealt: Vec<Vec<Connection>> = (0..threads).map(|_| Vec::new()).collect();
    for number in 0..load.connections {
        let home = number % addresses;
        let address = target.addresses[usize::try_from(home).expect("a small number")];
        let stream = session::open(address, &target.session)?;
        let thread = usize::try_from(number % threads).expect("a small number");
        dealt[thread].push(Connection::new(stream, home, load.depth));
    }

    let start_ns = now_ns();
    let from_ns = start_ns + as_ns(load.warm_up);
    let to_ns = from_ns + as_ns(load.measure);
    let share = |thread: u32, connections: Vec<Connection>| Worker {
        schedule: match load.rate {
            None => Schedule::Closed { end_ns: to_ns },
            Some(rate) => Schedule::Open {
                // Threads take turns within one interval.
                start_ns: start_ns + as_ns(Duration::from_secs_f64(f64::from(thread) / rate)),
                end_ns: to_ns,
                rate: rate / f64::from(threads),
                sent: 0,
            },
        },
        picker: Picker::new(load.access, keyspace.pages(), load.seed, u64::from(thread)),
        free: (0..load.depth).flat_map(|_| 0..connections.len()).collect(),
        connections,
        keyspace,
        load,
        stripe_blocks: target.stripe_blocks,
        addresses,
        window: (from_ns, to_ns),
        request_id: u64::from(thread) << 48,
        tally: Tally {
            ops: 0,
            errors: 0,
            first_error: None,
            latencies: Latencies::new(),
        },
    };
    let (tallies, used, elapsed) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..)
            .zip(dealt)
            .map(|(thread, connections)| {
                let worker = share(thread, connections);
                scope.spawn(move || worker.run())
            })
            .collect();
        sleep_until(from_ns);
        let (before, before_ns) = (counters.sample(), now_ns());
        sleep_until(to_ns);
        let (after, after_ns) = (counters.sample(), now_ns());
        let tallies: Vec<Result<Tally>> = workers
            .into_iter()
            .map(|worker| worker.join().expect("a client thread does not panic"))
            .collect();
        (
            tallies,
            after.since(&before),
            Duration::from_nanos(after_ns - before_ns),
        )
    });

    let mut measured = Measured {
        ops: 0,
        elapsed,
        latencies: Latencies::new(),
        used,
        errors: 0,
    };
    for tally in tallies {
        let tally = tally?;
        measured.ops += tally.ops;
        measured.errors += tally.errors;
        measured.latencies.add(&tally.latencies);
        if let Some(text) = tally.first_error {
            tracing::warn!("{} answers were errors, the first: {text}", tally.errors);
        }
    }
    Ok(measured)
}

fn sleep_until(until_ns: u64) {
    std::thread::sleep(Duration::from_nanos(until_ns.saturating_sub(now_ns())));
}

/// What one thread counted.
struct Tally {
    ops: u64,
    errors: u64,
    first_error: Option<String>,
    latencies: Latencies,
}

/// One thread's share of the load.
struct Worker<'a> {
    connections: Vec<Connection>,
    /// Connections with room, one entry per free slot.
    free: VecDeque<usize>,
    schedule: Schedule,
    picker: Picker,
    keyspace: &'a Keyspace,
    load: &'a Load,
    stripe_blocks: u32,
    addresses: u32,
    window: (u64, u64),
    request_id: u64,
    tally: Tally,
}

/// One connection with its requests in flight.
struct Connection {
    stream: TcpStream,
    /// Which of the addresses it goes to.
    home: u32,
    sent: VecDeque<(u64, Echo)>,
    out: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
}

/// What the thread does next.
enum Next {
    /// Wait for answers, or until the time given.
    Wait(Option<u64>),
    /// Everything was sent.
    Finished,
}

impl Worker<'_> {
    fn run(mut self) -> Result<Tally> {
        // Without this an open loop at sub-millisecond gaps would be 50 us late each time.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        if self.connections.len() == 1 && self.load.rate.is_none() {
            self.run_one()?;
        } else {
            self.run_many()?;
        }
        Ok(self.tally)
    }

    /// One connection, closed loop: blocking reads, two system calls per batch.
    fn run_one(&mut self) -> Result<()> {
        self.connections[0]
            .stream
            .set_read_timeout(Some(TICK))
            .doing(|| "set a timeout")?;
        loop {
            let next = self.send(now_ns())?;
            if self.is_over(&next) {
                return Ok(());
            }
            self.receive(0)?;
        }
    }

    fn run_many(&mut self) -> Result<()> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).doing(|| "epoll_create")?;
        for (number, connection) in self.connections.iter().enumerate() {
            connection
                .stream
                .set_nonblocking(true)
                .doing(|| "make a socket non-blocking")?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&poll, &connection.stream, data, epoll::EventFlags::IN)
                .doing(|| "epoll_add")?;
        }
        let mut events = Vec::with_capacity(self.connections.len());
        loop {
            let next = self.send(now_ns())?;
            if self.is_over(&next) {
                return Ok(());
            }
            let mut timeout = TICK;
            if let Next::Wait(Some(until_ns)) = next {
                timeout = timeout.min(Duration::from_nanos(until_ns.saturating_sub(now_ns())));
            }
            if self.connections.iter().any(|c| !c.out.is_empty()) {
                // The server does not take requests now: ask again soon.
                timeout = timeout.min(Duration::from_millis(1));
            }
            events.clear();
            let timeout = Timespec::try_from(timeout).expect("at most a tick");
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&poll, spare, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).doing(|| "epoll_wait"),
            }
            for event in &events {
                let number = usize::try_from(event.data.u64()).expect("a number we registered");
                self.receive(number)?;
            }
        }
    }

    /// Whether the thread is done: everything was answered, or the wait for it took too long.
    fn is_over(&mut self, next: &Next) -> bool {
        let now = now_ns();
        let in_flight = self.connections.iter().any(|c| !c.sent.is_empty());
        if matches!(next, Next::Finished) && !in_flight {
            return true;
        }
        if now < self.window.1 + as_ns(DRAIN_TIMEOUT) {
            return false;
        }
        let Self {
            connections,
            schedule,
            tally,
            window,
            ..
        } = self;
        let mut never = |due_ns: u64| {
            tally.errors += 1;
            if (window.0..window.1).contains(&due_ns) {
                tally.latencies.record(now - due_ns);
            }
        };
        connections
            .iter()
            .flat_map(|c| &c.sent)
            .for_each(|(due_ns, _)| never(*due_ns));
        schedule.unsent(now, never);
        tally
            .first_error
            .get_or_insert_with(|| "no answer within the drain time".to_owned());
        true
    }

    /// Gives every free slot its turn, and the sockets what was written.
    fn send(&mut self, now: u64) -> Result<Next> {
        let mut next = Next::Wait(None);
        while let Some(&number) = self.free.front() {
            match self.schedule.turn(now) {
                Turn::Send { intended_ns } => {
                    self.free.pop_front();
                    self.request(number, intended_ns)?;
                }
                Turn::Wait { until_ns } => {
                    next = Next::Wait(Some(until_ns));
                    break;
                }
                Turn::Finished => {
                    next = Next::Finished;
                    break;
                }
            }
        }
        for connection in self.connections.iter_mut().filter(|c| !c.out.is_empty()) {
            connection.flush()?;
        }
        Ok(next)
    }

    fn request(&mut self, number: usize, intended_ns: u64) -> Result<()> {
        let page = self.pick(self.connections[number].home)?;
        self.request_id += 1;
        let echo = echo(
            self.request_id,
            self.load.lsn,
            self.load.not_modified_since,
            page,
        );
        let connection = &mut self.connections[number];
        connection.sent.push_back((intended_ns, echo));
        put_request(&mut connection.out, &echo);
        Ok(())
    }

    fn pick(&mut self, home: u32) -> Result<RelationPage> {
        for _ in 0..DRAWS_MAX {
            let page = self.keyspace.page(self.picker.pick());
            let wanted = match self.load.locality {
                Locality::Any => true,
                Locality::Sharded => shard_of(page, self.stripe_blocks, self.addresses) == home,
                Locality::Same => owner_of(page, self.addresses) == home,
                Locality::Cross => owner_of(page, self.addresses) != home,
            };
            if wanted {
                return Ok(page);
            }
        }
        let text = format!("no page in {DRAWS_MAX} draws fits address {home}");
        Err(BenchError::Unfit(text))
    }

    /// Takes what has arrived on a connection.
    fn receive(&mut self, number: usize) -> Result<()> {
        let Self {
            connections,
            tally,
            window,
            load,
            free,
            ..
        } = self;
        let connection = &mut connections[number];
        let got = match connection
            .stream
            .read(&mut connection.buffer[connection.filled..])
        {
            Ok(0) => {
                return Err(BenchError::Protocol(
                    "the server closed a connection".to_owned(),
                ));
            }
            Ok(got) => got,
            Err(e) if is_not_now(e.kind()) => return Ok(()),
            Err(e) => return Err(e).doing(|| "receive"),
        };
        connection.filled += got;
        let now = now_ns();
        let mut taken = 0;
        while let Some((due_ns, echo)) = connection.sent.front() {
            let rest = &connection.buffer[taken..connection.filled];
            let Some((answer, bytes)) = take_answer(rest, echo)? else {
                break;
            };
            match answer {
                Answer::Page(page) => load.check.check(page_of(echo), page)?,
                Answer::Error(text) => {
                    tally.errors += 1;
                    tally.first_error.get_or_insert(text);
                }
            }
            if (window.0..window.1).contains(due_ns) {
                tally.latencies.record(now.saturating_sub(*due_ns));
            }
            if (window.0..window.1).contains(&now) {
                tally.ops += 1;
            }
            connection.sent.pop_front();
            free.push_back(number);
            taken += bytes;
        }
        if connection.sent.is_empty() && taken < connection.filled {
            return Err(BenchError::Protocol(
                "bytes that nobody asked for".to_owned(),
            ));
        }
        connection.buffer.copy_within(taken..connection.filled, 0);
        connection.filled -= taken;
        Ok(())
    }
}

impl Connection {
    fn new(stream: TcpStream, home: u32, depth: u32) -> Self {
        let depth = usize::try_from(depth).expect("a small number");
        // Room for every answer under way, and for one at least beside a part of another.
        let buffer_bytes =
            (depth * PAGE_ANSWER_BYTES).clamp(2 * PAGE_ANSWER_BYTES, BUFFER_BYTES_MAX);
        Self {
            stream,
            home,
            sent: VecDeque::with_capacity(depth),
            out: Vec::with_capacity(depth * REQUEST_BYTES),
            buffer: vec![0; buffer_bytes],
            filled: 0,
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self.stream.write(&self.out) {
            Ok(sent) if sent == self.out.len() => self.out.clear(),
            Ok(sent) => drop(self.out.drain(..sent)),
            Err(e) if is_not_now(e.kind()) => {}
            Err(e) => return Err(e).doing(|| "send"),
        }
        Ok(())
    }
}

/// The core, of `cores`, that owns a page.
fn owner_of(page: RelationPage, cores: u32) -> u32 {
    let relation = Relation {
        tablespace: page.tablespace,
        database: page.database,
        number: page.relation,
    };
    let key = PostgresKey::Block {
        relation,
        fork: Fork::from_number(page.fork).unwrap_or(Fork::Main),
        block: page.block,
    };
    u32::from(PostgresKeySpace.partition(&key.encode()).number()) % cores
}

fn is_not_now(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests;
