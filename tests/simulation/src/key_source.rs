//! The simulated key service: wraps KEKs under one CMK.
//!
//! | fault | what happens | what the engine owes |
//! | --- | --- | --- |
//! | `away` | every call fails for a while ([`SimKeys::set_away`]) | what is open goes on |
//! | `transient` | the call fails | `Unavailable` |
//! | `refused` | the service will not | `Unavailable`: a key can be enabled again |
//! | `wrong` | another KEK comes back | to notice |

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use engine::crypto::kek::{KEK_BYTES, Kek};
use engine::crypto::key_provider::{EncryptionContext, KeyProvider, KeyProviderError, WrappedKek};
use futures_util::future::{BoxFuture, FutureExt, ready};

use crate::coverage::Coverage;
use crate::rng::{PerMille, Rng};
use crate::trace::{FNV_START, fnv1a};

/// How often each fault happens. All zero by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyFaults {
    /// Calls that fail and may be made again.
    pub transient: PerMille,
    /// Calls that are refused.
    pub refused: PerMille,
    /// Unwrapped KEKs that are not the one that was wrapped.
    pub wrong: PerMille,
}

/// A key service in memory. Its wrapping is a keyed permutation that hides nothing from anybody who reads this file:
/// what matters here is that it gives back only what it was given, and only in the same context.
pub struct SimKeys {
    away: AtomicBool,
    calls: AtomicU64,
    faults: Mutex<(KeyFaults, Rng)>,
    coverage: Coverage,
}

impl SimKeys {
    /// A service without faults.
    pub fn new(rng: Rng, coverage: Coverage) -> SimKeys {
        SimKeys {
            away: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            faults: Mutex::new((KeyFaults::default(), rng)),
            coverage,
        }
    }

    /// From now on faults happen this often.
    pub fn set_faults(&self, faults: KeyFaults) {
        let mut state = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = faults;
    }

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
            self.coverage.count("keys away");
            return Err(KeyProviderError::Transient {
                reason: "simulated: away".to_owned(),
            });
        }
        if self.roll(|faults| faults.transient, "keys transient") {
            return Err(KeyProviderError::Transient {
                reason: "simulated: 503".to_owned(),
            });
        }
        if self.roll(|faults| faults.refused, "keys refused") {
            return Err(KeyProviderError::Refused {
                key_id: KEY_ID.to_owned(),
                reason: "simulated: disabled".to_owned(),
            });
        }
        Ok(())
    }

    fn roll(&self, chance: impl Fn(&KeyFaults) -> PerMille, fault: &'static str) -> bool {
        let mut state = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (faults, rng) = &mut *state;
        let hit = rng.chance(chance(faults));
        if hit {
            self.coverage.count(fault);
        }
        hit
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
            if self.roll(|faults| faults.wrong, "keys wrong") {
                bytes[0] ^= 1;
            }
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
