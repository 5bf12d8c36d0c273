//! What every `Objects` must do, wrappers included: one suite for all of them. A failure names the store.

use bytes::Bytes;
use engine::store::objects::{Objects, StoreError};
use futures_util::StreamExt;
use futures_util::future::join_all;

/// Runs the whole suite against a store that has no objects below `contract/`; leaves none behind. A few dozen
/// requests.
/// # Panics
/// At the first promise that is not kept.
pub async fn check_contract(store_name: &str, objects: &impl Objects) {
    let name = store_name;
    bodies_are_read_in_ranges(name, objects).await;
    a_name_is_taken_once(name, objects).await;
    of_concurrent_writers_one_wins(name, objects).await;
    what_is_missing_is_not_found(name, objects).await;
    listings_are_ordered_and_bounded_by_directory(name, objects).await;
}

async fn bodies_are_read_in_ranges(name: &str, objects: &impl Objects) {
    let path = "contract/ranges/object";
    let body: Bytes = (0..700_000_u32)
        .map(|n| (n % 251).to_le_bytes()[0])
        .collect();
    let put = objects.put_if_absent(path, body.clone()).await;
    put.unwrap_or_else(|error| panic!("{name}: put: {error}"));
    let whole = objects.get_all(path).await;
    let whole = whole.unwrap_or_else(|error| panic!("{name}: get_all: {error}"));
    assert!(whole == body, "{name}: the whole object");

    for range in [0..700_000, 0..1, 699_999..700_000, 262_143..524_289, 5..5] {
        let read = read(objects, path, range.clone()).await;
        let read = read.unwrap_or_else(|error| panic!("{name}: get {range:?}: {error}"));
        let expected = body.slice(usize_of(range.start)..usize_of(range.end));
        assert!(read == expected, "{name}: bytes {range:?}");
    }
    for range in [699_999..700_001, 700_000..700_001, 800_000..800_010] {
        let beyond = read(objects, path, range.clone()).await;
        assert!(
            matches!(beyond, Err(StoreError::Truncated { .. })),
            "{name}: {range:?} reaches beyond the end: {:?}",
            beyond.map(|bytes| bytes.len())
        );
    }
    delete(name, objects, path).await;
}

async fn a_name_is_taken_once(name: &str, objects: &impl Objects) {
    let path = "contract/once/object";
    for (attempt, body) in ["first", "second", "first", ""].into_iter().enumerate() {
        let put = objects.put_if_absent(path, Bytes::from(body)).await;
        match attempt {
            0 => assert!(put.is_ok(), "{name}: {put:?}"),
            _ => assert!(
                matches!(put, Err(StoreError::AlreadyExists { .. })),
                "{name}: put {body:?} on a taken name: {put:?}"
            ),
        }
    }
    let kept = objects.get_all(path).await;
    assert_eq!(kept.ok(), Some(Bytes::from("first")), "{name}");
    delete(name, objects, path).await;
}

async fn of_concurrent_writers_one_wins(name: &str, objects: &impl Objects) {
    for round in 0..3 {
        let path = format!("contract/race/{round}");
        let bodies: Vec<_> = (0..4).map(|n| Bytes::from(format!("writer {n}"))).collect();
        let puts = bodies
            .iter()
            .map(|body| objects.put_if_absent(&path, body.clone()));
        let results = join_all(puts).await;
        let winners: Vec<_> = (0..results.len()).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{name}: {results:?}");
        for result in &results {
            assert!(
                matches!(result, Ok(()) | Err(StoreError::AlreadyExists { .. })),
                "{name}: {result:?}"
            );
        }
        let kept = objects.get_all(&path).await;
        assert_eq!(kept.ok().as_ref(), Some(&bodies[winners[0]]), "{name}");
        delete(name, objects, &path).await;
    }
}

async fn what_is_missing_is_not_found(name: &str, objects: &impl Objects) {
    let path = "contract/missing";
    let all = objects.get_all(path).await;
    assert!(
        matches!(all, Err(StoreError::NotFound { .. })),
        "{name}: {all:?}"
    );
    let part = read(objects, path, 0..10).await;
    assert!(
        matches!(part, Err(StoreError::NotFound { .. })),
        "{name}: {part:?}"
    );
    // Twice: deleting what is not there is no error.
    delete(name, objects, path).await;
    let listed = objects.list(path, None).await;
    assert_eq!(
        listed.map(|l| l.len()).ok(),
        Some(0),
        "{name}: an empty directory"
    );
}

async fn listings_are_ordered_and_bounded_by_directory(name: &str, objects: &impl Objects) {
    let paths = [
        "contract/list/00000000-0000000000000001",
        "contract/list/00000000-000000000000000a",
        "contract/list/00000001-0000000000000000",
        "contract/list/deeper/object",
        "contract/listing",
    ];
    for (index, path) in paths.iter().enumerate().rev() {
        let put = objects
            .put_if_absent(path, Bytes::from(vec![0; index]))
            .await;
        put.unwrap_or_else(|error| panic!("{name}: put {path}: {error}"));
    }
    let in_list = &paths[..4];
    for (after, expected) in [
        (None, in_list),
        (Some(paths[0]), &in_list[1..]),
        // Between the second and the third; itself not there.
        (Some("contract/list/00000000-ffff"), &in_list[2..]),
        (Some(paths[3]), &[]),
    ] {
        let listed = objects.list("contract/list", after).await;
        let listed = listed.unwrap_or_else(|error| panic!("{name}: list: {error}"));
        let found: Vec<_> = listed.iter().map(|object| object.path.as_str()).collect();
        assert_eq!(found, expected, "{name}: after {after:?}");
        for object in &listed {
            let index = paths.iter().position(|path| *path == object.path);
            assert_eq!(
                index.map(|i| i as u64),
                Some(object.size_bytes),
                "{name}: {object:?}"
            );
        }
    }
    for (after, behind) in [
        (None, in_list),
        (Some(paths[0]), &in_list[1..]),
        (Some("contract/list/00000000-ffff"), &in_list[2..]),
    ] {
        for count_max in [0, 1, 3, 4, 100] {
            let listing = objects.list_first("contract/list/", after, count_max);
            let first = listing.await;
            let first = first.unwrap_or_else(|error| panic!("{name}: list_first: {error}"));
            let found: Vec<_> = first.iter().map(|object| object.path.as_str()).collect();
            let expected = &behind[..count_max.min(behind.len())];
            assert_eq!(
                found, expected,
                "{name}: the first {count_max} after {after:?}"
            );
        }
    }
    for path in paths {
        delete(name, objects, path).await;
    }
    let left = objects.list("contract", None).await;
    assert_eq!(
        left.map(|l| l.len()).ok(),
        Some(0),
        "{name}: all of it was deleted"
    );
}

async fn delete(name: &str, objects: &impl Objects, path: &str) {
    let deleted = objects.delete(path).await;
    assert!(deleted.is_ok(), "{name}: delete {path}: {deleted:?}");
}

async fn read(
    objects: &impl Objects,
    path: &str,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, StoreError> {
    let mut body = objects.get(path, range).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await.transpose()? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn usize_of(position: u64) -> usize {
    usize::try_from(position).expect("small")
}
