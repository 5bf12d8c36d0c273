//! The engine on real cores, rings and object stores, without Postgres.

mod checking;
mod deltas;
mod ingest;
mod object_stores;
mod old_wal;
mod reading;
