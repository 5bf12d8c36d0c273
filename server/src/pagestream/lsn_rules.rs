//! Which version a request means: the rules of the two LSNs that every request carries.

use engine::types::Lsn;

/// What the LSNs of a request mean, before the branch is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAt {
    /// Read at this LSN now.
    Now(Lsn),
    /// Wait until the branch has ingested up to here, then read there.
    After(Lsn),
}

/// Why the LSNs of a request make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLsn {
    /// Zero is no position.
    #[error("request LSN is zero")]
    Zero,
    /// The page is said to be unchanged in a span that ends before it begins.
    #[error("request LSN {request} is below not-modified-since {not_modified_since}")]
    Backwards {
        /// Request LSN.
        request: Lsn,
        /// Not-modified-since LSN.
        not_modified_since: Lsn,
    },
}

/// Where to read, with everything up to `last` ingested.
pub fn read_at(request: Lsn, not_modified_since: Lsn, last: Lsn) -> Result<ReadAt, BadLsn> {
    if !request.is_valid() {
        return Err(BadLsn::Zero);
    }
    if request < not_modified_since {
        return Err(BadLsn::Backwards {
            request,
            not_modified_since,
        });
    }
    if not_modified_since > last {
        return Ok(ReadAt::After(not_modified_since));
    }
    Ok(ReadAt::Now(request.min(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsns_choose_where_to_read() {
        let last = Lsn(100);
        let at = |request, since| read_at(Lsn(request), Lsn(since), last);
        assert_eq!(at(u64::MAX, 0), Ok(ReadAt::Now(last)));
        assert_eq!(at(u64::MAX, 100), Ok(ReadAt::Now(last)));
        assert_eq!(at(50, 50), Ok(ReadAt::Now(Lsn(50))));
        assert_eq!(at(120, 90), Ok(ReadAt::Now(last)));
        assert_eq!(at(120, 110), Ok(ReadAt::After(Lsn(110))));
        assert_eq!(at(0, 0), Err(BadLsn::Zero));
        assert!(matches!(at(50, 51), Err(BadLsn::Backwards { .. })));
    }
}
