//! Sizes and durations as people write them: `8GiB`, `200ms`. A number without a unit is refused (except zero), since
//! nobody can tell what it means.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes, written with a binary unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Size(pub u64);

/// A length of time, written with a unit: `us`, `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Span(pub Duration);

/// Why a text is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: write a whole number and a unit, {units}")]
pub struct QuantityError {
    text: String,
    what: &'static str,
    units: &'static str,
}

const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

const SPAN_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    if text == "0" {
        return Some(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |&&(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(factor);
    let (name, factor) = units
        .iter()
        .find(fits)
        .or(units.last())
        .expect("the tables are not empty");
    write!(f, "{}{name}", value / factor)
}

impl FromStr for Size {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, &SIZE_UNITS).map(Size).ok_or(QuantityError {
            text: text.to_owned(),
            what: "size",
            units: "like 64KiB, 512MiB, 8GiB",
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SIZE_UNITS)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, &SPAN_UNITS)
            .map(|micros| Span(Duration::from_micros(micros)))
            .ok_or(QuantityError {
                text: text.to_owned(),
                what: "duration",
                units: "like 200us, 50ms, 10s, 5m, 1h",
            })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        // The table is in order of length, and `ms` and `us` come last.
        write(f, micros, &SPAN_UNITS)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                String::deserialize(input)?
                    .parse()
                    .map_err(de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                output.collect_str(self)
            }
        }
    };
}

as_text!(Size);
as_text!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_round_trip_in_their_largest_whole_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("1B", 1),
            ("64KiB", 65_536),
            ("8GiB", 8 << 30),
            ("1025KiB", 1_049_600),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        for (text, micros) in [
            ("200us", 200),
            ("50ms", 50_000),
            ("10s", 10_000_000),
            ("90s", 90_000_000),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
        ] {
            let span = Span(Duration::from_micros(micros));
            assert_eq!(text.parse(), Ok(span));
            assert_eq!(span.to_string(), text);
        }
        assert_eq!("0".parse(), Ok(Size(0)));
        assert_eq!("8 GiB".parse(), Ok(Size(8 << 30)));
    }

    #[test]
    fn what_has_no_unit_or_does_not_fit_is_refused() {
        for text in ["", "8", "8G", "8gib", "-1B", "1.5GiB", "GiB", "99999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "10", "10 sec", "-1s", "1.5s", "18446744073709551615d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
