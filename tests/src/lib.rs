//! What the tests of the whole are made of: harness of black-box tests, golden files. The simulation is a package of its own.
//!
//! - [`postgres`]: throw-away clusters; [`sql`]: sessions of them; [`work`]: one that works hard;
//! - [`standby`]: the oracle: a stock standby that replays the same WAL; [`cluster_state`]: state that is no page, from files or
//!   from versions;
//! - [`tools`]: where `tests/run` put the servers that play object stores.
//! - [`server`]: the program as an operator runs it; [`page_client`]: a client of the page protocol; [`served`]: what is
//!   served, judged by a standby's files.
//! - [`object_contract`]: what every object store must do; [`stores`]: servers that play them; [`gcs_stub`];
//! - [`store_proxy`]: holds a request on its way to them.
#![forbid(unsafe_code)]

pub mod cluster_state;
pub mod engine;
pub mod gcs_stub;
pub mod object_contract;
pub mod page_client;
pub mod postgres;
pub mod served;
pub mod server;
pub mod sql;
pub mod standby;
pub mod store_proxy;
pub mod stores;
pub mod tools;
pub mod work;
