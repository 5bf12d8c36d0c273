//! How many deltas there are of each value since its last image, so that a new image is made before a read of it becomes
//! dear.
//!
//! What was counted before a start is not known any more, nor what was forgotten because there were too many: such a value
//! begins at half of the bound.

use std::collections::{HashMap, VecDeque};

use crate::layer::ValueKind;
use crate::redo::Redo;
use crate::types::Key;

use super::VersionBatch;

/// Deltas since the last image, of the values of one branch that one core owns.
#[derive(Debug, Default)]
pub(crate) struct Chains(HashMap<Key, Chain, ahash::RandomState>);

#[derive(Clone, Copy, Debug)]
struct Chain {
    deltas: u32,
    bytes: u32,
    /// An image is being made.
    is_due: bool,
}

/// When a value gets a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainBounds {
    pub(crate) deltas: u32,
    pub(crate) bytes: u32,
}

impl Chains {
    /// Counts what a batch adds; `due` gets the keys that want an image now, at most `due_max` of them. Those for which there
    /// is no room want one again with their next delta.
    pub(crate) fn count(
        &mut self,
        batch: &VersionBatch,
        redo: &dyn Redo,
        bounds: ChainBounds,
        (due, due_max): (&mut VecDeque<Key>, usize),
    ) {
        if self.0.len() > KEYS_MAX {
            self.0.clear();
        }
        let unknown = Chain {
            deltas: bounds.deltas / 2,
            bytes: bounds.bytes / 2,
            is_due: false,
        };
        for (key, kind, value) in batch.values() {
            let chain = self.0.entry(key).or_insert(unknown);
            if kind == ValueKind::Image || redo.begins(value) {
                chain.deltas = 0;
                chain.bytes = 0;
            }
            if kind == ValueKind::Image {
                continue;
            }
            let bytes = u32::try_from(value.len()).expect("a value is at most a page");
            chain.deltas = chain.deltas.saturating_add(1);
            chain.bytes = chain.bytes.saturating_add(bytes);
            let is_long = chain.deltas >= bounds.deltas || chain.bytes >= bounds.bytes;
            if is_long && !chain.is_due && due.len() < due_max {
                chain.is_due = true;
                due.push_back(key);
            }
        }
    }

    /// An image was made of a value that was due, or could not be: then it wants one again with its next delta.
    pub(crate) fn settle(&mut self, key: &Key, was_made: bool) {
        if let Some(chain) = self.0.get_mut(key) {
            chain.is_due = false;
            if was_made {
                chain.deltas = 0;
                chain.bytes = 0;
            }
        }
    }
}

/// Values that are counted; about 50 bytes each.
const KEYS_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Value;
    use crate::redo::RedoFailed;
    use crate::types::{Lsn, PAGE_BYTES};

    /// A delta that begins with 1 begins its value.
    struct FirstByte;

    impl Redo for FirstByte {
        fn begins(&self, delta: &[u8]) -> bool {
            delta.first() == Some(&1)
        }

        fn apply(
            &self,
            _: &Key,
            _: Lsn,
            _: &[u8],
            _: &mut [u8; PAGE_BYTES],
            _: usize,
        ) -> Result<usize, RedoFailed> {
            unreachable!("nothing is applied")
        }
    }

    fn due(chains: &mut Chains, values: &[Value<'_>]) -> usize {
        let mut batch = VersionBatch::default();
        for (lsn, value) in (1..).zip(values) {
            batch.push(KEY, Lsn(lsn), *value);
        }
        let bounds = ChainBounds {
            deltas: 4,
            bytes: 100,
        };
        let mut due = VecDeque::new();
        chains.count(&batch, &FirstByte, bounds, (&mut due, 1));
        due.len()
    }

    const KEY: Key = Key([1; 24]);

    #[test]
    fn an_image_is_due_after_so_many_deltas_or_bytes_until_it_is_made() {
        let mut chains = Chains::default();
        let delta = Value::Delta(&[0; 10]);
        // Half of it may have been before.
        assert_eq!(due(&mut chains, &[delta; 1]), 0);
        assert_eq!(due(&mut chains, &[delta; 1]), 1);
        assert_eq!(due(&mut chains, &[delta; 9]), 0, "it is being made");
        chains.settle(&KEY, false);
        assert_eq!(due(&mut chains, &[delta]), 1, "it was not made");
        chains.settle(&KEY, true);
        assert_eq!(due(&mut chains, &[delta; 3]), 0);
        assert_eq!(due(&mut chains, &[delta; 5]), 1);
        chains.settle(&KEY, true);
        assert_eq!(
            due(&mut chains, &[Value::Image(b"x"), delta, delta, delta]),
            0
        );
        assert_eq!(due(&mut chains, &[Value::Delta(&[1; 10]), delta, delta]), 0);
        assert_eq!(due(&mut chains, &[delta]), 1);
        chains.settle(&KEY, true);
        assert_eq!(due(&mut chains, &[Value::Delta(&[0; 99])]), 0);
        assert_eq!(due(&mut chains, &[Value::Delta(&[0; 2])]), 1);
    }

    #[test]
    fn for_which_there_is_no_room_comes_again() {
        let mut chains = Chains::default();
        let mut batch = VersionBatch::default();
        batch.push(KEY, Lsn(1), Value::Delta(&[0; 200]));
        let bounds = ChainBounds {
            deltas: 4,
            bytes: 100,
        };
        let mut due = VecDeque::from([Key::MIN]);
        chains.count(&batch, &FirstByte, bounds, (&mut due, 1));
        assert_eq!(due, [Key::MIN]);
        chains.count(&batch, &FirstByte, bounds, (&mut due, 2));
        assert_eq!(due, [Key::MIN, KEY]);
    }
}
