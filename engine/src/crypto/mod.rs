//! Seals and keys. Does not know files, networks or time.

pub mod page_seal;
