//! The ring of a core: everything its tasks ask of the kernel while they serve (device reads and writes, sockets, timers,
//! the wakes of other threads) goes through one io_uring of our own, on the thread of the core's glommio executor.
//!
//! glommio runs the tasks. Its own three rings are not used: it arms and cancels timers on them at every round and sets
//! them up so that each completion interrupts the core, which together cost more than a device read. Here a
//! round is at most one `io_uring_enter`, which submits what was queued, waits if nothing else is to be done, and runs the
//! completions (`SINGLE_ISSUER`, `DEFER_TASKRUN`). [`driver`] says when it is made.
//!
//! **Ownership.** An operation owns its buffer and its file ([`Keep`]) in its slot from submission to completion. Whoever
//! waits for it has an [`Operation`]; dropping that asks the kernel to cancel and gives up the answer, no more: slot,
//! buffer and file stay until the completion has come. [`CoreRing::shut`] waits for all of them before the memory goes.
//!
//! Slots, the submission queue, the registered buffers and the wakers' places keep their memory: an operation in the
//! steady state allocates nothing.

mod bell;
mod driver;
mod operation;
mod pool;
mod tasks;
mod timers;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use self::bell::Bell;
pub(super) use self::bell::tracked;
pub(super) use self::driver::drive;
use self::operation::{Keep, Landing, Slots};
pub(super) use self::operation::{Memory, Operation};
use self::pool::Pool;
pub(super) use self::pool::{POOL_BUFFER_BYTES, PoolBuffer};
use self::tasks::Tasks;
pub(super) use self::tasks::kept;
pub(super) use self::timers::Sleep;
use self::timers::Timers;
use super::aligned_buffer::AlignedBuffer;

thread_local! {
    /// The ring of the core that runs on this thread.
    static CURRENT: RefCell<Option<Rc<CoreRing>>> = const { RefCell::new(None) };
}

/// A core's ring. Belongs to the thread that made it.
pub(super) struct CoreRing {
    ring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    /// Entries that found the submission queue full, in order.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    timers: RefCell<Timers>,
    origin: Instant,
    pool: Pool,
    bell: Arc<Bell>,
    tasks: Tasks,
    stopped: Cell<bool>,
}

impl CoreRing {
    /// Sets up the ring of this thread, with `pool_buffers` registered buffers of [`POOL_BUFFER_BYTES`]. Where locked memory
    /// does not suffice they are used unregistered, which costs some CPU per read.
    pub(super) fn install(pool_buffers: usize) -> io::Result<Rc<CoreRing>> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let pool = Pool::new(pool_buffers);
        let area = pool.area();
        // SAFETY: the memory belongs to the pool, which is freed after `shut` has waited for every operation: the ring's file
        // is closed before, since fields drop in order of declaration.
        let registered = unsafe { ring.submitter().register_buffers(&[area]) };
        if let Err(error) = &registered {
            tracing::warn!(%error, "buffers for reads are not registered: is the limit of locked memory too low?");
        }
        pool.registered.set(registered.is_ok());
        let core_ring = Rc::new(CoreRing {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            backlog: RefCell::default(),
            timers: RefCell::default(),
            origin: now(),
            pool,
            bell: Bell::hang()?,
            tasks: Tasks::default(),
            stopped: Cell::new(false),
        });
        core_ring.arm_bell();
        CURRENT.set(Some(Rc::clone(&core_ring)));
        Ok(core_ring)
    }

    /// The ring of this thread's core.
    /// # Panics
    /// On a thread that `start_core` did not start.
    pub(super) fn current() -> Rc<CoreRing> {
        CURRENT.with_borrow(|current| {
            let ring = current.as_ref();
            Rc::clone(ring.expect("this thread runs a core"))
        })
    }

    /// Lets the driver end.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
    }

    /// Drops the tasks that are left, cancels what is under way, waits until the kernel holds nothing of ours, and forgets
    /// the ring. To be called when the core's executor is gone: nobody is polled any more. If the kernel keeps something
    /// for [`SHUT_MAX`] the memory is left to it.
    pub(super) fn shut(self: Rc<Self>) {
        self.tasks.end();
        CURRENT.set(None);
        // After a panic nobody else has said so: the bell must not be hung up again.
        self.stopped.set(true);
        let began = self.since_origin();
        while self.slots.borrow().flying > 0 {
            if self.since_origin() - began > SHUT_MAX {
                let flying = self.slots.borrow().flying;
                tracing::error!(
                    flying,
                    "the kernel does not give back what it was asked for"
                );
                std::mem::forget(self);
                return;
            }
            let all = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
            self.push(all.user_data(IGNORED));
            self.enter(1, Some(SHUT_POLL));
            while self.land_one() {}
        }
    }

    /// Reads `len_bytes` at `at` into a buffer of the pool, or one of its own where the pool has none that is free and
    /// long enough.
    pub(super) fn read(
        self: &Rc<Self>,
        file: &Rc<OwnedFd>,
        at: u64,
        len_bytes: usize,
    ) -> Operation {
        let len = u32::try_from(len_bytes).expect("reads are below 4 GiB");
        let fd = types::Fd(file.as_raw_fd());
        if let Some(buffer) = self.pool_buffer(len_bytes) {
            let start = buffer.start();
            let entry = if self.pool.registered.get() {
                opcode::ReadFixed::new(fd, start, len, 0).offset(at).build()
            } else {
                opcode::Read::new(fd, start, len).offset(at).build()
            };
            return self.start(entry, Keep::new(file, Memory::Pooled(buffer)));
        }
        let mut buffer = AlignedBuffer::zeroed(len_bytes);
        let entry = opcode::Read::new(fd, buffer.as_mut_ptr(), len).offset(at);
        self.start(entry.build(), Keep::new(file, Memory::Aligned(buffer)))
    }

    /// Writes all of `buffer` at `at`.
    pub(super) fn write(
        self: &Rc<Self>,
        file: &Rc<OwnedFd>,
        at: u64,
        buffer: AlignedBuffer,
    ) -> Operation {
        let len = u32::try_from(buffer.len()).expect("writes are below 4 GiB");
        let entry =
            opcode::Write::new(types::Fd(file.as_raw_fd()), buffer.as_ptr(), len).offset(at);
        self.start(entry.build(), Keep::new(file, Memory::Aligned(buffer)))
    }

    /// Makes what was written durable.
    pub(super) fn sync(self: &Rc<Self>, file: &Rc<OwnedFd>) -> Operation {
        let entry =
            opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC);
        self.start(entry.build(), Keep::new(file, Memory::None))
    }

    /// Receives into the whole of `buffer`. With `wait_first` the kernel does not look before the socket tells of data.
    pub(super) fn receive(
        self: &Rc<Self>,
        socket: &Rc<OwnedFd>,
        mut buffer: Vec<u8>,
        wait_first: bool,
    ) -> Operation {
        let len = u32::try_from(buffer.len()).expect("socket buffers are small");
        let entry = opcode::Recv::new(types::Fd(socket.as_raw_fd()), buffer.as_mut_ptr(), len);
        let flags = if wait_first { POLL_FIRST } else { 0 };
        let entry = entry.ioprio(flags).build();
        self.start(entry, Keep::new(socket, Memory::Bytes(buffer)))
    }

    /// Sends `buffer` from `from` on, all of it unless the connection breaks.
    pub(super) fn send(
        self: &Rc<Self>,
        socket: &Rc<OwnedFd>,
        buffer: Vec<u8>,
        from: usize,
    ) -> Operation {
        let rest = &buffer[from..];
        let len = u32::try_from(rest.len()).expect("socket buffers are small");
        let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), rest.as_ptr(), len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.start(entry.build(), Keep::new(socket, Memory::Bytes(buffer)))
    }

    /// Accepts a connection; its descriptor is the result.
    pub(super) fn accept(self: &Rc<Self>, listener: &Rc<OwnedFd>) -> Operation {
        let fd = types::Fd(listener.as_raw_fd());
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC);
        self.start(entry.build(), Keep::new(listener, Memory::Descriptor))
    }

    /// Completes after `wait`, not before.
    pub(super) fn sleep(self: &Rc<Self>, wait: Duration) -> Sleep {
        Sleep {
            due: self.since_origin().saturating_add(wait),
            number: None,
            ring: Rc::clone(self),
        }
    }

    /// Puts an operation into a slot and its entry into the submission queue; the driver submits it.
    ///
    /// `entry` may point into the memory that `keep` owns, and nowhere else.
    fn start(self: &Rc<Self>, entry: squeue::Entry, keep: Keep) -> Operation {
        let slot = self.slots.borrow_mut().take(keep);
        self.push(entry.user_data(slot.into()));
        Operation {
            ring: Rc::clone(self),
            slot: Some(slot),
        }
    }

    fn push(&self, entry: squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: what the entry points to is owned by its operation's slot until the completion, or lives as long as the
        // ring (the bell's place), or it points to nothing (cancellations).
        if unsafe { ring.submission().push(&entry) }.is_err() {
            self.backlog.borrow_mut().push_back(entry);
        }
    }

    /// Refills the submission queue from the backlog.
    fn drain_backlog(&self) {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        while let Some(entry) = backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { ring.submission().push(entry) }.is_err() {
                return;
            }
            backlog.pop_front();
        }
    }

    /// Whether the device works for this core.
    fn device_works(&self) -> bool {
        self.slots.borrow().at_device > 0
    }

    /// Entries that wait to be submitted.
    fn queued(&self) -> usize {
        self.ring.borrow_mut().submission().len() + self.backlog.borrow().len()
    }

    /// Whether the kernel has completions for us that take an enter to become visible.
    fn has_deferred(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        let submissions = ring.submission();
        submissions.taskrun() || submissions.cq_overflow()
    }

    fn has_completions(&self) -> bool {
        !self.ring.borrow_mut().completion().is_empty()
    }

    /// Submits what is queued, runs deferred completions, and waits for `want` of them, at most for `limit`.
    fn enter(&self, want: usize, limit: Option<Duration>) {
        loop {
            self.drain_backlog();
            if self.backlog.borrow().is_empty() {
                break;
            }
            // The kernel takes what is in the queue before there is room for the rest.
            if !self.submit(0, None) {
                return;
            }
        }
        self.submit(want, limit);
    }

    /// One call; says whether it submitted anything.
    fn submit(&self, want: usize, limit: Option<Duration>) -> bool {
        let ring = self.ring.borrow();
        let time = limit.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(time) = &time {
            args = args.timespec(time);
        }
        match ring.submitter().submit_with_args(want, &args) {
            Ok(count) => count > 0,
            Err(e) => match e.raw_os_error() {
                // Time is up; a signal; or the kernel wants completions to be taken first. What was not submitted stays
                // in the queue for the next time.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => false,
                _ => panic!("a ring that was set up takes submissions: {e}"),
            },
        }
    }

    /// Takes one completion, if there is one, and wakes who waits for it.
    fn land_one(&self) -> bool {
        let Some(completion) = self.ring.borrow_mut().completion().next() else {
            return false;
        };
        match completion.user_data() {
            IGNORED => {}
            BELL => {
                self.slots.borrow_mut().flying -= 1;
                if !self.stopped.get() {
                    self.arm_bell();
                }
            }
            slot => {
                let slot = u32::try_from(slot).expect("slot numbers are what we put in");
                let landed = self.slots.borrow_mut().land(slot, &completion);
                match landed {
                    Landing::Awaited(waker) => waker.into_iter().for_each(Waker::wake),
                    Landing::Abandoned(keep) => keep.give_up(completion.result()),
                }
            }
        }
        true
    }

    /// Reads the bell's eventfd, so that its ringing ends a wait.
    fn arm_bell(&self) {
        let fd = types::Fd(self.bell.eventfd().as_raw_fd());
        self.slots.borrow_mut().flying += 1;
        self.push(
            opcode::Read::new(fd, self.pool.bell_place(), 8)
                .build()
                .user_data(BELL),
        );
    }

    fn pool_buffer(self: &Rc<Self>, len_bytes: usize) -> Option<PoolBuffer> {
        if len_bytes > POOL_BUFFER_BYTES {
            return None;
        }
        let number = self.pool.free.borrow_mut().pop()?;
        Some(PoolBuffer {
            ring: Rc::clone(self),
            number,
        })
    }

    fn since_origin(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Wakes sleepers whose time has come; says whether there were any, and when the next is due.
    fn wake_sleepers(&self) -> (bool, Option<Duration>) {
        let mut timers = self.timers.borrow_mut();
        let mut woke = false;
        let mut now = None;
        while let Some(first) = timers.by_due.first_entry() {
            let due = first.key().0;
            let now = *now.get_or_insert_with(|| self.since_origin());
            if due > now {
                return (woke, Some(due - now));
            }
            first.remove().wake();
            woke = true;
        }
        (woke, None)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the core's own clock; the simulator has no ring"
)]
fn now() -> Instant {
    Instant::now()
}

/// Entries submitted at once; more wait in the backlog.
const SUBMISSIONS: u32 = 512;
/// Completions that wait to be taken; beyond that the kernel keeps them itself.
const COMPLETIONS: u32 = 4096;
/// Completions of nobody: cancellations.
const IGNORED: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;
/// Longest wait for cancelled operations when a core ends. A device that hangs for so long is broken.
const SHUT_MAX: Duration = Duration::from_secs(10);
const SHUT_POLL: Duration = Duration::from_millis(20);
/// `IORING_RECVSEND_POLL_FIRST` of the kernel's interface.
const POLL_FIRST: u16 = 1;

#[cfg(test)]
mod tests;
