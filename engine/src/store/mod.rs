//! Object storage: streaming misses, uploads, hedges. Does not know pages, extents or versions.

pub mod objects;
