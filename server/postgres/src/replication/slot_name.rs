//! Names of replication slots: what Postgres allows, and so nothing that would have to be quoted.

use std::fmt;
use std::str::FromStr;

/// Name of a replication slot: 1 to 63 of `a` to `z`, digits and underscores.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SlotName(String);

/// Why a text is not the name of a slot.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the name of a replication slot: {0:?} (1 to 63 of a to z, digits and underscores)")]
pub struct SlotNameError(pub String);

impl SlotName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(text: &str) -> Result<SlotName, SlotNameError> {
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(SlotName(text.to_owned()))
        } else {
            Err(SlotNameError(text.to_owned()))
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const NAME_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_postgres_allows_is_a_name() {
        let longest = "x".repeat(63);
        for good in ["pageserver_1", "0", longest.as_str()] {
            assert_eq!(
                good.parse::<SlotName>().map(|n| n.to_string()),
                Ok(good.to_owned())
            );
        }
        let long = "x".repeat(64);
        for bad in ["", "Branch", "a b", "a'b", "a\"b", "ä", long.as_str()] {
            assert!(bad.parse::<SlotName>().is_err(), "{bad}");
        }
    }
}
