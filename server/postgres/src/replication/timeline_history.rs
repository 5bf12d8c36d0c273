//! The timelines that a server's WAL has come through, by the history file of the last one.
//!
//! A line per timeline that ended, oldest first: its number, where it ended, why; separated by white space. Empty lines and
//! such that begin with `#` say nothing. The first timeline has no file.

use engine::types::Lsn;

use super::connection::Connection;
use super::replication_error::{ReplicationError, unexpected};

/// A stretch of WAL on one timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimelineSpan {
    /// Its number.
    pub timeline: u32,
    /// Where it begins; zero for the oldest.
    pub begin: Lsn,
    /// Where the next one begins; `None` for the last, which goes on.
    pub end: Option<Lsn>,
}

/// The way from the oldest timeline to a newer one: without gaps, numbers ascending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    spans: Vec<TimelineSpan>,
}

/// Why a text is not a history file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("history of timeline {timeline}, line {line}: {reason}")]
pub struct TimelineHistoryError {
    /// Whose history it was to be.
    pub timeline: u32,
    /// Which line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl TimelineHistory {
    /// Asks a server, by a connection for replication, how it came to `timeline`.
    /// # Errors
    /// The server's (58P01: it has no such timeline), or a file that is malformed.
    pub fn read(
        connection: &mut Connection,
        timeline: u32,
    ) -> Result<TimelineHistory, ReplicationError> {
        if timeline <= 1 {
            return Ok(TimelineHistory::of_first(timeline));
        }
        let rows = connection.query(&format!("TIMELINE_HISTORY {timeline}"))?;
        let content = match rows.first().map(Vec::as_slice) {
            Some([Some(_name), Some(content)]) => content,
            _ => return Err(unexpected("in answer to TIMELINE_HISTORY")),
        };
        TimelineHistory::parse(timeline, content)
            .map_err(|error| ReplicationError::Protocol(error.to_string()))
    }

    /// Parses the history file of `timeline`.
    /// # Errors
    /// A line that is malformed, numbers that do not ascend, positions that go back.
    pub fn parse(timeline: u32, content: &str) -> Result<TimelineHistory, TimelineHistoryError> {
        let mut spans: Vec<TimelineSpan> = Vec::new();
        let mut begin = Lsn(0);
        for (line, text) in (1..).zip(content.lines()) {
            let refuse = |reason| TimelineHistoryError {
                timeline,
                line,
                reason,
            };
            let text = text.trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let mut words = text.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u32>().ok());
            let number = number.ok_or(refuse("no timeline"))?;
            let end = words.next().and_then(|word| word.parse::<Lsn>().ok());
            let end = end.ok_or(refuse("no position"))?;
            if spans.last().is_some_and(|last| last.timeline >= number) {
                return Err(refuse("timelines do not ascend"));
            }
            if number >= timeline {
                return Err(refuse("a timeline that is not before this one"));
            }
            if end < begin {
                return Err(refuse("a timeline that ends before it begins"));
            }
            spans.push(TimelineSpan {
                timeline: number,
                begin,
                end: Some(end),
            });
            begin = end;
        }
        spans.push(TimelineSpan {
            timeline,
            begin,
            end: None,
        });
        Ok(TimelineHistory { spans })
    }

    fn of_first(timeline: u32) -> TimelineHistory {
        let begin = Lsn(0);
        let end = None;
        TimelineHistory {
            spans: vec![TimelineSpan {
                timeline,
                begin,
                end,
            }],
        }
    }

    /// All stretches, oldest first; at least one.
    pub fn spans(&self) -> &[TimelineSpan] {
        &self.spans
    }

    /// The stretch of a timeline, if it is on the way.
    pub fn span_of(&self, timeline: u32) -> Option<TimelineSpan> {
        let mut spans = self.spans.iter();
        spans.find(|span| span.timeline == timeline).copied()
    }

    /// The timeline of the byte at `lsn`.
    pub fn timeline_at(&self, lsn: Lsn) -> u32 {
        let holds = |span: &&TimelineSpan| span.end.is_none_or(|end| lsn < end);
        let span = self.spans.iter().find(holds);
        span.expect("the last one has no end").timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_the_way_to_its_timeline() {
        let content = "1\t0/3000000\tno recovery target specified\n\n\
                       # by hand\n  2\t0/5000148\tbefore 2024-01-01 00:00:00+00\n\
                       4\t1/0\n";
        let history = TimelineHistory::parse(7, content).expect("well formed");
        let spans: Vec<_> = history
            .spans()
            .iter()
            .map(|span| (span.timeline, span.begin.0, span.end.map(|end| end.0)))
            .collect();
        let expected = [
            (1, 0, Some(0x300_0000)),
            (2, 0x300_0000, Some(0x500_0148)),
            (4, 0x500_0148, Some(1 << 32)),
            (7, 1 << 32, None),
        ];
        assert_eq!(spans, expected);
        for (lsn, timeline) in [
            (0, 1),
            (0x2ff_ffff, 1),
            (0x300_0000, 2),
            (0x500_0148, 4),
            (1 << 32, 7),
            (u64::MAX, 7),
        ] {
            assert_eq!(history.timeline_at(Lsn(lsn)), timeline, "{lsn:x}");
        }
        let two = history.span_of(2).expect("on the way");
        assert_eq!(two.end, Some(Lsn(0x500_0148)));
        assert_eq!(history.span_of(3), None);
    }

    #[test]
    fn a_timeline_may_end_where_it_began() {
        let history = TimelineHistory::parse(3, "1 0/10 a\n2 0/10 b\n").expect("well formed");
        assert_eq!(history.timeline_at(Lsn(0x10)), 3);
    }

    #[test]
    fn malformed_lines_are_named() {
        for (content, line, reason) in [
            ("1\t0/10\n\nx\t0/20", 3, "no timeline"),
            ("-1\t0/10", 1, "no timeline"),
            ("99999999999\t0/10", 1, "no timeline"),
            ("1", 1, "no position"),
            ("1\t16", 1, "no position"),
            ("1\t0/123456789", 1, "no position"),
            ("2\t0/10\n1\t0/20", 2, "timelines do not ascend"),
            ("2\t0/10\n2\t0/20", 2, "timelines do not ascend"),
            ("5\t0/10", 1, "a timeline that is not before this one"),
            (
                "1\t0/20\n2\t0/10",
                2,
                "a timeline that ends before it begins",
            ),
        ] {
            let error = TimelineHistory::parse(5, content).expect_err(content);
            assert_eq!((error.line, error.reason), (line, reason), "{content:?}");
        }
    }
}
