//! A thread with tokio's reactor and a ring of its own: for work that talks to sockets and writes files directly, off the
//! cores.

use std::io;

/// Runs `work` to its end on this thread. Local tasks may be spawned in it; those that are left when it ends are dropped.
/// `ring_entries`: operations that may be submitted at once, a power of two.
///
/// # Errors
/// The system gave no ring.
pub fn run_with_ring<F: Future>(
    ring_entries: u32,
    work: impl FnOnce() -> F,
) -> io::Result<F::Output> {
    let mut ring = tokio_uring::uring_builder();
    // Only this thread submits, and completions need no interrupt of it: it comes by often enough.
    ring.setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(ring_entries).uring_builder(&ring);
    let runtime = tokio_uring::Runtime::new(&builder)?;
    Ok(runtime.block_on(async { work().await }))
}
