//! What a server serves of a branch, judged by the files of a standby that stopped at the same LSN.

use engine::types::Lsn;
use postgres::key::{BlockTag, Fork, Relation, Slru};
use postgres::verify::Page;

use crate::cluster_state::Files;
use crate::page_client::{Answer, Ask, LATEST, Lsns, RelationFork};
use crate::server::{Branch, Server};
use crate::standby::first_difference;

/// Compares every size, page and segment, at an LSN or at the last.
///
/// # Panics
/// Something is not the same.
pub fn judge_server(
    server: &Server,
    branch: &Branch,
    at: Option<Lsn>,
    theirs: &Files,
    pages: &[(BlockTag, Box<Page>)],
) {
    let lsns = at.map_or(LATEST, |at| Lsns {
        request: at.0,
        not_modified_since: at.0,
    });
    let mut client = server.client(branch);
    for ((relation, fork), blocks) in &theirs.forks {
        let rel = wire(*relation, *fork);
        let answers = client
            .ask_all(&[Ask::Exists(rel), Ask::Nblocks(rel)], lsns)
            .expect("answers");
        let wanted = [Answer::Exists(true), Answer::Nblocks(*blocks)];
        assert_eq!(answers, wanted, "{relation} {fork:?}");
    }
    let all: Vec<_> = judged(theirs, pages).collect();
    let mut differences = Vec::new();
    for some in all.chunks(200) {
        let asks: Vec<Ask> = some
            .iter()
            .map(|(tag, _)| Ask::GetPage(wire(tag.relation, tag.fork), tag.block))
            .collect();
        let answers = client.ask_all(&asks, lsns).expect("answers");
        for ((tag, page), answer) in some.iter().zip(answers) {
            match answer {
                Answer::GetPage(found) => {
                    let found: Page = found.try_into().expect("a page");
                    if let Some(at) = first_difference(&found, page, tag.fork) {
                        differences.push(format!("{tag}: differs at {at}"));
                    }
                }
                other => differences.push(format!("{tag}: {other:?}")),
            }
        }
    }
    println!("{} pages served", all.len());
    assert!(differences.is_empty(), "{differences:#?}");
    for ((slru, segment), content) in &theirs.slrus {
        if *slru == Slru::CommitTimestamps {
            continue;
        }
        let number = u32::try_from(*segment).expect("few");
        let answer = client.ask(Ask::GetSlruSegment(slru.number(), number), lsns);
        let wanted = Answer::GetSlruSegment(content.clone());
        assert!(answer.expect("an answer") == wanted, "{slru:?} {segment}");
    }
}

/// Pages that are judged: not those of free space maps, which are hints, nor of what is not state.
pub fn judged<'p>(
    theirs: &'p Files,
    pages: &'p [(BlockTag, Box<Page>)],
) -> impl Iterator<Item = (BlockTag, &'p Page)> {
    pages.iter().filter_map(|(tag, page)| {
        let is_state = theirs.forks.contains_key(&(tag.relation, tag.fork));
        is_state.then_some((*tag, &**page))
    })
}

/// As the protocol writes it.
pub fn wire(relation: Relation, fork: Fork) -> RelationFork {
    RelationFork {
        tablespace: relation.tablespace,
        database: relation.database,
        relation: relation.number,
        fork: fork.number(),
    }
}
