//! The `pageserver` binary as a library: its frontends and its command line, over the engine's public API.
//!
//! - [`config`]: what can be set;
//! - [`address`]: how people write `tenant/branch[@lsn]`;
//! - [`pagestream`]: the service for pages.
#![forbid(unsafe_code)]

pub mod address;
pub mod config;
pub mod pagestream;
