//! Log sequence numbers: byte positions in a branch's WAL, the version number of everything.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL. Printed and parsed in Postgres's form, `HEX/HEX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position at all; never a valid version.
    pub const INVALID: Lsn = Lsn(0);
    /// Above every position: asks for the latest version.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Whether this is a position and not the "none" value.
    pub fn is_valid(self) -> bool {
        self != Self::INVALID
    }

    /// Bytes from `earlier` to `self`, or `None` if `earlier` lies above.
    pub fn bytes_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an LSN.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an LSN: {0:?} (expected HEX/HEX, like 0/16B3748)")]
pub struct LsnParseError(pub String);

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || LsnParseError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(refuse)?;
        let half = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
            if !plain || digits.is_empty() || digits.len() > 8 {
                return Err(refuse());
            }
            u64::from_str_radix(digits, 16).map_err(|_| refuse())
        };
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_rejects_nonsense() {
        for (text, value) in [
            ("0/0", 0),
            ("0/16B3748", 0x16B_3748),
            ("1A/FF", 0x1A_0000_00FF),
        ] {
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in [
            "",
            "1",
            "/",
            "1/",
            "/1",
            "g/1",
            "+1/1",
            "123456789/0",
            "1/2/3",
        ] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad} parsed");
        }
    }
}
