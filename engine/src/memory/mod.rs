//! Versions of a branch that are in no layer yet, as the core keeps them that owns their keys.
//!
//! The *active* memory layer takes batches; it is frozen when it is to be sealed, and stays readable until the layer that
//! comes of it can be read. A version is in the active one, in a frozen one, or in a layer; for a moment in two of them,
//! never in none.
//!
//! Values stay in the buffers they came in; what is added per version is a place in a tree, about 100 bytes.

mod batch;
mod chains;
mod layer;
mod layers;

pub use batch::VersionBatch;
pub(crate) use chains::{ChainBounds, Chains};
pub use layer::MemoryLayer;
pub(crate) use layer::MemoryVersion;
pub(crate) use layers::MemoryLayers;

/// What a version takes beside its value: its key, LSN and place, and its share of the tree's nodes.
const VERSION_BYTES: usize = 96;
