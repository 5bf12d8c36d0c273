//! The device baseline: a plain ring that does nothing but read one file with direct IO at a fixed depth. Used
//! by `bench` only; what the engine reaches is measured against it.
//!
//! It is as lean as a ring can be here: one thread submits and completes (`SINGLE_ISSUER`, `COOP_TASKRUN`,
//! `DEFER_TASKRUN`), everything that became free is submitted in one system call, nothing is allocated while reading.
//!
//! Each slot owns a buffer. A slot's buffer is the kernel's from submission to completion; the ring's `drop` waits for
//! all of them before any buffer is freed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use rustix::fs::{Mode, OFlags};

use super::aligned_buffer::AlignedBuffer;
use super::ring_disk::direct_io_alignment;

/// What to read and how.
#[derive(Clone, Copy, Debug)]
pub struct RawRingConfig {
    /// Reads in the kernel at once. Range 1..=4096.
    pub depth: u32,
    /// Bytes of each read, a multiple of the file's alignment.
    pub read_bytes: u32,
    /// Whether the buffers are registered with the ring.
    pub registered_buffers: bool,
}

/// A ring that reads one file. Belongs to the thread that opened it.
pub struct RawRing {
    ring: IoUring,
    file: File,
    config: RawRingConfig,
    slots: Vec<Slot>,
    in_flight: usize,
}

struct Slot {
    buffer: AlignedBuffer,
    submitted: Instant,
}

impl RawRing {
    /// Opens `path` for direct reads and sets up the ring. Fails on a depth or size out of range.
    pub fn open(path: &Path, config: RawRingConfig) -> io::Result<RawRing> {
        let alignment = direct_io_alignment(path).map_err(io::Error::other)?;
        let read_bytes = usize::try_from(config.read_bytes).map_err(io::Error::other)?;
        if !(1..=4096).contains(&config.depth)
            || read_bytes == 0
            || !read_bytes.is_multiple_of(alignment)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "depth {} must be in 1..=4096 and read size {read_bytes} a multiple of {alignment}",
                    config.depth
                ),
            ));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .build(config.depth)?;
        let slots: Vec<Slot> = (0..config.depth)
            .map(|_| Slot {
                buffer: AlignedBuffer::zeroed(read_bytes),
                submitted: now(),
            })
            .collect();
        let raw = RawRing {
            ring,
            file,
            config,
            slots,
            in_flight: 0,
        };
        if config.registered_buffers {
            let areas: Vec<libc::iovec> = raw.slots.iter().map(Slot::area).collect();
            // SAFETY: the buffers belong to `raw`, are never replaced, and are freed after its ring, since fields drop
            // in order of declaration.
            unsafe { raw.ring.submitter().register_buffers(&areas)? };
        }
        Ok(raw)
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads in a closed loop: keeps `depth` reads in the kernel, at the positions that `next_at` gives, until it gives
    /// none and all have come back. `done` gets each read's time from submission to completion, and its bytes.
    /// # Errors
    /// The first refused or short read ends the loop; what is still in the kernel is waited for when the ring is
    /// dropped or used again.
    pub fn run(
        &mut self,
        mut next_at: impl FnMut() -> Option<u64>,
        mut done: impl FnMut(Duration, &[u8]),
    ) -> io::Result<()> {
        self.drain();
        for number in 0..self.config.depth {
            match next_at() {
                Some(at) => self.queue(number, at)?,
                None => break,
            }
        }
        while self.in_flight > 0 {
            self.submit_and_wait()?;
            while let Some((number, result)) = self.take_completion() {
                let slot = &self.slots[number as usize];
                if result != Ok(self.config.read_bytes) {
                    return Err(match result {
                        Ok(got) => io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            format!("read {got} of {} bytes", self.config.read_bytes),
                        ),
                        Err(code) => io::Error::from_raw_os_error(code),
                    });
                }
                done(slot.submitted.elapsed(), &slot.buffer);
                if let Some(at) = next_at() {
                    self.queue(number, at)?;
                }
            }
        }
        Ok(())
    }

    /// Puts a read into the submission queue; the kernel sees it at the next `submit_and_wait`.
    fn queue(&mut self, number: u32, at: u64) -> io::Result<()> {
        let slot = &mut self.slots[number as usize];
        let fd = types::Fd(self.file.as_raw_fd());
        let (start, bytes) = (slot.buffer.as_mut_ptr(), self.config.read_bytes);
        let entry = if self.config.registered_buffers {
            let index = u16::try_from(number).expect("at most 4,096 slots");
            opcode::ReadFixed::new(fd, start, bytes, index)
                .offset(at)
                .build()
        } else {
            opcode::Read::new(fd, start, bytes).offset(at).build()
        };
        slot.submitted = now();
        // SAFETY: the slot's buffer and the file belong to `self`, which waits for every read before it goes; nobody
        // touches the buffer until its completion was taken.
        unsafe { self.ring.submission().push(&entry.user_data(number.into())) }
            .map_err(io::Error::other)?;
        self.in_flight += 1;
        Ok(())
    }

    fn submit_and_wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The next completed read: its slot, and the bytes read or the error number.
    fn take_completion(&mut self) -> Option<(u32, Result<u32, i32>)> {
        let entry = self.ring.completion().next()?;
        self.in_flight -= 1;
        let number = u32::try_from(entry.user_data()).expect("slot numbers are what we put in");
        let result = u32::try_from(entry.result()).map_err(|_| -entry.result());
        Some((number, result))
    }

    /// Waits until the kernel holds no buffer of ours.
    fn drain(&mut self) {
        while self.in_flight > 0 {
            // A ring that cannot even wait leaves no way to know when its buffers are free: freeing them then
            // would let the kernel write into other memory.
            self.submit_and_wait()
                .expect("a ring that submitted can wait");
            while self.take_completion().is_some() {}
        }
    }
}

impl Drop for RawRing {
    fn drop(&mut self) {
        self.drain();
    }
}

impl Slot {
    fn area(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.buffer.as_ptr().cast_mut().cast(),
            iov_len: self.buffer.len(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the baseline measures the device, never a simulation"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_block_is_read_once_with_and_without_registered_buffers() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let blocks = 64u64;
        for number in 0..blocks {
            let byte = u8::try_from(number).expect("below 256");
            file.write_all(&[byte; 4096]).expect("written");
        }
        file.as_file().sync_all().expect("durable");
        for (depth, registered_buffers) in [(1, false), (8, true), (8, false), (100, false)] {
            let config = RawRingConfig {
                depth,
                read_bytes: 4096,
                registered_buffers,
            };
            let mut ring = RawRing::open(file.path(), config).expect("opens");
            assert_eq!(ring.file_bytes().expect("known"), blocks * 4096);
            for _ in 0..2 {
                let mut seen = vec![0; 64];
                let mut offsets = (0..blocks).map(|n| n * 4096);
                ring.run(
                    || offsets.next(),
                    |took, bytes| {
                        assert!(took > Duration::ZERO);
                        assert!(bytes.iter().all(|&b| b == bytes[0]));
                        seen[usize::from(bytes[0])] += 1;
                    },
                )
                .expect("reads");
                assert_eq!(seen, [1; 64]);
            }
            let mut past_the_end = [0, blocks * 4096].into_iter();
            let error = ring
                .run(|| past_the_end.next(), |_, _| {})
                .expect_err("the end");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn sizes_that_direct_io_refuses_are_named() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        for (depth, read_bytes) in [(0, 4096), (5000, 4096), (1, 0), (1, 100)] {
            let config = RawRingConfig {
                depth,
                read_bytes,
                registered_buffers: false,
            };
            let error = RawRing::open(file.path(), config).err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
