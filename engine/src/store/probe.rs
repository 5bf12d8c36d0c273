//! Does the store honour put-if-absent? Manifests, epochs and leases rest on it, and some servers that look like S3
//! ignore the condition and overwrite. So it is tried before the first write: two writers at once, then a third one
//! later, on a name nobody uses. A store that fails is refused for writing.

use bytes::Bytes;
use futures_util::future::join;
use rand_core::RngCore;

use super::objects::{Objects, StoreError};

/// Why a store is refused for writing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It let a second writer overwrite, or lost what the first one wrote.
    #[error(
        "the object store does not honour put-if-absent ({how}): two servers could destroy each other's data, so it \
         is refused for writing"
    )]
    NotConditional {
        /// What was seen.
        how: &'static str,
    },
    /// The probe could not be made.
    #[error("probe of put-if-absent: {0}")]
    Store(#[from] StoreError),
}

/// Puts one object from two concurrent writers and again from a third, checks that exactly one put succeeded and its
/// bytes are there, and deletes it. Five requests.
/// # Errors
/// [`ProbeError`]. On `Store` errors the object may be left behind; its name is never used again.
/// # Cancellation
/// Leaves the object behind.
pub async fn probe_put_if_absent(
    objects: &impl Objects,
    random: &mut impl RngCore,
) -> Result<(), ProbeError> {
    let mut draw = || format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
    let path = format!("probe/{}", draw());
    let bodies = [draw(), draw(), draw()].map(Bytes::from);
    let [first, second, third] = &bodies;

    let (a, b) = join(
        objects.put_if_absent(&path, first.clone()),
        objects.put_if_absent(&path, second.clone()),
    )
    .await;
    let winner = match (created(a)?, created(b)?) {
        (true, false) => first,
        (false, true) => second,
        (true, true) => return refuse(objects, &path, "two writers at once both succeeded").await,
        (false, false) => return refuse(objects, &path, "a new name was said to exist").await,
    };
    if created(objects.put_if_absent(&path, third.clone()).await)? {
        return refuse(objects, &path, "a later writer succeeded").await;
    }
    if objects.get_all(&path).await? != *winner {
        return refuse(
            objects,
            &path,
            "the bytes are not those of the writer that succeeded",
        )
        .await;
    }
    objects.delete(&path).await?;
    Ok(())
}

fn created(put: Result<(), StoreError>) -> Result<bool, StoreError> {
    match put {
        Ok(()) => Ok(true),
        Err(StoreError::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn refuse(objects: &impl Objects, path: &str, how: &'static str) -> Result<(), ProbeError> {
    if let Err(error) = objects.delete(path).await {
        tracing::warn!(%error, "the probe's object stays behind");
    }
    Err(ProbeError::NotConditional { how })
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::io::test_runtime::TestRuntime;
    use crate::store::memory::MemoryObjects;
    use crate::store::objects::ListedObject;

    /// A store that ignores the condition, as some do.
    #[derive(Clone)]
    struct Overwriting(MemoryObjects);

    impl Objects for Overwriting {
        type Body = <MemoryObjects as Objects>::Body;

        async fn get(
            &self,
            path: &str,
            range: std::ops::Range<u64>,
        ) -> Result<Self::Body, StoreError> {
            self.0.get(path, range).await
        }

        async fn get_all(&self, path: &str) -> Result<Bytes, StoreError> {
            self.0.get_all(path).await
        }

        async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<(), StoreError> {
            self.0.tamper(path, Some(body));
            Ok(())
        }

        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
        ) -> Result<Vec<ListedObject>, StoreError> {
            self.0.list(prefix, after).await
        }

        async fn delete(&self, path: &str) -> Result<(), StoreError> {
            self.0.delete(path).await
        }
    }

    #[test]
    fn a_store_that_overwrites_is_refused_and_one_that_does_not_is_left_clean() {
        let runtime = TestRuntime::default();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let memory = MemoryObjects::new(100);
        runtime
            .block_on(probe_put_if_absent(&memory, &mut random))
            .expect("put-if-absent works");
        assert_eq!(memory.object_count(), 0);

        let overwriting = Overwriting(memory.clone());
        let refused = runtime.block_on(probe_put_if_absent(&overwriting, &mut random));
        let error = refused.expect_err("it overwrites");
        assert!(matches!(error, ProbeError::NotConditional { .. }));
        assert!(error.to_string().contains("refused for writing"), "{error}");
        assert_eq!(memory.object_count(), 0);
    }
}
