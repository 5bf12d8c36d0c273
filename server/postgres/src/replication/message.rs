//! Tags of the server's messages, and what is in those that are read without `postgres-protocol`.

/// One row, as text.
pub type Row = Vec<Option<String>>;

/// The columns of a DataRow's body: a count, then length (-1 for null) and text of each.
pub(super) fn decode_row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut row = Row::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        row.push(match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                let (text, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Some(String::from_utf8_lossy(text).into_owned())
            }
        });
    }
    rest.is_empty().then_some(row)
}

/// A size as `SHOW` prints it: `16MB`, `1GB`.
pub(crate) fn bytes_of_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let unit = match text.get(digits.len()..)? {
        "B" | "" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

pub(super) const ROW_DESCRIPTION: u8 = b'T';
pub(super) const DATA_ROW: u8 = b'D';
pub(super) const COMMAND_COMPLETE: u8 = b'C';
pub(super) const READY_FOR_QUERY: u8 = b'Z';
pub(super) const COPY_BOTH_RESPONSE: u8 = b'W';
pub(super) const COPY_DATA: u8 = b'd';
pub(super) const COPY_DONE: u8 = b'c';
pub(super) const NOTICE_RESPONSE: u8 = b'N';
pub(super) const PARAMETER_STATUS: u8 = b'S';
pub(super) const ERROR_RESPONSE: u8 = b'E';
