use std::collections::BTreeSet;

use engine::io::clock::Moment;

use super::*;
use crate::trace::Trace;

const SECTOR: usize = 512;

/// Runs `test` on a fresh disk.
fn on_disk<F: Future<Output = ()> + 'static>(
    seed: u64,
    faults: DiskFaults,
    test: impl FnOnce(Simulator, SimDisk) -> F,
) -> Coverage {
    let sim = Simulator::new(Rng::split(seed, "scheduler"), Trace::new(false), 100_000);
    let coverage = Coverage::default();
    let disk = SimDisk::new(&sim, Rng::split(seed, "disk"), coverage.clone(), SECTOR);
    disk.set_faults(faults);
    sim.run(test(sim.clone(), disk)).expect("nothing is stuck");
    sim.shut_down();
    coverage
}

fn filled(byte: u8, len: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(len);
    buffer.fill(byte);
    buffer
}

async fn open(disk: &SimDisk, sectors: usize) -> Rc<SimFile> {
    disk.open(Path::new("f"), Some((sectors * SECTOR) as u64))
        .await
        .expect("no fault")
}

#[test]
fn what_was_written_is_read_and_files_end() {
    on_disk(1, DiskFaults::default(), |_, disk| async move {
        let file = open(&disk, 8).await;
        file.write_at(SECTOR as u64, filled(7, 2 * SECTOR))
            .await
            .expect("no fault");
        let bytes = file.read_at(0, 4 * SECTOR).await.expect("no fault");
        let expected = [vec![0; SECTOR], vec![7; 2 * SECTOR], vec![0; SECTOR]].concat();
        assert_eq!(bytes, expected);
        let past = file.read_at(6 * SECTOR as u64, 4 * SECTOR).await;
        assert!(matches!(past, Err(DiskError::Short { got_bytes, .. }) if got_bytes == 2 * SECTOR));
        disk.remove(Path::new("f")).await.expect("no fault");
        let gone = disk.open(Path::new("f"), None).await;
        assert!(matches!(gone, Err(DiskError::Device { op: "open", .. })));
    });
}

#[test]
fn a_write_goes_on_when_its_future_is_dropped() {
    on_disk(1, DiskFaults::default(), |clock, disk| async move {
        let file = open(&disk, 1).await;
        {
            let mut write = std::pin::pin!(file.write_at(0, filled(9, SECTOR)));
            let first =
                std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx))).await;
            assert!(first.is_pending());
        }
        assert_eq!(
            file.read_at(0, SECTOR).await.expect("no fault")[0],
            0,
            "it takes its time"
        );
        clock.sleep(Duration::from_millis(1)).await;
        assert_eq!(file.read_at(0, SECTOR).await.expect("no fault")[0], 9);
    });
}

#[test]
fn power_loss_keeps_what_was_synced_and_some_of_the_rest() {
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let (tell, told) = async_channel::bounded(1);
        on_disk(seed, DiskFaults::default(), move |_, disk| async move {
            let file = open(&disk, 4).await;
            file.write_at(0, filled(1, 2 * SECTOR))
                .await
                .expect("no fault");
            file.sync().await.expect("no fault");
            file.write_at(SECTOR as u64, filled(2, 2 * SECTOR))
                .await
                .expect("no fault");
            file.write_at(SECTOR as u64, filled(3, SECTOR))
                .await
                .expect("no fault");
            drop(file);
            disk.power_lost();
            let bytes = open(&disk, 4)
                .await
                .read_at(0, 4 * SECTOR)
                .await
                .expect("no fault");
            tell.try_send([0, 1, 2, 3].map(|sector| bytes[sector * SECTOR]))
                .expect("room for one");
        });
        let sectors = told.try_recv().expect("the run ended");
        assert_eq!(
            (sectors[0], sectors[3]),
            (1, 0),
            "synced, and never written"
        );
        seen.insert((sectors[1], sectors[2]));
    }
    let possible = [1, 2, 3].into_iter().flat_map(|a| [0, 2].map(|b| (a, b)));
    assert_eq!(
        seen,
        possible.collect(),
        "every version of every sector, independently"
    );
}

#[test]
fn a_file_made_without_sync_may_be_gone_and_one_removed_may_be_back() {
    let (mut lost, mut back) = (0, 0);
    for seed in 0..40 {
        let (tell, told) = async_channel::bounded(1);
        on_disk(seed, DiskFaults::default(), move |_, disk| async move {
            let old = disk
                .open(Path::new("old"), Some(SECTOR as u64))
                .await
                .expect("no fault");
            old.sync().await.expect("no fault");
            disk.remove(Path::new("old")).await.expect("no fault");
            disk.open(Path::new("new"), Some(SECTOR as u64))
                .await
                .expect("no fault");
            disk.power_lost();
            let names: Vec<PathBuf> = disk.files().into_iter().map(|(path, _)| path).collect();
            tell.try_send(names).expect("room for one");
        });
        let names = told.try_recv().expect("the run ended");
        lost += usize::from(!names.contains(&PathBuf::from("new")));
        back += usize::from(names.contains(&PathBuf::from("old")));
    }
    assert!(
        (5..35).contains(&lost) && (2..35).contains(&back),
        "{lost} lost, {back} back of 40"
    );
}

/// How often of forty power losses each name is there, of a file made as `made`, synced and renamed to `renamed`.
fn names_after_power_losses(names_need_sync: bool, sync_dir: bool) -> [usize; 2] {
    let mut there = [0; 2];
    for seed in 0..40 {
        let (tell, told) = async_channel::bounded(1);
        on_disk(seed, DiskFaults::default(), move |_, disk| async move {
            if names_need_sync {
                disk.names_need_sync();
            }
            let (from, to) = (Path::new("d/made"), Path::new("d/renamed"));
            let file = disk.open(from, Some(SECTOR as u64)).await.expect("made");
            file.sync().await.expect("no fault");
            disk.rename(from, to).await.expect("no fault");
            assert!(disk.rename(from, to).await.is_err(), "it is not there");
            if sync_dir {
                disk.sync_dir(Path::new("d")).await.expect("no fault");
            }
            assert_eq!(
                disk.list(Path::new("d")).await.expect("no fault"),
                ["renamed"]
            );
            disk.power_lost();
            let names = disk.list(Path::new("d")).await.expect("no fault");
            assert!(names.len() < 2, "never both: {names:?}");
            tell.try_send(names).expect("room for one");
        });
        let names = told.try_recv().expect("the run ended");
        for (count, name) in there.iter_mut().zip(["made", "renamed"]) {
            *count += usize::from(names.iter().any(|n| n == name));
        }
    }
    there
}

#[test]
fn names_are_durable_with_their_directory() {
    assert_eq!(names_after_power_losses(true, true), [0, 40]);
    let [old, new] = names_after_power_losses(false, false);
    assert!(
        old + new == 40 && (2..35).contains(&old),
        "the file was synced, the new name not: {old}, {new}"
    );
    let [old, new] = names_after_power_losses(true, false);
    assert!(
        old > 0 && new > 0 && (5..35).contains(&(old + new)),
        "nothing was made durable: {old}, {new}"
    );
}

#[test]
fn a_kill_cuts_writes_under_way_and_loses_none_that_were_done() {
    let mut ends = BTreeSet::new();
    for seed in 0..40 {
        let (tell, told) = async_channel::bounded(1);
        on_disk(seed, DiskFaults::default(), move |clock, disk| async move {
            let file = open(&disk, 8).await;
            file.write_at(0, filled(1, SECTOR)).await.expect("no fault");
            let process = clock.process();
            let under_way = Rc::clone(&file);
            process.spawn(async move {
                let _ = under_way
                    .write_at(4 * SECTOR as u64, filled(2, 4 * SECTOR))
                    .await;
                unreachable!("killed before");
            });
            clock.sleep(Duration::from_micros(3)).await;
            process.kill();
            disk.process_killed();
            let bytes = file.read_at(0, 8 * SECTOR).await.expect("no fault");
            clock.sleep(Duration::from_millis(2)).await;
            let later = file.read_at(0, 8 * SECTOR).await.expect("no fault");
            assert_eq!(bytes, later, "nothing is written after the kill");
            assert_eq!(bytes[0], 1);
            tell.try_send((4..8).filter(|s| bytes[s * SECTOR] == 2).count())
                .expect("room for one");
        });
        ends.insert(told.try_recv().expect("the run ended"));
    }
    assert_eq!(ends, (0..=4).collect(), "cut after every sector");
}

#[test]
fn each_fault_of_reading_does_what_it_says() {
    let one = |faults| {
        let (tell, told) = async_channel::bounded(1);
        let coverage = on_disk(5, DiskFaults::default(), move |clock, disk| async move {
            let file = open(&disk, 4).await;
            for sector in 0..4_u8 {
                let at = u64::from(sector) * SECTOR as u64;
                file.write_at(at, filled(sector + 1, SECTOR))
                    .await
                    .expect("no fault");
            }
            disk.set_faults(faults);
            let started = clock.now();
            let read = file.read_at(SECTOR as u64, SECTOR).await;
            let took = clock.now().since(started);
            disk.set_faults(DiskFaults::default());
            let again = file.read_at(SECTOR as u64, SECTOR).await.expect("no fault");
            assert_eq!(again, vec![2; SECTOR], "the disk itself is fine");
            tell.try_send((read, took))
                .unwrap_or_else(|_| panic!("room for one"));
        });
        assert_eq!(
            coverage.counts().values().sum::<u64>(),
            1,
            "{:?}",
            coverage.counts()
        );
        told.try_recv().expect("the run ended")
    };
    let always = 1000;
    let (read, _) = one(DiskFaults {
        read_error: always,
        ..Default::default()
    });
    assert!(matches!(read, Err(DiskError::Device { op: "read", .. })));
    let (read, _) = one(DiskFaults {
        read_short: always,
        ..Default::default()
    });
    assert!(matches!(read, Err(DiskError::Short { op: "read", .. })));
    let (read, _) = one(DiskFaults {
        read_misdirected: always,
        ..Default::default()
    });
    let bytes = read.expect("it succeeds");
    assert!(
        bytes != vec![2; SECTOR] && bytes.iter().all(|b| *b == bytes[0]),
        "another sector"
    );
    let (read, _) = one(DiskFaults {
        read_flip: always,
        ..Default::default()
    });
    let wrong: u32 = read
        .expect("it succeeds")
        .iter()
        .map(|b| (b ^ 2).count_ones())
        .sum();
    assert_eq!(wrong, 1);
    let (read, took) = one(DiskFaults {
        read_slow: always,
        ..Default::default()
    });
    assert!(read.is_ok() && took >= Duration::from_millis(5));
}

#[test]
fn each_fault_of_writing_does_what_it_says() {
    let one = |seed, faults| {
        let (tell, told) = async_channel::bounded(1);
        on_disk(seed, DiskFaults::default(), move |_, disk| async move {
            let file = open(&disk, 8).await;
            disk.set_faults(faults);
            let write = file
                .write_at(2 * SECTOR as u64, filled(1, 2 * SECTOR))
                .await;
            disk.set_faults(DiskFaults::default());
            let bytes = file.read_at(0, 8 * SECTOR).await.expect("no fault");
            let written: Vec<usize> = (0..8)
                .filter(|sector| bytes[sector * SECTOR] == 1)
                .collect();
            tell.try_send((write.map(drop), written))
                .unwrap_or_else(|_| panic!("room for one"));
        });
        told.try_recv().expect("the run ended")
    };
    let always = 1000;
    let mut ends = BTreeSet::new();
    for seed in 0..20 {
        let (write, written) = one(
            seed,
            DiskFaults {
                write_error: always,
                ..Default::default()
            },
        );
        assert!(matches!(write, Err(DiskError::Device { op: "write", .. })));
        ends.insert(written);
    }
    assert_eq!(
        ends,
        [vec![], vec![2], vec![2, 3]].into(),
        "nothing, some, all"
    );
    let (write, written) = one(
        1,
        DiskFaults {
            write_short: always,
            ..Default::default()
        },
    );
    let Err(DiskError::Short { got_bytes, .. }) = write else {
        panic!("{write:?}")
    };
    assert_eq!(written.len(), got_bytes / SECTOR);
    let (write, written) = one(
        1,
        DiskFaults {
            write_lost: always,
            ..Default::default()
        },
    );
    assert!(write.is_ok() && written.is_empty());
    let (write, written) = one(
        1,
        DiskFaults {
            write_misdirected: always,
            ..Default::default()
        },
    );
    assert!(
        write.is_ok() && written.len() == 2 && written != [2, 3],
        "{written:?}"
    );
}

#[test]
fn a_sync_that_lies_or_fails_makes_nothing_durable() {
    for faults in [
        DiskFaults {
            sync_lie: 1000,
            ..Default::default()
        },
        DiskFaults {
            sync_error: 1000,
            ..Default::default()
        },
    ] {
        let lost = (0..20).filter(|seed| {
            let (tell, told) = async_channel::bounded(1);
            on_disk(*seed, DiskFaults::default(), move |_, disk| async move {
                let file = open(&disk, 1).await;
                file.sync().await.expect("no fault");
                file.write_at(0, filled(1, SECTOR)).await.expect("no fault");
                disk.set_faults(faults);
                assert_eq!(file.sync().await.is_ok(), faults.sync_lie > 0);
                disk.power_lost();
                let bytes = file.read_at(0, SECTOR).await.expect("no fault");
                tell.try_send(bytes[0] == 0).expect("room for one");
            });
            told.try_recv().expect("the run ended")
        });
        assert!((3..18).contains(&lost.count()));
    }
}

#[test]
fn rot_flips_one_stored_bit() {
    on_disk(2, DiskFaults::default(), |clock, disk| async move {
        let file = open(&disk, 4).await;
        assert!(!disk.rot(), "there is nothing to rot");
        file.write_at(SECTOR as u64, AlignedBuffer::zeroed(SECTOR))
            .await
            .expect("no fault");
        assert!(disk.rot());
        let ones: u32 = file
            .read_at(0, 4 * SECTOR)
            .await
            .expect("no fault")
            .iter()
            .map(|b| b.count_ones())
            .sum();
        assert_eq!(ones, 1);
        assert!(clock.now() > Moment(0));
    });
}
