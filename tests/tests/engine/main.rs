//! The engine on real cores, rings and object stores, without Postgres.

mod deltas;
mod ingest;
mod object_stores;
mod reading;
