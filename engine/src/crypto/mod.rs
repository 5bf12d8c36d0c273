//! Seals, keys, and who provides them. Does not know the network or time; of files only the keyring's.

pub mod entropy;
pub mod kek;
pub mod key_provider;
pub mod key_table;
pub mod keyring;
pub mod page_seal;
pub mod sealed_record;
