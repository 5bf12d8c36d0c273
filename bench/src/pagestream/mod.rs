//! A load generator for the pagestream protocol: what a compute would ask, as fast as it is told to.
//!
//! It shares its machine with the server, so it is lean: one thread for all connections, one `epoll_wait` per batch of
//! answers, one `send` per connection and batch, and no `epoll` at all where there is one connection. Answers are
//! checked: their order, the echo of the request, their length and, if asked for, the page.

pub(crate) mod client;
pub(crate) mod codec;
pub(crate) mod keyspace;
pub(crate) mod session;
