//! The ring, aligned buffers, clocks. The only folder with `unsafe` and with the names of the runtimes; it does not
//! know what the bytes mean.
#![expect(
    unsafe_code,
    reason = "buffers the kernel writes to: those of the cores' rings, and of the raw ring of the device baseline"
)]

pub mod aligned_buffer;
pub mod clock;
mod core_ring;
pub mod counting_allocator;
mod directory;
pub mod disk;
pub mod executor;
pub mod glommio_clock;
#[cfg(test)]
pub(crate) mod memory_disk;
pub mod permits;
pub mod raw_ring;
pub mod ring_disk;
pub mod ring_net;
pub mod ring_thread;
pub mod store_thread;
#[cfg(test)]
pub(crate) mod test_runtime;
pub mod tokio_clock;
pub mod tokio_uring_disk;
