//! The opened KEKs of a tenant. Unwrapping them is the one call to the key service that a cold start costs.

use std::fmt;

use crate::crypto::kek::Kek;
use crate::types::TenantId;

/// The KEKs of one tenant, opened. Shared by all branches and threads; wiped when the last one lets go.
pub struct TenantKeks {
    tenant: TenantId,
    /// By epoch, newest last; never empty.
    keks: Vec<(u32, Kek)>,
}

impl TenantKeks {
    /// The opened KEKs, with their epochs, in any order.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(tenant: TenantId, mut keks: Vec<(u32, Kek)>) -> TenantKeks {
        assert!(!keks.is_empty(), "a tenant has a KEK from its first moment");
        keks.sort_by_key(|(epoch, _)| *epoch);
        TenantKeks { tenant, keks }
    }

    /// Whose they are.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The KEK that new key tables are wrapped under, and its epoch.
    pub(crate) fn newest(&self) -> (u32, &Kek) {
        let (epoch, kek) = self.keks.last().expect("never empty");
        (*epoch, kek)
    }

    /// All of them, newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (u32, &Kek)> {
        self.keks.iter().rev().map(|(epoch, kek)| (*epoch, kek))
    }
}

impl fmt::Debug for TenantKeks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantKeks({}, {} keys)", self.tenant, self.keks.len())
    }
}
