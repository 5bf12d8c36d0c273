//! The pagestream frontend: the protocol that existing computes and load generators speak to a pageserver.
//!
//! In the order in which a connection passes them: `listener` accepts it, `startup` opens the session, `session` reads
//! commands, `connection` and `stream` run the pagestream itself with `codec`'s messages in `frames`, through a `transport` with
//! TLS or without; `limits` bounds all of it and `patience` ends what takes too long.

mod answers;
pub mod codec;
mod connection;
pub mod counters;
pub mod frames;
mod inbox;
pub mod latency;
pub mod limits;
pub mod listener;
pub mod lsn_rules;
mod outbox;
mod patience;
pub mod session;
pub mod startup;
mod stream;
mod transport;
