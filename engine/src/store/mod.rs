//! Object storage: streaming misses, uploads, hedges. Does not know pages, extents or versions.
//!
//! From the outside in:
//!
//! - [`client`]: the handle that shards and everybody else hold; [`requests`]: what crosses the queues;
//! - [`worker`]: serves the queues on a store thread; `fill`: extents on their way to the cache;
//! - [`reliable`]: deadlines, retries and hedges over a bare [`objects::Objects`]; `miss_stream`: a body that goes on
//!   where it broke off; `hedge`, `retry_budget`: what bounds the extra requests;
//! - [`url_objects`]: the bare store, named by a [`store_url`]; [`memory`]: a deterministic one; [`faulty`]: any of them, with faults;
//! - [`probe`]: does the store honour put-if-absent.

pub mod client;
pub mod config;
pub mod faulty;
mod fill;
mod hedge;
pub mod memory;
mod miss_stream;
pub mod objects;
pub mod probe;
pub mod reliable;
pub mod requests;
mod retry_budget;
pub mod stats;
pub mod store_url;
pub mod url_objects;
pub mod worker;

pub use client::{StoreClient, StoreQueues, TryFetchError};
pub use config::StoreConfig;
pub use requests::{
    FETCH_BYTES_MAX, FILL_BYTES_MAX, FetchEvent, FetchRequest, Fill, FillError, FillTarget,
    Priority, VerifyExtent,
};
