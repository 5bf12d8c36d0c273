//! Records of databases, tablespaces and relation maps.
//!
//! - database: 0x00 made by copying files: database, tablespace, original's database and tablespace (4 each); 0x10 made
//!   empty, filled by later records: database, tablespace; 0x20 dropped: database, count, tablespaces (4 each)
//! - tablespace: 0x00 made: oid (4), path to a zero byte; 0x10 dropped: oid (4)
//! - relation map: 0x00: database, tablespace, bytes (4 each), the file
//!
//! A database made by copying is not copied here: its beginning names the original.

use super::{ClusterState, Out, put, remove};
use crate::key::PostgresKey;
use crate::redo::{Fields, RedoError};
use crate::value::Tablespace;
use crate::wal::Record;

pub(super) fn database(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    let forks = &mut state.forks;
    match record.operation() {
        COPIED => {
            let directory = (main.u32()?, main.u32()?);
            let original = (main.u32()?, main.u32()?);
            forks.make_directory(directory, Some(original), record.end, out);
        }
        MADE => {
            let directory = (main.u32()?, main.u32()?);
            forks.make_directory(directory, None, record.end, out);
        }
        DROPPED => {
            let database = main.u32()?;
            for _ in 0..main.u32()? {
                let tablespace = main.u32()?;
                let key = PostgresKey::RelationMap {
                    database,
                    tablespace,
                };
                remove(key, out);
                forks.drop_directory((database, tablespace), out);
            }
        }
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

pub(super) fn tablespace(
    record: &Record<'_>,
    state: &mut ClusterState,
    out: Out<'_>,
) -> Result<(), RedoError> {
    let mut main = Fields::new("main data", record.main);
    let tablespace = main.u32()?;
    let key = PostgresKey::Tablespace { tablespace };
    match record.operation() {
        MADE_TABLESPACE => {
            let rest = main.rest();
            let path = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            // A path that is not UTF-8 is refused by the import as well.
            let path = std::str::from_utf8(path).map_err(|error| RedoError::Record {
                what: "path that is no UTF-8 from byte",
                value: error.valid_up_to() as u64,
            })?;
            // One made in place is a folder, named as the import names it.
            let path = match path {
                "" => format!("pg_tblspc/{tablespace}"),
                path => path.to_owned(),
            };
            put(key, &Tablespace { path }.encode(), out);
        }
        DROPPED_TABLESPACE => {
            remove(key, out);
            // Folders in which databases once had relations.
            state.forks.drop_directories_of(tablespace, out);
        }
        operation => return Err(RedoError::Operation(operation)),
    }
    Ok(())
}

pub(super) fn relation_map(record: &Record<'_>, out: Out<'_>) -> Result<(), RedoError> {
    if record.operation() != 0 {
        return Err(RedoError::Operation(record.operation()));
    }
    let mut main = Fields::new("main data", record.main);
    let (database, tablespace) = (main.u32()?, main.u32()?);
    let bytes = main.u32()?;
    if !MAP_BYTES.contains(&bytes) {
        return Err(RedoError::Record {
            what: "bytes of a relation map",
            value: bytes.into(),
        });
    }
    let key = PostgresKey::RelationMap {
        database,
        tablespace,
    };
    let file = main.take(usize::try_from(bytes).expect("one of the above"))?;
    put(key, file, out);
    Ok(())
}

const COPIED: u8 = 0x00;
const MADE: u8 = 0x10;
const DROPPED: u8 = 0x20;
const MADE_TABLESPACE: u8 = 0x00;
const DROPPED_TABLESPACE: u8 = 0x10;
/// Of 15, and from 16 on.
const MAP_BYTES: [u32; 2] = [512, 524];
