//! Which pages there are: asked of the server's admin HTTP, or told by hand. Pages are numbered through, so that a
//! generator picks a number.

use std::str::FromStr;

use super::codec::RelationPage;
use crate::error::{BenchError, Result};

/// Runs of blocks, numbered through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keyspace {
    /// First page of each run, and the number behind its last.
    runs: Vec<(RelationPage, u64)>,
}

impl Keyspace {
    /// Adds `blocks` blocks from `first` on.
    pub(crate) fn push(&mut self, first: RelationPage, blocks: u32) {
        if blocks > 0 {
            self.runs.push((first, self.pages() + u64::from(blocks)));
        }
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> u64 {
        self.runs.last().map_or(0, |&(_, end)| end)
    }

    /// The page of a number below [`Keyspace::pages`].
    pub(crate) fn page(&self, number: u64) -> RelationPage {
        let run = self.runs.partition_point(|&(_, end)| end <= number);
        let start = run.checked_sub(1).map_or(0, |before| self.runs[before].1);
        let (first, _) = self.runs[run];
        let offset = u32::try_from(number - start).expect("a run has at most 2^32 blocks");
        RelationPage {
            block: first.block + offset,
            ..first
        }
    }

    /// Asks the admin server at `http` (such as `http://127.0.0.1:9898`) for the relations of a branch.
    ///
    /// # Errors
    /// No answer, another status than 200, or ranges that are none.
    pub(crate) fn discover(
        http: &str,
        tenant: &str,
        timeline: &str,
        token: Option<&str>,
    ) -> Result<Self> {
        let base = http.trim_end_matches('/');
        let url = format!("{base}/v1/tenant/{tenant}/timeline/{timeline}/keyspace");
        let failed = |e: ureq::Error| BenchError::Unfit(format!("GET {url}: {e}"));
        let mut request = ureq::get(&url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer: Answer = request
            .call()
            .map_err(failed)?
            .body_mut()
            .read_json()
            .map_err(failed)?;
        Self::from_ranges(&answer.keys)
    }

    fn from_ranges(ranges: &[(String, String)]) -> Result<Self> {
        let mut keyspace = Self::default();
        for (from, to) in ranges {
            let bad = || BenchError::Protocol(format!("keyspace {from}..{to} is no run of blocks"));
            let (kind, first) = parse_key(from).ok_or_else(bad)?;
            let (_, end) = parse_key(to).ok_or_else(bad)?;
            if kind != 0 {
                continue;
            }
            let same = RelationPage { block: 0, ..first } == RelationPage { block: 0, ..end };
            let blocks = end
                .block
                .checked_sub(first.block)
                .filter(|_| same)
                .ok_or_else(bad)?;
            keyspace.push(first, blocks);
        }
        Ok(keyspace)
    }
}

/// The part of the answer that is needed.
#[derive(serde::Deserialize)]
struct Answer {
    keys: Vec<(String, String)>,
}

/// 36 hex digits: kind, tablespace, database, relation, fork, block.
fn parse_key(text: &str) -> Option<(u8, RelationPage)> {
    if text.len() != 36 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let number = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok();
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let page = RelationPage {
        tablespace: number(2)?,
        database: number(10)?,
        relation: number(18)?,
        fork: byte(26)?,
        block: number(28)?,
    };
    Some((byte(0)?, page))
}

/// `TABLESPACE/DATABASE/RELATION[.FORK]:BLOCKS`, numbers in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelationSize(pub(crate) RelationPage, pub(crate) u32);

impl FromStr for RelationSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parse = || {
            let (path, blocks) = text.split_once(':')?;
            let parts: Vec<&str> = path.split('/').collect();
            let [tablespace, database, relation] = parts[..] else {
                return None;
            };
            let (relation, fork) = relation.split_once('.').unwrap_or((relation, "0"));
            let page = RelationPage {
                tablespace: tablespace.parse().ok()?,
                database: database.parse().ok()?,
                relation: relation.parse().ok()?,
                fork: fork.parse().ok()?,
                block: 0,
            };
            Some(RelationSize(page, blocks.parse().ok()?))
        };
        parse().ok_or_else(|| format!("{text:?} is not TABLESPACE/DATABASE/RELATION[.FORK]:BLOCKS"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_admin_call_become_pages_numbered_through() {
        let key = |kind: u8, relation: u32, block: u32| {
            format!("{kind:02X}{:08X}{:08X}{relation:08X}00{block:08X}", 1663, 5)
        };
        let keyspace = Keyspace::from_ranges(&[
            (key(0, 10, 0), key(0, 10, 3)),
            (key(1, 0, 0), key(1, 0, 9)),
            (key(0, 11, 100), key(0, 11, 102)),
        ])
        .expect("valid");
        let pages: Vec<(u32, u32)> = (0..keyspace.pages())
            .map(|n| keyspace.page(n))
            .map(|page| (page.relation, page.block))
            .collect();
        assert_eq!(pages, [(10, 0), (10, 1), (10, 2), (11, 100), (11, 101)]);

        for bad in [
            (key(0, 10, 3), key(0, 10, 2)),
            (key(0, 10, 0), key(0, 11, 0)),
            ("00".to_owned(), key(0, 1, 1)),
        ] {
            assert!(Keyspace::from_ranges(&[bad]).is_err());
        }
    }

    #[test]
    fn relation_sizes_are_told_by_hand() {
        let RelationSize(page, blocks) = "1663/5/16384.1:200".parse().expect("valid");
        assert_eq!((page.relation, page.fork, blocks), (16384, 1, 200));
        for bad in [
            "1663/5/16384",
            "1663/5:1",
            "a/b/c:1",
            "1/2/3:-1",
            "1/2/3/4:1",
        ] {
            assert!(bad.parse::<RelationSize>().is_err(), "{bad} parsed");
        }
    }
}
