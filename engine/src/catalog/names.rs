//! What may be the name of a tenant or of a branch.

use super::error::CatalogError;
use crate::types::Id;

/// Refuses what can't be a name: addresses are written `tenant/branch@lsn`, and an id is accepted wherever a name
/// is, so neither separators nor ids can be names.
pub(crate) fn check_name(name: &str) -> Result<(), CatalogError> {
    let rule = if name.is_empty() || name.len() > NAME_BYTES_MAX {
        "1 to 128 bytes"
    } else if name.contains(['/', '@']) || name.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        "no slash, no @, no space, no control character"
    } else if name.parse::<Id>().is_ok() {
        "32 hex digits are an id"
    } else {
        return Ok(());
    };
    Err(CatalogError::BadName {
        name: name.to_owned(),
        rule,
    })
}

const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_ids_and_addresses() {
        for good in ["a", "main", "größe", "pr-17.b_c", "0123456789abcdef"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let id = "0123456789abcdef0123456789ABCDEF";
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "a/b", "a@0", "a b", "a\n", "\u{7f}", id, &long] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
