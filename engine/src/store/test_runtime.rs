//! What the unit tests of this folder run on: an executor whose time passes only when nothing else can happen, and a
//! disk in memory. (The simulator proper, with faults of the disk and a seeded scheduler, is the tests crate's.)

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::io::aligned_buffer::AlignedBuffer;
use crate::io::clock::{Clock, Moment, Spawner};
use crate::io::disk::{Disk, DiskError, DiskFile};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Executor, spawner and clock in one.
#[derive(Clone, Default)]
pub(super) struct TestRuntime {
    now: Rc<Cell<u64>>,
    timers: Rc<RefCell<BTreeMap<(u64, u64), Waker>>>,
    timers_made: Rc<Cell<u64>>,
    spawned: Rc<RefCell<Vec<Task>>>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl TestRuntime {
    /// Runs `main` to its end, and spawned tasks along with it.
    pub(super) fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let mut tasks: Vec<Task> = Vec::new();
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            while woken.0.swap(false, SeqCst) || !self.spawned.borrow().is_empty() {
                if let Poll::Ready(output) = main.as_mut().poll(&mut context) {
                    return output;
                }
                tasks.append(&mut self.spawned.borrow_mut());
                tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            }
            let first = self.timers.borrow_mut().pop_first();
            let ((at, _), waker) = first.expect("everything waits, and for nothing");
            self.now.set(at.max(self.now.get()));
            waker.wake();
        }
    }
}

impl Clock for TestRuntime {
    fn now(&self) -> Moment {
        Moment(self.now.get())
    }

    async fn sleep(&self, wait: Duration) {
        let id = self.timers_made.replace(self.timers_made.get() + 1);
        let key = (self.now().after(wait).0, id);
        /// A sleep that is dropped must not keep the clock going.
        struct Timer<'a>(&'a TestRuntime, (u64, u64));
        impl Drop for Timer<'_> {
            fn drop(&mut self) {
                self.0.timers.borrow_mut().remove(&self.1);
            }
        }
        let _timer = Timer(self, key);
        std::future::poll_fn(|context| {
            if self.now.get() >= key.0 {
                return Poll::Ready(());
            }
            let mut timers = self.timers.borrow_mut();
            timers.insert(key, context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Spawner for TestRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }
}

/// Files in memory.
#[derive(Clone, Default)]
pub(super) struct MemoryDisk {
    files: Rc<RefCell<BTreeMap<PathBuf, Rc<MemoryFile>>>>,
    /// Every write fails while set.
    pub(super) is_broken: Rc<Cell<bool>>,
    /// Files opened so far.
    pub(super) open_count: Rc<Cell<u32>>,
}

pub(super) struct MemoryFile {
    bytes: RefCell<Vec<u8>>,
    is_broken: Rc<Cell<bool>>,
}

impl MemoryDisk {
    /// A disk with one file of `len_bytes` bytes of 0xee.
    pub(super) fn with_file(path: &str, len_bytes: usize) -> MemoryDisk {
        let disk = MemoryDisk::default();
        let file = MemoryFile {
            bytes: RefCell::new(vec![0xee; len_bytes]),
            is_broken: Rc::clone(&disk.is_broken),
        };
        disk.files.borrow_mut().insert(path.into(), Rc::new(file));
        disk
    }

    /// What the file holds.
    pub(super) fn bytes(&self, path: &str) -> Vec<u8> {
        self.files.borrow()[Path::new(path)].bytes.borrow().clone()
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    async fn open(&self, path: &Path, _: Option<u64>) -> Result<Rc<MemoryFile>, DiskError> {
        self.open_count.set(self.open_count.get() + 1);
        let missing = || DiskError::Device {
            op: "open",
            source: io::ErrorKind::NotFound.into(),
        };
        self.files.borrow().get(path).cloned().ok_or_else(missing)
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.files.borrow_mut().remove(path);
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    type ReadBuffer = Vec<u8>;

    fn alignment_bytes(&self) -> usize {
        4096
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    async fn read_at(&self, at: u64, len_bytes: usize) -> Result<Vec<u8>, DiskError> {
        let at = usize::try_from(at).expect("small");
        Ok(self.bytes.borrow()[at..at + len_bytes].to_vec())
    }

    async fn write_at(&self, at: u64, buffer: AlignedBuffer) -> Result<AlignedBuffer, DiskError> {
        assert!(
            at.is_multiple_of(4096) && buffer.len().is_multiple_of(4096),
            "aligned"
        );
        if self.is_broken.get() {
            return Err(DiskError::Device {
                op: "write",
                source: io::Error::other("broken"),
            });
        }
        let at = usize::try_from(at).expect("small");
        self.bytes.borrow_mut()[at..at + buffer.len()].copy_from_slice(&buffer);
        Ok(buffer)
    }

    async fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}
