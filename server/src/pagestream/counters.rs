//! What the page frontend counts, for `/metrics`. One set per core: it has one writer, so counting is a load and a
//! store without a locked instruction, and anybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one core writes and anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `count` more. The core that owns the counter only.
    pub fn add(&self, count: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets a gauge. The core that owns it only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $help:literal])* $name:ident,)*) => {
        /// The counters of one core. Aligned so that two cores' never share a cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct FrontendCounters {
            $($(#[doc = $help])* pub $name: Counter,)*
        }

        impl FrontendCounters {
            /// Name, help text and value of each; see [`GAUGES`], too.
            pub fn named(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($help),*).trim_ascii(), self.$name.get()),)*]
            }
        }
    };
}

/// Those that go down, too.
pub const GAUGES: [&str; 3] = [
    "connections_open",
    "requests_in_flight",
    "connections_waiting",
];

counters! {
    /// Connections accepted.
    connections_accepted,
    /// Connections open now.
    connections_open,
    /// Connections refused because there were too many.
    connections_refused,
    /// Connections ended by a wrong password or missing TLS.
    connections_unauthorized,
    /// Connections ended by bytes that are not of the protocol.
    connections_malformed,
    /// Connections ended by a timeout.
    connections_timed_out,
    /// GetPage requests.
    requests_get_page,
    /// All other page service requests.
    requests_other,
    /// Requests answered with an error.
    requests_failed,
    /// Requests taken and not answered, now.
    requests_in_flight,
    /// Connections that wait until a request of theirs may be read, now.
    connections_waiting,
    /// Pages answered as zeros because they lie past the end of their relation.
    pages_past_end,
    /// Writes to clients; many answers go out in one.
    batches_written,
    /// Bytes written to clients.
    bytes_written,
}
