//! What becomes of the versions of a key that are merged: which stay, and whether the newest wants an image.

use std::collections::HashSet;

use crate::catalog::Window;
use crate::layer::ValueKind;
use crate::manifest::KeptHistory;
use crate::merge::{begins, replay};
use crate::redo::Redo;
use crate::types::{Key, Lsn, Partition};

/// Which of the versions of a key a history needs, oldest first; of each its LSN, and whether it can be read without those
/// before it.
fn needed(kept: &KeptHistory, versions: &[(Lsn, bool)]) -> Vec<bool> {
    let mut needed = vec![false; versions.len()];
    for at in kept.at.iter().chain([&kept.from]) {
        let end = versions.partition_point(|(lsn, _)| lsn <= at);
        let floor = versions[..end].iter().rposition(|(_, begins)| *begins);
        needed[floor.unwrap_or(0)..end].fill(true);
    }
    let after = versions.partition_point(|(lsn, _)| *lsn <= kept.from);
    needed[after..].fill(true);
    needed
}

/// When a value gets an image, and what it takes to make one.
pub(super) struct Images<'r> {
    pub(super) redo: &'r dyn Redo,
    pub(super) deltas: usize,
    pub(super) bytes: usize,
    /// Partitions where what is merged is not all there is.
    pub(super) interleaved: &'r HashSet<Partition>,
    /// So many are made at once; the others wait for the next merge.
    pub(super) count_max: usize,
}

/// A version that wants an image which can't be made of what is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedImage {
    /// Its place in the window.
    pub(super) place: usize,
    pub(super) key: Key,
    pub(super) lsn: Lsn,
}

/// What a review came to.
#[derive(Debug, Default)]
pub(super) struct Reviewed {
    /// Images to be read elsewhere.
    pub(super) wanted: Vec<WantedImage>,
    /// Images made.
    pub(super) images: u64,
    /// Versions left out.
    pub(super) dropped: u64,
}

/// Leaves out what nobody needs, and makes images.
pub(super) fn review(window: &mut Window, kept: &KeptHistory, images: &Images<'_>) -> Reviewed {
    let mut reviewed = Reviewed::default();
    if kept.from.is_valid() {
        reviewed.dropped = leave_out(window, kept, images.redo);
    }
    let mut made: Vec<(usize, Vec<u8>)> = Vec::new();
    for group in window.groups() {
        let newest = group.end - 1;
        let floor = group
            .clone()
            .rev()
            .find(|place| begins(window, *place, images.redo));
        let deltas = floor.unwrap_or(group.start)..group.end;
        let (count, bytes) = deltas
            .filter(|place| window.kind(*place) == ValueKind::Delta)
            .map(|place| window.value(place).len())
            .fold((0, 0), |(count, bytes), len| (count + 1, bytes + len));
        let is_long = count >= images.deltas || bytes >= images.bytes;
        let has_room = made.len() + reviewed.wanted.len() < images.count_max;
        if !is_long || !has_room || window.kind(newest) == ValueKind::Image {
            continue;
        }
        let (partition, key, lsn) = window.version(newest);
        match floor.filter(|_| !images.interleaved.contains(&partition)) {
            Some(floor) => {
                // What can't be applied stays as it is: whoever reads it is told.
                if let Ok(image) = replay(window, floor..group.end, images.redo, |_, _| {}) {
                    made.push((newest, image));
                }
            }
            None => reviewed.wanted.push(WantedImage {
                place: newest,
                key,
                lsn,
            }),
        }
    }
    reviewed.images = made.len() as u64;
    for (place, image) in made {
        window.replace_by_image(place, &image);
    }
    reviewed
}

fn leave_out(window: &mut Window, kept: &KeptHistory, redo: &dyn Redo) -> u64 {
    let mut stays = Vec::new();
    for group in window.groups() {
        let versions: Vec<(Lsn, bool)> = group
            .map(|place| (window.version(place).2, begins(window, place, redo)))
            .collect();
        stays.extend(needed(kept, &versions));
    }
    let dropped = stays.iter().filter(|stays| !**stays).count();
    window.retain(&stays);
    dropped as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Value;
    use crate::redo::RedoFailed;
    use crate::types::PAGE_BYTES;

    /// Deltas append themselves; one that begins with `!` begins its value, one with `?` can't be applied.
    struct Append;

    impl Redo for Append {
        fn begins(&self, delta: &[u8]) -> bool {
            delta.first() == Some(&b'!')
        }

        fn apply(
            &self,
            _: &Key,
            _: Lsn,
            delta: &[u8],
            page: &mut [u8; PAGE_BYTES],
            len: usize,
        ) -> Result<usize, RedoFailed> {
            if delta.first() == Some(&b'?') {
                return Err(RedoFailed("not this one".into()));
            }
            let len = if self.begins(delta) { 0 } else { len };
            page[len..len + delta.len()].copy_from_slice(delta);
            Ok(len + delta.len())
        }
    }

    const KEY: Key = Key([7; 24]);

    fn partition() -> Partition {
        Partition::new(3).expect("a partition")
    }

    fn window(versions: &[(u64, Value<'_>)]) -> Window {
        let mut window = Window::new();
        for (lsn, value) in versions {
            window.push(partition(), KEY, Lsn(*lsn), *value);
        }
        window
    }

    fn reviewed(window: &mut Window, kept: &KeptHistory, interleaved: &[Partition]) -> Reviewed {
        let images = Images {
            redo: &Append,
            deltas: 3,
            bytes: 100,
            interleaved: &interleaved.iter().copied().collect(),
            count_max: 100,
        };
        review(window, kept, &images)
    }

    fn left(window: &mut Window) -> Vec<(u64, ValueKind, Vec<u8>)> {
        let places: Vec<usize> = window.groups().into_iter().flatten().collect();
        let of = |place| {
            let (_, _, lsn) = window.version(place);
            (lsn.0, window.kind(place), window.value(place).to_vec())
        };
        places.into_iter().map(of).collect()
    }

    fn lsns(window: &mut Window) -> Vec<u64> {
        left(window).iter().map(|(lsn, ..)| *lsn).collect()
    }

    #[test]
    fn what_nobody_can_read_is_left_out() {
        let versions = [
            (10, Value::Image(b"a")),
            (20, Value::Delta(b"b")),
            (30, Value::Image(b"c")),
            (40, Value::Delta(b"d")),
            (50, Value::Image(b"e")),
            (60, Value::Image(b"f")),
        ];
        let cases: [(u64, &[u64], &[u64]); 7] = [
            (0, &[], &[10, 20, 30, 40, 50, 60]),
            (9, &[], &[10, 20, 30, 40, 50, 60]),
            (29, &[], &[10, 20, 30, 40, 50, 60]),
            (30, &[], &[30, 40, 50, 60]),
            (55, &[], &[50, 60]),
            (60, &[25], &[10, 20, 60]),
            (70, &[45, 52], &[30, 40, 50, 60]),
        ];
        for (from, at, wanted) in cases {
            let mut window = window(&versions);
            let kept = KeptHistory::new(Lsn(from), at.iter().map(|at| Lsn(*at)));
            let reviewed = reviewed(&mut window, &kept, &[]);
            assert_eq!(lsns(&mut window), wanted, "from {from}, at {at:?}");
            let dropped = versions.len() - wanted.len();
            assert_eq!(usize::try_from(reviewed.dropped), Ok(dropped));
        }
    }

    #[test]
    fn without_a_floor_all_deltas_stay() {
        let mut window = window(&[(10, Value::Delta(b"a")), (20, Value::Delta(b"b"))]);
        reviewed(&mut window, &KeptHistory::new(Lsn(30), []), &[]);
        assert_eq!(lsns(&mut window), [10, 20]);
    }

    #[test]
    fn the_newest_of_many_deltas_becomes_an_image() {
        let versions = [
            (10, Value::Image(b"a")),
            (20, Value::Delta(b"b")),
            (30, Value::Delta(b"c")),
            (40, Value::Delta(b"d")),
        ];
        let mut few = window(&versions[..3]);
        let none = reviewed(&mut few, &KeptHistory::default(), &[]);
        assert_eq!((none.images, none.wanted.len()), (0, 0));
        let mut many = window(&versions);
        let made = reviewed(&mut many, &KeptHistory::default(), &[]);
        assert_eq!((made.images, made.wanted.len()), (1, 0));
        let newest = left(&mut many).pop();
        assert_eq!(newest, Some((40, ValueKind::Image, b"abcd".to_vec())));
        assert_eq!(lsns(&mut many), [10, 20, 30, 40]);
        // Of a chain that begins with a delta, too.
        let mut begun = window(&[
            (10, Value::Delta(b"!")),
            (20, Value::Delta(b"b")),
            (30, Value::Delta(b"c")),
        ]);
        reviewed(&mut begun, &KeptHistory::default(), &[]);
        let newest = left(&mut begun).pop();
        assert_eq!(newest, Some((30, ValueKind::Image, b"!bc".to_vec())));
    }

    #[test]
    fn an_image_of_what_is_not_all_there_is_comes_from_elsewhere() {
        let deltas = [
            (20, Value::Delta(b"b")),
            (30, Value::Delta(b"c")),
            (40, Value::Delta(b"d")),
        ];
        let wanted = vec![WantedImage {
            place: 2,
            key: KEY,
            lsn: Lsn(40),
        }];
        let found = reviewed(&mut window(&deltas), &KeptHistory::default(), &[]);
        assert_eq!((found.images, found.wanted), (0, wanted));
        let mut whole = deltas.to_vec();
        whole.insert(0, (10, Value::Image(b"a")));
        let found = reviewed(&mut window(&whole), &KeptHistory::default(), &[partition()]);
        assert_eq!((found.images, found.wanted.len()), (0, 1));
    }

    #[test]
    fn what_can_not_be_applied_stays_as_it_is() {
        let mut window = window(&[
            (10, Value::Image(b"a")),
            (20, Value::Delta(b"b")),
            (30, Value::Delta(b"?")),
            (40, Value::Delta(b"d")),
        ]);
        let found = reviewed(&mut window, &KeptHistory::default(), &[]);
        assert_eq!((found.images, found.wanted.len()), (0, 0));
        let newest = left(&mut window).pop();
        assert_eq!(newest, Some((40, ValueKind::Delta, b"d".to_vec())));
    }
}
