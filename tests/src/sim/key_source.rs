//! The simulated key service: wraps KEKs under one CMK, and is away when told so.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::crypto::kek::{KEK_BYTES, Kek};
use engine::crypto::key_provider::{EncryptionContext, KeyProvider, KeyProviderError, WrappedKek};
use futures_util::future::{BoxFuture, FutureExt, ready};

use super::trace::{FNV_START, fnv1a};

/// A key service in memory. Its wrapping is a keyed permutation that hides nothing from anybody who reads this file:
/// what matters here is that it gives back only what it was given, and only in the same context.
#[derive(Debug, Default)]
pub struct SimKeys {
    away: AtomicBool,
    calls: AtomicU64,
}

impl SimKeys {
    /// Whether every call fails.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn answer(&self) -> Result<(), KeyProviderError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(KeyProviderError::Transient {
                reason: "simulated: away".to_owned(),
            });
        }
        Ok(())
    }
}

impl KeyProvider for SimKeys {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn wrap<'a>(
        &'a self,
        kek: &'a Kek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<WrappedKek, KeyProviderError>> {
        let wrapped = self.answer().map(|()| {
            let mut bytes = kek.expose().to_vec();
            mask(&mut bytes, context);
            bytes.extend_from_slice(&checksum(&bytes, context));
            WrappedKek {
                key_id: KEY_ID.to_owned(),
                bytes,
            }
        });
        ready(wrapped).boxed()
    }

    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedKek,
        context: &'a EncryptionContext,
    ) -> BoxFuture<'a, Result<Kek, KeyProviderError>> {
        let unwrapped = self.answer().and_then(|()| {
            let refused = || KeyProviderError::Refused {
                key_id: wrapped.key_id.clone(),
                reason: "not wrapped here, or not in this context".to_owned(),
            };
            let (masked, sum) = wrapped
                .bytes
                .split_at_checked(KEK_BYTES)
                .ok_or_else(refused)?;
            if wrapped.key_id != KEY_ID || sum != checksum(masked, context) {
                return Err(refused());
            }
            let mut bytes = [0; KEK_BYTES];
            bytes.copy_from_slice(masked);
            mask(&mut bytes, context);
            Ok(Kek::from_bytes(bytes))
        });
        ready(unwrapped).boxed()
    }
}

fn mask(bytes: &mut [u8], context: &EncryptionContext) {
    let key = checksum(b"mask", context);
    bytes
        .iter_mut()
        .zip(key.iter().cycle())
        .for_each(|(byte, key)| *byte ^= key);
}

fn checksum(bytes: &[u8], context: &EncryptionContext) -> [u8; 8] {
    let mut hash = fnv1a(FNV_START, &context.tenant.0.0);
    if let Some(branch) = context.branch {
        hash = fnv1a(hash, &branch.0.0);
    }
    fnv1a(hash, bytes).to_le_bytes()
}

const KEY_ID: &str = "simulated-cmk";
