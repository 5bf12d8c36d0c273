//! Whole layers read side by side: what merges them, and what checks them, sees all versions of a key together.

mod reader;
mod steps;

pub(crate) use reader::{DoesNotOpen, MergeReader, begins, replay};
pub(crate) use steps::Step;
