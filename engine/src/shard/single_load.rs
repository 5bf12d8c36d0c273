//! Things loaded once for all who need them: layer indexes, a partition's sections.
//!
//! Who comes first loads; who comes meanwhile waits and shares the outcome, an error too: a store that is away is
//! asked once for all of them, not by each in turn.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use crate::error::ReadError;

use super::local_event::Progress;

/// Loads under way, by what they load.
pub(super) struct SingleLoad<K>(RefCell<HashMap<K, Rc<Load>, ahash::RandomState>>);

#[derive(Default)]
struct Load {
    done: Progress,
    error: RefCell<Option<ReadError>>,
}

impl<K> Default for SingleLoad<K> {
    fn default() -> Self {
        SingleLoad(RefCell::default())
    }
}

impl<K: Hash + Eq + Copy> SingleLoad<K> {
    /// Runs `load` unless somebody else is at it; returns when it is done. What was loaded is where `load` put it.
    ///
    /// Dropping the future of the one who loads fails the others as unavailable.
    pub(super) async fn run(
        &self,
        key: K,
        load: impl Future<Output = Result<(), ReadError>>,
    ) -> Result<(), ReadError> {
        let theirs = self.0.borrow().get(&key).cloned();
        if let Some(theirs) = theirs {
            theirs.done.wait_for(1).await;
            let error = theirs.error.borrow().clone();
            return error.map_or(Ok(()), Err);
        }
        let mine = Rc::new(Load::default());
        self.0.borrow_mut().insert(key, Rc::clone(&mine));
        let mut guard = Guard {
            table: self,
            key,
            load: mine,
            outcome: None,
        };
        let outcome = load.await;
        guard.outcome = Some(outcome.clone());
        outcome
    }
}

/// Lets the waiters go, whatever happens to the loader.
struct Guard<'a, K: Hash + Eq + Copy> {
    table: &'a SingleLoad<K>,
    key: K,
    load: Rc<Load>,
    outcome: Option<Result<(), ReadError>>,
}

impl<K: Hash + Eq + Copy> Drop for Guard<'_, K> {
    fn drop(&mut self) {
        self.table.0.borrow_mut().remove(&self.key);
        let given_up = || Err(ReadError::unavailable("loading was given up"));
        *self.load.error.borrow_mut() = self.outcome.take().unwrap_or_else(given_up).err();
        self.load.done.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn ten_thousand_share_one_load_and_its_error() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime");
        let loads = SingleLoad::default();
        let count = Cell::new(0);
        let tries = (0..10_000).map(|_| {
            loads.run(7_u32, async {
                count.set(count.get() + 1);
                tokio::task::yield_now().await;
                Err(ReadError::unavailable("away"))
            })
        });
        let outcomes = runtime.block_on(join_all(tries));
        assert_eq!(count.get(), 1);
        assert!(
            outcomes
                .iter()
                .all(|o| matches!(o, Err(ReadError::Unavailable { .. })))
        );
        assert!(runtime.block_on(loads.run(7, async { Ok(()) })).is_ok());
    }
}
