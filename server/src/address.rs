//! How people write where data is: `tenant/branch[@lsn]`. Tenants and branches go by name or by their 32 hex digits; the
//! catalog tells them apart, since no name may look like an id or contain a separator.

use std::fmt;
use std::str::FromStr;

use engine::types::Lsn;

/// A branch of a tenant, each by name or id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchAddress {
    /// The tenant.
    pub tenant: String,
    /// The branch.
    pub branch: String,
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
    /// No LSN behind the `@`.
    #[error(transparent)]
    Lsn(#[from] engine::types::LsnParseError),
    /// An LSN where none may be.
    #[error("{0:?}: this command takes a branch without an LSN")]
    LsnNotWanted(String),
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
                tenant: tenant.to_owned(),
                branch: branch.to_owned(),
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
    fn tenant_branch_and_lsn_are_told_apart() {
        let id = "00112233445566778899aabbccddeeff";
        let point: PointAddress = format!("acme/{id}@0/16B3748").parse().expect("an address");
        assert_eq!(point.branch.tenant, "acme");
        assert_eq!(point.branch.branch, id);
        assert_eq!(point.lsn, Some(Lsn(0x16b_3748)));
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
        ] {
            let refused = text.parse::<PointAddress>();
            assert!(refused.is_err(), "{text} parsed as {refused:?}");
        }
        assert!("acme/main@0/1".parse::<BranchAddress>().is_err());
    }
}
