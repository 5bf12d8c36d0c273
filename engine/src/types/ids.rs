//! Identities of tenants, branches and objects.

use std::fmt;
use std::str::FromStr;

/// Sixteen random bytes, printed as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an id: {0:?} (expected 32 hex digits)")]
pub struct IdParseError(pub String);

impl FromStr for Id {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || IdParseError(text.to_owned());
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| refuse())?;
        Ok(Id(value.to_be_bytes()))
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub Id);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

identity! {
    /// One customer: the unit of isolation and of the top key.
    TenantId
}
identity! {
    /// One line of history of one cluster. Immutable: names move between branches, ids never do.
    BranchId
}

/// The first bytes of the keyed hash of a branch's name. With a number behind it, it is the id of the branch that began
/// with that change of the name: who has the id finds the record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NameHash([u8; NAME_HASH_BYTES]);

impl NameHash {
    /// The start of a whole hash.
    pub(crate) fn of(hash: &[u8; 16]) -> NameHash {
        NameHash(*hash.first_chunk().expect("shorter than the whole"))
    }

    /// The one that these 24 hex digits print, if they do.
    pub(crate) fn parse(digits: &str) -> Option<NameHash> {
        let plain = digits.len() == 2 * NAME_HASH_BYTES;
        let whole = format!("{digits}{}", "0".repeat(2 * (16 - NAME_HASH_BYTES)));
        let whole: Id = whole.parse().ok().filter(|_| plain)?;
        Some(NameHash::of(&whole.0))
    }

    /// The branch that begins with the `n`-th change of the name.
    pub(crate) fn branch(self, n: u32) -> BranchId {
        let mut id = [0; 16];
        id[..NAME_HASH_BYTES].copy_from_slice(&self.0);
        id[NAME_HASH_BYTES..].copy_from_slice(&n.to_be_bytes());
        BranchId(Id(id))
    }

    /// Which change of which name `branch` began with, if it began with one.
    pub(crate) fn of_branch(branch: BranchId) -> (NameHash, u32) {
        let id = branch.0.0;
        let n = *id.last_chunk().expect("shorter than the whole");
        (NameHash::of(&id), u32::from_be_bytes(n))
    }
}

impl fmt::Display for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes of a name's hash in an id, before those of the number.
const NAME_HASH_BYTES: usize = 12;

/// The name of an immutable object of a branch: never used twice, since `epoch` is claimed once and `sequence`
/// grows within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId {
    /// The branch that wrote it.
    pub branch: BranchId,
    /// The writer's epoch.
    pub epoch: u32,
    /// Grows by one with each attempt to write an object in this epoch.
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_branch_is_the_place_of_the_record_that_it_began_with() {
        let hash = NameHash::of(&[0xab; 16]);
        for n in [0, 1, 0x0102_0304, u32::MAX] {
            assert_eq!(NameHash::of_branch(hash.branch(n)), (hash, n));
        }
        assert_eq!(NameHash::parse(&hash.to_string()), Some(hash));
        for bad in ["", "ab", &"ab".repeat(16), &"xy".repeat(12)] {
            assert_eq!(NameHash::parse(bad), None, "{bad}");
        }
    }
}
