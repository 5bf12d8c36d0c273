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
mod tasks;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use self::bell::Bell;
pub(super) use self::bell::tracked;
pub(super) use self::driver::drive;
use self::tasks::Tasks;
pub(super) use self::tasks::kept;
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

/// Operations under way, and free places.
#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<u32>,
    /// Operations that the kernel has or is about to get, the bell's included.
    flying: usize,
    /// Those of them that read or write a device.
    at_device: usize,
}

enum Slot {
    Free,
    Flying {
        keep: Keep,
        waker: Option<Waker>,
    },
    /// Nobody waits for it any more.
    Abandoned {
        keep: Keep,
    },
    Landed {
        keep: Keep,
        completed: Completed,
    },
}

/// What a completion says.
#[derive(Clone, Copy)]
struct Completed {
    result: i32,
    flags: u32,
}

enum Landing {
    Awaited(Option<Waker>),
    Abandoned(Keep),
}

impl Slots {
    fn take(&mut self, keep: Keep) -> u32 {
        self.flying += 1;
        self.at_device += usize::from(keep.memory.is_of_device());
        let flying = Slot::Flying { keep, waker: None };
        if let Some(number) = self.free.pop() {
            self.all[number as usize] = flying;
            return number;
        }
        self.all.push(flying);
        u32::try_from(self.all.len() - 1).expect("operations are bounded by reads and connections")
    }

    fn land(&mut self, number: u32, completion: &cqueue::Entry) -> Landing {
        self.flying -= 1;
        let slot = &mut self.all[number as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Flying { keep, waker } => {
                self.at_device -= usize::from(keep.memory.is_of_device());
                let completed = Completed {
                    result: completion.result(),
                    flags: completion.flags(),
                };
                *slot = Slot::Landed { keep, completed };
                Landing::Awaited(waker)
            }
            Slot::Abandoned { keep } => {
                self.at_device -= usize::from(keep.memory.is_of_device());
                self.free.push(number);
                Landing::Abandoned(keep)
            }
            Slot::Free | Slot::Landed { .. } => unreachable!("an operation completes once"),
        }
    }
}

/// What an operation owns while the kernel works on it.
pub(super) struct Keep {
    pub(super) memory: Memory,
    _file: Rc<OwnedFd>,
}

/// The memory that an operation reads or writes.
pub(super) enum Memory {
    None,
    Pooled(PoolBuffer),
    Aligned(AlignedBuffer),
    Bytes(Vec<u8>),
    /// The result is a new descriptor.
    Descriptor,
}

impl Memory {
    /// Whether it is the memory of reads and writes of a device.
    fn is_of_device(&self) -> bool {
        matches!(self, Memory::Pooled(_) | Memory::Aligned(_))
    }
}

impl Keep {
    fn new(file: &Rc<OwnedFd>, memory: Memory) -> Keep {
        Keep {
            memory,
            _file: Rc::clone(file),
        }
    }

    /// The operation completed and nobody wants what it brought.
    fn give_up(self, result: i32) {
        if matches!(self.memory, Memory::Descriptor) && result >= 0 {
            drop(descriptor(result));
        }
    }
}

/// Takes over a descriptor that the kernel has just made.
fn descriptor(result: i32) -> OwnedFd {
    // SAFETY: an accept that succeeded gives a new descriptor to its submitter, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(result) }
}

/// An operation under way, as its waiter has it. Gives the completion and what the operation owned.
pub(super) struct Operation {
    ring: Rc<CoreRing>,
    /// `None` once the result was taken.
    slot: Option<u32>,
}

/// A completed operation.
pub(super) struct Done {
    pub(super) result: io::Result<u32>,
    pub(super) memory: Memory,
    /// For a receive: more was there than the buffer took.
    pub(super) more: bool,
}

impl Done {
    /// The descriptor that an accept brought.
    pub(super) fn into_descriptor(self) -> io::Result<OwnedFd> {
        let raw = self.result?;
        Ok(descriptor(
            i32::try_from(raw).expect("it was an i32 before"),
        ))
    }
}

impl Future for Operation {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let number = self.slot.expect("not polled after completion");
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots.all[number as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Landed { keep, completed } => {
                slots.free.push(number);
                drop(slots);
                self.slot = None;
                let result = u32::try_from(completed.result)
                    .map_err(|_| io::Error::from_raw_os_error(-completed.result));
                Poll::Ready(Done {
                    result,
                    memory: keep.memory,
                    more: cqueue::sock_nonempty(completed.flags),
                })
            }
            Slot::Flying { keep, waker } => {
                let waker = match waker {
                    Some(known) if known.will_wake(cx.waker()) => known,
                    _ => cx.waker().clone(),
                };
                *slot = Slot::Flying {
                    keep,
                    waker: Some(waker),
                };
                Poll::Pending
            }
            Slot::Free | Slot::Abandoned { .. } => unreachable!("its waiter is here"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(number) = self.slot else { return };
        let mut slots = self.ring.slots.borrow_mut();
        let slot = &mut slots.all[number as usize];
        match std::mem::replace(slot, Slot::Free) {
            Slot::Landed { keep, completed } => {
                slots.free.push(number);
                drop(slots);
                keep.give_up(completed.result);
            }
            Slot::Flying { keep, .. } => {
                *slot = Slot::Abandoned { keep };
                drop(slots);
                let cancel = opcode::AsyncCancel::new(number.into()).build();
                self.ring.push(cancel.user_data(IGNORED));
            }
            Slot::Free | Slot::Abandoned { .. } => unreachable!("its waiter is here"),
        }
    }
}

/// The buffers of reads: one run of memory, registered with the ring as one, and a place for the bell behind them.
struct Pool {
    start: *mut u8,
    len_bytes: usize,
    /// Owns the bytes. Not looked at: the kernel writes into them.
    _memory: AlignedBuffer,
    registered: Cell<bool>,
    free: RefCell<Vec<u32>>,
}

impl Pool {
    fn new(buffers: usize) -> Pool {
        let mut memory = AlignedBuffer::zeroed(buffers * POOL_BUFFER_BYTES + BELL_BYTES);
        let count = u32::try_from(buffers).expect("buffers are few");
        Pool {
            start: memory.as_mut_ptr(),
            len_bytes: memory.len(),
            _memory: memory,
            registered: Cell::new(false),
            free: RefCell::new((0..count).rev().collect()),
        }
    }

    fn area(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.start.cast(),
            iov_len: self.len_bytes,
        }
    }

    fn bell_place(&self) -> *mut u8 {
        // SAFETY: the last `BELL_BYTES` of the memory are the bell's.
        unsafe { self.start.add(self.len_bytes - BELL_BYTES) }
    }
}

/// One buffer of the pool; it is free again on drop.
pub(super) struct PoolBuffer {
    ring: Rc<CoreRing>,
    number: u32,
}

impl PoolBuffer {
    fn start(&self) -> *mut u8 {
        // SAFETY: numbers are below the number of buffers that the memory was made for.
        unsafe {
            self.ring
                .pool
                .start
                .add(self.number as usize * POOL_BUFFER_BYTES)
        }
    }
}

impl Deref for PoolBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are initialised and belong to this buffer alone; while an operation owns it nobody can look
        // at it, and whoever has it here has it after the operation's completion.
        unsafe { std::slice::from_raw_parts(self.start(), POOL_BUFFER_BYTES) }
    }
}

impl Drop for PoolBuffer {
    fn drop(&mut self) {
        self.ring.pool.free.borrow_mut().push(self.number);
    }
}

#[derive(Default)]
struct Timers {
    by_due: BTreeMap<(Duration, u64), Waker>,
    next_number: u64,
}

/// The future of [`CoreRing::sleep`].
pub(super) struct Sleep {
    ring: Rc<CoreRing>,
    /// Since the ring's origin.
    due: Duration,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ring = Rc::clone(&self.ring);
        let mut timers = ring.timers.borrow_mut();
        if let Some(number) = self.number {
            if let Some(waker) = timers.by_due.get_mut(&(self.due, number)) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            self.number = None;
            return Poll::Ready(());
        }
        if ring.since_origin() >= self.due {
            return Poll::Ready(());
        }
        let number = timers.next_number;
        timers.next_number += 1;
        timers.by_due.insert((self.due, number), cx.waker().clone());
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.ring
                .timers
                .borrow_mut()
                .by_due
                .remove(&(self.due, number));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the core's own clock; the simulator has no ring"
)]
fn now() -> Instant {
    Instant::now()
}

/// Bytes of a pool buffer: a sealed page, and the device's rounding at both ends.
pub(super) const POOL_BUFFER_BYTES: usize = 16 << 10;
const BELL_BYTES: usize = 4096;
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
