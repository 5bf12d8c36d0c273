//! The engine's types that the page frontend is written against.

pub(crate) use engine::{Answer, BranchHandle, Core, ErrorKind, ReadError, Reads};
