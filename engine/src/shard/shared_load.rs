//! Things loaded once for all cores: tenants, branches, layer indexes. The counterpart of
//! [`SingleLoad`](super::single_load::SingleLoad) for what is shared between threads.
//!
//! Who comes first begins a load, who comes meanwhile joins it, and all of them share its outcome, an error too: a store
//! that is away is waited for once, not by each in turn. The load belongs to nobody: whoever waits drives it on, so
//! that one who leaves takes nothing from the others; when the last one has left it is dropped.
//!
//! The table holds an entry for each load that somebody waits for, and no other.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use crate::error::ReadError;
use crate::io::clock::Moment;

/// How a load ends.
pub(super) type Outcome<V> = Result<V, ReadError>;

type Loading<V> = Shared<BoxFuture<'static, Outcome<V>>>;

/// Loads under way, by what they load. Clones share them.
pub(super) struct SharedLoad<K, V>(Arc<Mutex<Table<K, V>>>);

struct Table<K, V> {
    loads: HashMap<K, Load<V>>,
    begun: u64,
}

/// A load that somebody waits for: those who do own it.
struct Load<V> {
    loading: WeakShared<BoxFuture<'static, Outcome<V>>>,
    number: u64,
    began: Moment,
    waiters: usize,
}

/// A part in a load: completes with its outcome. Dropping it gives up the answer only.
pub(super) struct Joined<K: Hash + Eq, V: Clone> {
    table: SharedLoad<K, V>,
    key: K,
    number: u64,
    began: Moment,
    loading: Loading<V>,
    is_over: bool,
}

impl<K, V> Clone for SharedLoad<K, V> {
    fn clone(&self) -> Self {
        SharedLoad(Arc::clone(&self.0))
    }
}

impl<K, V> Default for SharedLoad<K, V> {
    fn default() -> Self {
        let table = Table {
            loads: HashMap::new(),
            begun: 0,
        };
        SharedLoad(Arc::new(Mutex::new(table)))
    }
}

impl<K: Hash + Eq + Copy, V: Clone> SharedLoad<K, V> {
    /// Joins the load of `key`, or begins one at `now`. What is loaded has to be where the next who asks looks first
    /// by the time the load ends: an ended load is forgotten.
    pub(super) fn join<F>(&self, key: K, now: Moment, load: impl FnOnce() -> F) -> Joined<K, V>
    where
        F: Future<Output = Outcome<V>> + Send + 'static,
    {
        let mut table = self.table();
        if let Some(entry) = table.loads.get_mut(&key)
            && let Some(loading) = entry.loading.upgrade()
        {
            entry.waiters += 1;
            return Joined {
                table: self.clone(),
                key,
                number: entry.number,
                began: entry.began,
                loading,
                is_over: false,
            };
        }
        let loading = load().boxed().shared();
        let number = table.begun;
        table.begun += 1;
        let entry = Load {
            loading: loading.downgrade().expect("it was not polled yet"),
            number,
            began: now,
            waiters: 1,
        };
        // In the place of one that is over, perhaps, whose waiters have not all looked yet.
        table.loads.insert(key, entry);
        drop(table);
        Joined {
            table: self.clone(),
            key,
            number,
            began: now,
            loading,
            is_over: false,
        }
    }

    /// Loads that somebody waits for.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table().loads.len()
    }
}

impl<K, V> SharedLoad<K, V> {
    fn table(&self) -> MutexGuard<'_, Table<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V: Clone> Joined<K, V> {
    /// When the load began.
    pub(super) fn began(&self) -> Moment {
        self.began
    }
}

impl<K: Hash + Eq + Unpin, V: Clone> Future for Joined<K, V> {
    type Output = Outcome<V>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<V>> {
        let outcome = self.loading.poll_unpin(cx);
        self.is_over = outcome.is_ready();
        outcome
    }
}

impl<K: Hash + Eq, V: Clone> Drop for Joined<K, V> {
    fn drop(&mut self) {
        let mut table = self.table.table();
        if let Some(entry) = table.loads.get_mut(&self.key)
            && entry.number == self.number
        {
            entry.waiters -= 1;
            if self.is_over || entry.waiters == 0 {
                table.loads.remove(&self.key);
            }
        }
        // The load itself is dropped behind the lock, with the fields.
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime")
            .block_on(future)
    }

    fn away() -> Outcome<u32> {
        Err(ReadError::unavailable("away"))
    }

    #[test]
    fn a_thousand_on_four_threads_share_one_load_and_its_error() {
        let loads: SharedLoad<u32, u32> = SharedLoad::default();
        let begun = Arc::new(AtomicU32::new(0));
        let (release, held) = async_channel::bounded::<()>(1);
        let joined: Vec<_> = (0..1000)
            .map(|now| {
                let (begun, held) = (Arc::clone(&begun), held.clone());
                loads.join(7, Moment(now), || async move {
                    begun.fetch_add(1, Ordering::Relaxed);
                    assert!(held.recv().await.is_err());
                    away()
                })
            })
            .collect();
        assert!(joined.iter().all(|j| j.began() == Moment(0)));
        assert_eq!(loads.len(), 1);
        let mut joined = joined.into_iter();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let part: Vec<_> = joined.by_ref().take(250).collect();
                scope.spawn(move || {
                    let outcomes = block_on(join_all(part));
                    assert_eq!(outcomes.len(), 250);
                    let failed = |o: &Outcome<u32>| matches!(o, Err(ReadError::Unavailable { .. }));
                    assert!(outcomes.iter().all(failed));
                });
            }
            drop((release, held));
        });
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert_eq!(loads.len(), 0, "ended loads are forgotten");
        let again = loads.join(7, Moment(5), || async { Ok(3) });
        assert_eq!(block_on(again).expect("loads"), 3);
    }

    #[test]
    fn one_who_leaves_takes_nothing_from_the_others_and_the_last_one_ends_the_load() {
        let loads: SharedLoad<u32, u32> = SharedLoad::default();
        let (release, held) = async_channel::bounded::<()>(1);
        let begin = || {
            let held = held.clone();
            loads.join(7, Moment(0), move || async move {
                assert!(held.recv().await.is_err());
                Ok(3)
            })
        };
        let (mut first, second) = (begin(), begin());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(first.poll_unpin(&mut cx).is_pending());
        drop(first);
        assert_eq!(loads.len(), 1, "the other one waits");
        drop(second);
        assert_eq!(loads.len(), 0);
        assert_eq!(held.receiver_count(), 1, "the load itself is gone");

        let (mut first, second) = (begin(), begin());
        assert!(first.poll_unpin(&mut cx).is_pending());
        drop(first);
        drop((release, held));
        assert_eq!(block_on(second).expect("loads"), 3);
        assert_eq!(loads.len(), 0);
    }
}
