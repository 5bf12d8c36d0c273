//! Addresses, ids, LSNs and times as people write them: what parses prints back to something that means the same.
#![no_main]

use engine::types::{Id, Lsn};
use libfuzzer_sys::fuzz_target;
use pageserver::address::{BranchAddress, PointAddress};

fuzz_target!(|text: &str| {
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(point) = text.parse::<PointAddress>() {
        let branch = point.branch.to_string();
        assert_eq!(branch.parse::<BranchAddress>().as_ref(), Ok(&point.branch));
        if let Some(at) = point.at {
            assert_eq!(format!("{branch}@{at}").parse(), Ok(point));
        }
    }
});
