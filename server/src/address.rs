//! How people write where data is: `tenant/branch[@lsn]`. Tenants and branches go by name or by their 32 hex digits.

use std::fmt;
use std::str::FromStr;

use engine::types::{Id, Lsn};

/// A tenant or branch as somebody wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NameOrId {
    /// 32 hex digits. No name looks like this: [`check_name`] refuses it.
    Id(Id),
    /// Anything else that is a name.
    Name(String),
}

/// A branch of a tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchAddress {
    /// The tenant.
    pub tenant: NameOrId,
    /// The branch.
    pub branch: NameOrId,
}

/// A branch, perhaps at an LSN; without one the latest is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PointAddress {
    /// The branch.
    pub branch: BranchAddress,
    /// The LSN, if one was written.
    pub lsn: Option<Lsn>,
}

/// Why a text is not an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No slash, or too many.
    #[error(
        "{0:?} is not an address: write tenant/branch or tenant/branch@LSN, like acme/main@0/16B3748"
    )]
    Shape(String),
    /// A name that may not be.
    #[error(
        "{0:?} is not a name: 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', beginning with a letter or digit, \
         and not 32 hex digits"
    )]
    Name(String),
    /// No LSN behind the `@`.
    #[error(transparent)]
    Lsn(#[from] engine::types::LsnParseError),
    /// An LSN where none may be.
    #[error("{0:?}: this command takes a branch without an LSN")]
    LsnNotWanted(String),
}

/// Longest name of a tenant or branch.
pub const NAME_BYTES_MAX: usize = 63;

/// Succeeds if `name` may name a tenant or a branch.
pub fn check_name(name: &str) -> Result<(), AddressError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fine = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(plain)
        && name.parse::<Id>().is_err();
    if fine {
        Ok(())
    } else {
        Err(AddressError::Name(name.to_owned()))
    }
}

impl FromStr for NameOrId {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse() {
            return Ok(NameOrId::Id(id));
        }
        check_name(text)?;
        Ok(NameOrId::Name(text.to_owned()))
    }
}

impl fmt::Display for NameOrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameOrId::Id(id) => id.fmt(f),
            NameOrId::Name(name) => name.fmt(f),
        }
    }
}

impl FromStr for PointAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || AddressError::Shape(text.to_owned());
        let (tenant, rest) = text.split_once('/').ok_or_else(shape)?;
        let (branch, lsn) = match rest.split_once('@') {
            None => (rest, None),
            Some((branch, lsn)) => (branch, Some(lsn.parse()?)),
        };
        if tenant.is_empty() || branch.is_empty() || branch.contains('/') {
            return Err(shape());
        }
        Ok(PointAddress {
            branch: BranchAddress {
                tenant: tenant.parse()?,
                branch: branch.parse()?,
            },
            lsn,
        })
    }
}

impl FromStr for BranchAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let point: PointAddress = text.parse()?;
        match point.lsn {
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
    fn names_and_ids_and_lsns_are_told_apart() {
        let id = "00112233445566778899aabbccddeeff";
        let point: PointAddress = format!("acme/{id}@0/16B3748").parse().expect("an address");
        assert_eq!(point.branch.tenant, NameOrId::Name("acme".to_owned()));
        assert_eq!(point.branch.branch.to_string(), id);
        assert!(matches!(point.branch.branch, NameOrId::Id(_)));
        assert_eq!(point.lsn, Some(Lsn(0x16b_3748)));
        let branch: BranchAddress = "acme/main".parse().expect("an address");
        assert_eq!(branch.to_string(), "acme/main");
    }

    #[test]
    fn nonsense_is_refused_with_the_text_in_the_error() {
        for text in [
            "",
            "acme",
            "/main",
            "acme/",
            "acme/main/x",
            "acme/main@",
            "acme/main@7",
            "a b/main",
            "-a/main",
        ] {
            let refused = text.parse::<PointAddress>();
            assert!(refused.is_err(), "{text} parsed as {refused:?}");
        }
        assert!("acme/main@0/1".parse::<BranchAddress>().is_err());
        assert!(check_name(&"x".repeat(64)).is_err());
        assert!(check_name("00112233445566778899aabbccddeeff").is_err());
        check_name("pr-1234_x.y").expect("a name");
    }
}
