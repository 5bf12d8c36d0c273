//! What the demo compares with: the files of a stopped cluster, or pages made from their own number.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use engine::types::PAGE_BYTES;
use postgres::data_files::{DataFile, classify};
use postgres::key::{Fork, Relation};

use crate::pagestream::codec::RelationFork;

/// A run of blocks of one fork, and where the right bytes are.
pub(super) struct Run {
    pub(super) rel: RelationFork,
    pub(super) first_block: u32,
    pub(super) blocks: u32,
    truth: Truth,
}

enum Truth {
    File(PathBuf),
    Made,
}

/// Blocks in one file of a fork.
const SEGMENT_BLOCKS: u32 = 131_072;

impl Run {
    /// Generated pages.
    pub(super) fn made(relation: Relation, blocks: u32) -> Run {
        Run {
            rel: wire(relation, Fork::Main),
            first_block: 0,
            blocks,
            truth: Truth::Made,
        }
    }

    /// The right bytes of all blocks, one after the other.
    pub(super) fn truth(&self) -> io::Result<Box<dyn Read>> {
        Ok(match &self.truth {
            Truth::File(path) => Box::new(io::BufReader::with_capacity(1 << 20, File::open(path)?)),
            Truth::Made => {
                let pages: Vec<u8> = (0..self.blocks)
                    .flat_map(|block| *made_page(block))
                    .collect();
                Box::new(io::Cursor::new(pages))
            }
        })
    }
}

/// Every file of relations below a stopped data directory.
pub(super) fn of_data_directory(data: &Path, postgres_major: u16) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut folders = vec![data.join("global")];
    for entry in std::fs::read_dir(data.join("base"))? {
        folders.push(entry?.path());
    }
    for folder in folders {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(data).map_err(io::Error::other)?;
            let name = name.to_string_lossy();
            if let DataFile::Relation {
                relation,
                fork,
                segment,
            } = classify(&name, postgres_major)
            {
                let blocks = std::fs::metadata(&path)?.len() / PAGE_BYTES as u64;
                runs.push(Run {
                    rel: wire(relation, fork),
                    first_block: segment * SEGMENT_BLOCKS,
                    blocks: u32::try_from(blocks).map_err(io::Error::other)?,
                    truth: Truth::File(path),
                });
            }
        }
    }
    Ok(runs)
}

/// A page that no other block has, half of it incompressible.
pub(super) fn made_page(block: u32) -> Box<[u8; PAGE_BYTES]> {
    let mut page = Box::new([0; PAGE_BYTES]);
    let mut state = u64::from(block) + 1;
    for word in page[24..PAGE_BYTES / 2].chunks_exact_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&state.to_le_bytes());
    }
    page[..4].copy_from_slice(&block.to_le_bytes());
    page
}

fn wire(relation: Relation, fork: Fork) -> RelationFork {
    RelationFork {
        tablespace: relation.tablespace,
        database: relation.database,
        relation: relation.number,
        fork: fork.number(),
    }
}
