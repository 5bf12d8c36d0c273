//! Where the data keys of segments come from: a branch's key tables in production, memory in tests.
#![expect(
    async_fn_in_trait,
    reason = "the futures stay on the thread that made them: nobody needs them to be Send"
)]

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use crate::crypto::page_seal::{Dek, DekId};

/// Why there is no key; its text names no secret.
pub type DekError = Box<dyn Error + Send + Sync>;

/// The data keys of one branch.
pub trait WalDeks {
    /// A key that was never handed out before, by no process, and that will be found again under its id: it is durable
    /// when this returns. Asked for once per segment.
    async fn next_dek(&self) -> Result<(DekId, Arc<Dek>), DekError>;

    /// The key with this id. Asked for once per segment, at the start.
    async fn dek(&self, id: DekId) -> Result<Arc<Dek>, DekError>;
}

impl<K: WalDeks> WalDeks for Rc<K> {
    async fn next_dek(&self) -> Result<(DekId, Arc<Dek>), DekError> {
        K::next_dek(self).await
    }

    async fn dek(&self, id: DekId) -> Result<Arc<Dek>, DekError> {
        K::dek(self, id).await
    }
}
