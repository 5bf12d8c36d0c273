//! How people write where data is: `tenant/branch[@lsn]`, or a time behind the `@`. Tenants and branches go by name or by their 32
//! hex digits; the catalog tells them apart, since no name may look like an id or contain a separator.

use std::fmt;
use std::str::FromStr;

use engine::types::Lsn;

use crate::config::Span;
use crate::times::Time;

/// A branch of a tenant, each by name or id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchAddress {
    /// The tenant.
    pub tenant: String,
    /// The branch.
    pub branch: String,
}

/// A branch, perhaps as it was; without that the latest is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PointAddress {
    /// The branch.
    pub branch: BranchAddress,
    /// When, if that was written.
    pub at: Option<Point>,
}

/// A moment of a branch's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// By LSN.
    Lsn(Lsn),
    /// By the clock of the cluster's server.
    Time(Time),
    /// So long ago, by ours.
    Ago(Span),
}

impl Point {
    /// The LSN, or else the time: so long ago counts from now on.
    pub fn lsn_or_time(self) -> Result<Lsn, Time> {
        match self {
            Point::Lsn(lsn) => Ok(lsn),
            Point::Time(time) => Err(time),
            Point::Ago(ago) => Err(Time::ago(ago)),
        }
    }
}

impl FromStr for Point {
    type Err = PointParseError;

    /// `0/16B3748`, `2026-11-27T20:15:00Z`, or `-10m`.
    fn from_str(text: &str) -> Result<Point, PointParseError> {
        let ago = text.strip_prefix('-').and_then(|ago| ago.parse().ok());
        let lsn = || text.parse().map(Point::Lsn).ok();
        let time = || text.parse().map(Point::Time).ok();
        ago.map(Point::Ago)
            .or_else(lsn)
            .or_else(time)
            .ok_or_else(|| PointParseError(text.to_owned()))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Lsn(lsn) => lsn.fmt(f),
            Point::Time(time) => time.fmt(f),
            Point::Ago(ago) => write!(f, "-{ago}"),
        }
    }
}

/// Neither an LSN nor a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither an LSN, like 0/16B3748, nor a time, like 2026-11-27T20:15:00Z, nor one ago, like -10m"
)]
pub struct PointParseError(String);

/// Why a text is not an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No slash, or too many.
    #[error(
        "{0:?} is not an address: write tenant/branch, or tenant/branch@LSN like acme/main@0/16B3748, or a time behind the @"
    )]
    Shape(String),
    /// Nothing that is known behind the `@`.
    #[error(transparent)]
    Point(#[from] PointParseError),
    /// An LSN where none may be.
    #[error("{0:?}: this command takes a branch without an LSN")]
    LsnNotWanted(String),
}

impl FromStr for PointAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || AddressError::Shape(text.to_owned());
        let (tenant, rest) = text.split_once('/').ok_or_else(shape)?;
        let (branch, at) = match rest.split_once('@') {
            None => (rest, None),
            Some((branch, at)) => (branch, Some(at.parse()?)),
        };
        if tenant.is_empty() || branch.is_empty() || branch.contains('/') {
            return Err(shape());
        }
        Ok(PointAddress {
            branch: BranchAddress {
                tenant: tenant.to_owned(),
                branch: branch.to_owned(),
            },
            at,
        })
    }
}

impl FromStr for BranchAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let point: PointAddress = text.parse()?;
        match point.at {
            None => Ok(point.branch),
            Some(_) => Err(AddressError::LsnNotWanted(text.to_owned())),
        }
    }
}

impl fmt::Display for BranchAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.branch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_branch_and_lsn_are_told_apart() {
        let id = "00112233445566778899aabbccddeeff";
        let point: PointAddress = format!("acme/{id}@0/16B3748").parse().expect("an address");
        assert_eq!(point.branch.tenant, "acme");
        assert_eq!(point.branch.branch, id);
        assert_eq!(point.at, Some(Point::Lsn(Lsn(0x16b_3748))));
        let point: PointAddress = "acme/main@2026-11-27T20:15:00+01:00".parse().expect("one");
        let time = "2026-11-27T19:15:00Z".parse().expect("a time");
        assert_eq!(point.at, Some(Point::Time(time)));
        let point: PointAddress = "acme/main@-10m".parse().expect("one");
        let ago = "10m".parse().expect("a span");
        assert_eq!(point.at, Some(Point::Ago(ago)));
        let branch: BranchAddress = "acme/main".parse().expect("an address");
        assert_eq!(branch.to_string(), "acme/main");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "acme",
            "/main",
            "acme/",
            "acme/main/x",
            "acme/main@",
            "acme/main@7",
            "acme/main@yesterday",
            "acme/main@-10",
        ] {
            let refused = text.parse::<PointAddress>();
            assert!(refused.is_err(), "{text} parsed as {refused:?}");
        }
        assert!("acme/main@0/1".parse::<BranchAddress>().is_err());
    }
}
