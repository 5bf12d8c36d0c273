pub mod key; pub mod key_space; pub mod page; pub mod redo; pub mod wal; pub mod verify; mod bytes_at;
