//! What the files of a stopped cluster say, and a comparison of a server with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use harness::page_client::{Answer, Ask, LATEST, Lsns, PageClient, RelationFork};

pub(crate) const PAGE_BYTES: usize = 8192;

/// Every fork and SLRU segment with its bytes.
pub(crate) struct ClusterFiles {
    pub(crate) forks: BTreeMap<RelationFork, Vec<u8>>,
    /// By number of the SLRU and of the segment.
    pub(crate) slru_segments: BTreeMap<(u8, u32), Vec<u8>>,
}

impl ClusterFiles {
    pub(crate) fn of(data_directory: &Path) -> ClusterFiles {
        let mut forks: BTreeMap<RelationFork, Vec<u8>> = BTreeMap::new();
        read_forks(&data_directory.join("global"), 1664, 0, &mut forks);
        for (name, path) in entries(&data_directory.join("base")) {
            // Beside databases there may be a folder of temporary files.
            let Ok(database) = name.parse() else {
                continue;
            };
            read_forks(&path, 1663, database, &mut forks);
        }
        // Of unlogged relations a backup has the init fork only: it is what they begin with again.
        let unlogged: BTreeSet<u32> = forks
            .keys()
            .filter(|rel| rel.fork == 3)
            .map(|rel| rel.relation)
            .collect();
        forks.retain(|rel, _| rel.fork == 3 || !unlogged.contains(&rel.relation));
        let mut slru_segments = BTreeMap::new();
        for (kind, folder) in [
            (0, "pg_xact"),
            (1, "pg_multixact/members"),
            (2, "pg_multixact/offsets"),
        ] {
            for (name, path) in entries(&data_directory.join(folder)) {
                let segment = u32::from_str_radix(&name, 16).expect("a segment's name");
                slru_segments.insert((kind, segment), whole_pages(&path));
            }
        }
        assert!(forks.len() > 100 && slru_segments.len() >= 3, "no cluster");
        ClusterFiles {
            forks,
            slru_segments,
        }
    }

    /// All blocks there are, in order.
    pub(crate) fn blocks(&self) -> Vec<(RelationFork, u32)> {
        let of_fork = |(rel, bytes): (&RelationFork, &Vec<u8>)| {
            let rel = *rel;
            (0..block_count(bytes)).map(move |block| (rel, block))
        };
        self.forks.iter().flat_map(of_fork).collect()
    }

    pub(crate) fn page(&self, rel: RelationFork, block: u32) -> &[u8] {
        let at = usize::try_from(block).expect("32 bits") * PAGE_BYTES;
        &self.forks[&rel][at..at + PAGE_BYTES]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.forks.values().map(Vec::len).sum()
    }

    /// Asks for everything, and for what lies behind the end of everything.
    pub(crate) fn assert_served(&self, client: &mut PageClient<impl Read + Write>) {
        for (rel, bytes) in &self.forks {
            let blocks = block_count(bytes);
            let ends = [blocks, blocks.saturating_add(1), u32::MAX - 1];
            let asks: Vec<Ask> = [Ask::Exists(*rel), Ask::Nblocks(*rel)]
                .into_iter()
                .chain(
                    (0..blocks)
                        .chain(ends)
                        .map(|block| Ask::GetPage(*rel, block)),
                )
                .collect();
            let answers = client.ask_all(&asks, LATEST).expect("answers");
            let (facts, pages) = answers.split_at(2);
            assert_eq!(
                facts,
                [Answer::Exists(true), Answer::Nblocks(blocks)],
                "{rel:?}"
            );
            let zero = [0; PAGE_BYTES];
            let expected = bytes.chunks(PAGE_BYTES).chain([&zero[..]; 3]);
            for (block, (page, expected)) in pages.iter().zip(expected).enumerate() {
                assert!(is_page(page, expected), "{rel:?} block {block}");
            }
        }
        self.assert_databases_served(client);
        self.assert_slru_served(client);
    }

    /// Asks for blocks and compares.
    pub(crate) fn assert_blocks_served(
        &self,
        client: &mut PageClient<impl Read + Write>,
        blocks: &[(RelationFork, u32)],
        lsns: Lsns,
    ) {
        let ask = |&(rel, block): &(RelationFork, u32)| Ask::GetPage(rel, block);
        let asks: Vec<Ask> = blocks.iter().map(ask).collect();
        let answers = client.ask_all(&asks, lsns).expect("answers");
        for ((rel, block), answer) in blocks.iter().zip(&answers) {
            assert!(
                is_page(answer, self.page(*rel, *block)),
                "{rel:?} block {block}"
            );
        }
    }

    fn assert_databases_served(&self, client: &mut PageClient<impl Read + Write>) {
        let databases: BTreeSet<u32> = self.forks.keys().map(|rel| rel.database).collect();
        for database in databases.into_iter().filter(|database| *database != 0) {
            let of_database = self
                .forks
                .iter()
                .filter(|(rel, _)| rel.database == database);
            let bytes: usize = of_database.map(|(_, bytes)| bytes.len()).sum();
            let bytes = i64::try_from(bytes).expect("a small cluster");
            let answer = client
                .ask(Ask::DbSize(database), LATEST)
                .expect("an answer");
            assert_eq!(answer, Answer::DbSize(bytes), "database {database}");
        }
    }

    fn assert_slru_served(&self, client: &mut PageClient<impl Read + Write>) {
        for ((kind, segment), bytes) in &self.slru_segments {
            let ask = Ask::GetSlruSegment(*kind, *segment);
            let answer = client.ask(ask, LATEST).expect("an answer");
            assert!(answer == Answer::GetSlruSegment(bytes.clone()), "{ask:?}");
        }
    }
}

/// Whether an answer is this page; without printing 8192 bytes if not.
pub(crate) fn is_page(answer: &Answer, expected: &[u8]) -> bool {
    matches!(answer, Answer::GetPage(page) if page == expected)
}

pub(crate) fn block_count(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len() / PAGE_BYTES).expect("a small cluster")
}

fn read_forks(
    folder: &Path,
    tablespace: u32,
    database: u32,
    forks: &mut BTreeMap<RelationFork, Vec<u8>>,
) {
    for (name, path) in entries(folder) {
        assert!(
            !name.contains('.') || !name.starts_with(|c: char| c.is_ascii_digit()),
            "{name}: a second segment"
        );
        let (number, suffix) = name.split_once('_').unwrap_or((&name, ""));
        let Ok(relation) = number.parse() else {
            continue;
        };
        let fork = match suffix {
            "" => 0,
            "fsm" => 1,
            "vm" => 2,
            "init" => 3,
            _ => panic!("{name}: an unknown fork"),
        };
        let rel = RelationFork {
            tablespace,
            database,
            relation,
            fork,
        };
        forks.insert(rel, whole_pages(&path));
    }
}

fn whole_pages(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).expect("a file of the cluster");
    assert_eq!(bytes.len() % PAGE_BYTES, 0, "{}", path.display());
    bytes
}

fn entries(folder: &Path) -> Vec<(String, std::path::PathBuf)> {
    let read = fs::read_dir(folder).expect("a folder of the cluster");
    read.map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("ASCII");
        (name.to_owned(), path.clone())
    })
    .collect()
}
