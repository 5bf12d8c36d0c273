//! Who holds the customer's keys (CMKs): a key service, a token, or the local keyring. The engine hands it a KEK
//! to wrap, and a wrapped KEK to unwrap; the CMK itself never comes here.
//!
//! The encryption context is authenticated, not secret: what was wrapped for one tenant or branch does not unwrap
//! for another, whoever swaps the records in the store.

use futures_util::future::BoxFuture;

use super::kek::Kek;
use crate::types::{BranchId, TenantId};

/// Wraps and unwraps KEKs under the customer's keys. Shared by all threads of a process.
pub trait KeyProvider: Send + Sync + 'static {
    /// What KEK records call this provider; fixed for ever, at most 255 bytes.
    fn name(&self) -> &'static str;

    /// Wraps `kek` under the provider's current key for new data. One call to the key service, no retries.
    fn wrap<'a>(
        &'a self,
        kek: &'a Kek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<WrappedKek, KeyProviderError>>;

    /// The KEK in `wrapped`, if it was wrapped in this very context. One call to the key service, no retries.
    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedKek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<Kek, KeyProviderError>>;
}

/// What a wrapped KEK is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncryptionContext {
    /// Whose KEK it is.
    pub tenant: TenantId,
    /// The branch, if the branch has a KEK of its own.
    pub branch: Option<BranchId>,
}

/// A KEK as the provider gave it back: safe to store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrappedKek {
    /// The provider's id of the CMK, at most 2,048 bytes.
    pub key_id: String,
    /// Opaque to everybody but the provider, at most 16 KiB.
    pub bytes: Vec<u8>,
}

/// Why a KEK was not wrapped or unwrapped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyProviderError {
    /// The provider will not: the key is unknown, disabled, revoked, or the wrapped bytes do not belong to this
    /// context. Asking again is of no use until the customer changes something.
    #[error("key {key_id}: refused: {reason}")]
    Refused {
        /// The CMK.
        key_id: String,
        /// What the provider said.
        reason: String,
    },
    /// The provider is away or overloaded. Asking again later is right.
    #[error("key provider: {reason}")]
    Transient {
        /// What happened.
        reason: String,
    },
    /// We asked for something that makes no sense: a mistake of ours or of the configuration.
    #[error("key {key_id}: {reason}")]
    OurFault {
        /// The CMK.
        key_id: String,
        /// What is wrong with the request.
        reason: String,
    },
}
