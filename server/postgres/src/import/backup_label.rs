//! `backup_label` and `tablespace_map`: what a base backup says of itself.

use engine::types::Lsn;

use super::ImportError;

/// A backup label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BackupLabel {
    /// Redo would begin here.
    pub(super) start_lsn: Lsn,
    pub(super) timeline: u32,
}

impl BackupLabel {
    /// Parses a label.
    /// # Errors
    /// Not a label, or of a backup that cannot be imported: incremental, or taken from a standby.
    pub(super) fn parse(text: &str) -> Result<BackupLabel, ImportError> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        if field("INCREMENTAL FROM LSN").is_some() {
            return Err(malformed(
                "the backup is incremental; combine it with those before it first (pg_combinebackup)",
            ));
        }
        if field("BACKUP FROM") == Some("standby") {
            return Err(ImportError::Standby);
        }
        let start_lsn = field("START WAL LOCATION")
            .and_then(|location| location.split_whitespace().next()?.parse().ok());
        let timeline = field("START TIMELINE").and_then(|timeline| timeline.trim().parse().ok());
        match (start_lsn, timeline) {
            (Some(start_lsn), Some(timeline)) => Ok(BackupLabel {
                start_lsn,
                timeline,
            }),
            _ => Err(malformed("it names no start and timeline")),
        }
    }
}

/// The lines of a tablespace map: oid and path; a backslash escapes line ends and itself in paths.
pub(super) fn parse_tablespace_map(text: &str) -> Result<Vec<(u32, String)>, ImportError> {
    let mut tablespaces = Vec::new();
    let mut line = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => line.extend(characters.next()),
            '\n' => {
                let parts = line.split_once(' ');
                let tablespace = parts.and_then(|(oid, path)| Some((oid.parse().ok()?, path)));
                let (oid, path) = tablespace.ok_or_else(|| ImportError::MalformedFile {
                    file: "tablespace_map".to_owned(),
                    reason: "a line is not an oid and a path".to_owned(),
                })?;
                tablespaces.push((oid, path.to_owned()));
                line.clear();
            }
            _ => line.push(c),
        }
    }
    Ok(tablespaces)
}

fn malformed(reason: &str) -> ImportError {
    ImportError::MalformedFile {
        file: "backup_label".to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/A000028 (file 00000002000000000000000A)\n\
        CHECKPOINT LOCATION: 0/A000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-01-01 00:00:00 UTC\nLABEL: x\nSTART TIMELINE: 2\n";

    #[test]
    fn a_label_says_where_redo_begins() {
        let label = BackupLabel::parse(LABEL).expect("a good label");
        assert_eq!((label.start_lsn, label.timeline), (Lsn(0xA00_0028), 2));
    }

    #[test]
    fn backups_that_cannot_be_imported_are_refused_by_their_label() {
        let of_standby = LABEL.replace("primary", "standby");
        let error = BackupLabel::parse(&of_standby).expect_err("of a standby");
        assert!(matches!(error, ImportError::Standby));
        let incremental = format!("{LABEL}INCREMENTAL FROM LSN: 0/2000028\n");
        let error = BackupLabel::parse(&incremental).expect_err("incremental");
        assert!(error.to_string().contains("incremental"), "{error}");
        assert!(BackupLabel::parse("nonsense").is_err());
    }

    #[test]
    fn a_tablespace_map_unescapes_paths() {
        let map = parse_tablespace_map("16384 /srv/a b\n16385 /x\\\\y\\\nz\n").expect("parses");
        let expected = vec![
            (16384, "/srv/a b".to_owned()),
            (16385, "/x\\y\nz".to_owned()),
        ];
        assert_eq!(map, expected);
        assert!(parse_tablespace_map("x /y\n").is_err());
    }
}
