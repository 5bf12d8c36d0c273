use std::fs;
use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::io::executor::{CoreConfig, start_core};

fn on_core<T: Send + 'static>(test: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    start_core(
        CoreConfig {
            cpu: None,
            spin: Duration::ZERO,
            ..CoreConfig::default()
        },
        test,
    )
    .expect("an executor starts")
    .join()
    .expect("the test does not panic")
}

fn pattern(len_bytes: usize, seed: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(len_bytes);
    for (at, byte) in buffer.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).expect("below 251") ^ seed;
    }
    buffer
}

#[test]
fn writes_are_read_back_and_files_have_the_size_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("slots");
    let on_disk = path.clone();
    on_core(async move || {
        let disk = RingDisk::new(4);
        let file = disk.open(&path, Some(1 << 20)).await.expect("created");
        assert_eq!(file.size_bytes(), 1 << 20);
        let align = file.alignment_bytes();
        assert!(align.is_power_of_two() && (512..=4096).contains(&align));

        // Thirty-two writes through a cap of four, then as many reads.
        let writes = (0..32u8).map(|n| file.write_at(u64::from(n) * 8192, pattern(8192, n)));
        for written in join_all(writes).await {
            assert_eq!(written.expect("written").len(), 8192);
        }
        let reads = (0..32u8).map(|n| file.read_at(u64::from(n) * 8192, 8192));
        for (n, read) in (0..32u8).zip(join_all(reads).await) {
            assert_eq!(&read.expect("read")[..], &pattern(8192, n)[..]);
        }
        file.sync().await.expect("durable");
        assert_eq!(disk.queue_depth(), (0, 0));

        let again = disk.open(&path, Some(512 << 10)).await.expect("cut");
        assert_eq!(again.size_bytes(), 512 << 10);
        assert_eq!(
            &again.read_at(0, 8192).await.expect("kept")[..],
            &pattern(8192, 0)[..]
        );
    });
    assert_eq!(fs::metadata(on_disk).expect("there").len(), 512 << 10);
}

#[test]
fn reads_past_the_end_are_short_and_missing_files_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("slots");
    on_core(async move || {
        let disk = RingDisk::new(4);
        match disk.open(&path, None).await {
            Err(DiskError::Device { op: "open", source }) => {
                assert_eq!(source.kind(), io::ErrorKind::NotFound);
            }
            other => panic!("opened a file that is not there: {other:?}"),
        }
        let file = disk.open(&path, Some(8192)).await.expect("created");
        match file.read_at(4096, 8192).await {
            Err(DiskError::Short {
                want_bytes: 8192,
                got_bytes: 4096,
                at: 4096,
                ..
            }) => {}
            other => panic!("a read past the end gave {other:?}"),
        }
        disk.remove(&path).await.expect("removed");
        disk.remove(&path).await.expect("nothing to remove is fine");
        assert!(disk.open(&path, None).await.is_err());
    });
}

#[test]
fn names_are_listed_in_order_changed_and_made_durable() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().to_owned();
    fs::create_dir(dir.join("folder")).expect("made");
    let names = on_core(async move || {
        let disk = RingDisk::new(4);
        for name in ["b", "a", "c"] {
            disk.open(&dir.join(name), Some(4096)).await.expect(name);
        }
        let rename = disk.rename(&dir.join("b"), &dir.join("d")).await;
        rename.expect("renamed");
        let gone = disk.rename(&dir.join("b"), &dir.join("e")).await;
        assert!(matches!(gone, Err(DiskError::Device { op: "rename", .. })));
        disk.sync_dir(&dir).await.expect("durable");
        let missing = dir.join("missing");
        assert!(disk.list(&missing).await.is_err());
        assert!(disk.sync_dir(&missing).await.is_err());
        disk.list(&dir).await.expect("listed")
    });
    assert_eq!(names, ["a", "c", "d"], "files, no folders");
}

#[test]
fn a_dropped_read_frees_its_place_and_leaves_the_file_usable() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("slots");
    on_core(async move || {
        let disk = RingDisk::new(1);
        let file = disk.open(&path, Some(1 << 20)).await.expect("created");
        file.write_at(0, pattern(4096, 7)).await.expect("written");
        for _ in 0..50 {
            let mut read = Box::pin(file.read_at(0, 4096));
            assert!(futures_util::poll!(read.as_mut()).is_pending());
            drop(read);
            assert_eq!(disk.queue_depth(), (0, 0));
        }
        assert_eq!(
            &file.read_at(0, 4096).await.expect("read")[..],
            &pattern(4096, 7)[..]
        );
    });
}

#[test]
fn odd_alignments_fall_back_to_one_that_every_device_takes() {
    for (reported, used) in [
        (0, 4096),
        (512, 512),
        (4096, 4096),
        (8192, 4096),
        (777, 4096),
    ] {
        assert_eq!(usable_alignment(reported), used);
    }
}
