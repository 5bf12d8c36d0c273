use std::cell::Cell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::io::clock::Spawner;
use crate::io::executor::{CoreConfig, start_core};
use crate::io::glommio_clock::{GlommioSpawner, sleep_on_core, spawn_on_core};

fn on_core<T: Send + 'static>(
    config: CoreConfig,
    test: impl AsyncFnOnce() -> T + Send + 'static,
) -> T {
    start_core(config, test)
        .expect("starts")
        .join()
        .expect("no panic")
}

#[test]
fn wakes_of_other_threads_are_never_lost_asleep_or_awake() {
    const MESSAGES: u32 = 20_000;
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let (question, questions) = async_channel::bounded(4);
        let (answer, answers) = async_channel::bounded(MESSAGES as usize);
        #[expect(clippy::disallowed_methods, reason = "a thread outside the engine")]
        let asker = thread::spawn(move || {
            // One at a time at first, so that the core falls asleep in between; then as fast as it goes.
            for number in 0..MESSAGES {
                question.send_blocking(number).expect("the core is there");
                if number < MESSAGES / 10 {
                    assert_eq!(answers.recv_blocking(), Ok(number));
                }
            }
            drop(question);
            let rest = std::iter::from_fn(|| answers.recv_blocking().ok());
            u32::try_from(rest.count()).expect("few") + MESSAGES / 10
        });
        let config = CoreConfig {
            spin,
            ..CoreConfig::default()
        };
        on_core(config, async move || {
            // Two tasks hand each question on, so that wakes within the core take part.
            let (inner, inners) = async_channel::bounded(2);
            GlommioSpawner.spawn(async move {
                while let Ok(number) = questions.recv().await {
                    inner.send(number).await.expect("the other task");
                }
            });
            while let Ok(number) = inners.recv().await {
                if number < MESSAGES / 10 || number % 2 == 0 {
                    answer.send(number).await.expect("the asker");
                }
            }
        });
        let odd_left_out = (MESSAGES - MESSAGES / 10) / 2;
        assert_eq!(asker.join().expect("no panic"), MESSAGES - odd_left_out);
    }
}

#[test]
fn more_operations_than_the_queue_has_entries_all_complete() {
    let config = CoreConfig {
        read_buffers: 8,
        ..CoreConfig::default()
    };
    on_core(config, async || {
        let ring = CoreRing::current();
        let zeros: Rc<OwnedFd> = Rc::new(File::open("/dev/zero").expect("it is there").into());
        let count = 2 * SUBMISSIONS as usize + 7;
        let reads = (0..count).map(|_| ring.read(&zeros, 0, 512));
        for done in join_all(reads).await {
            assert_eq!(done.result.expect("zeros"), 512);
        }
        assert_eq!(ring.pool.free.borrow().len(), 8, "all buffers are back");
        let slots = ring.slots.borrow();
        assert_eq!(slots.free.len(), slots.all.len());
        assert_eq!(slots.flying, 1, "the bell");
    });
}

#[test]
fn a_dropped_operation_keeps_its_buffer_until_the_kernel_is_done() {
    on_core(CoreConfig::default(), async || {
        let ring = CoreRing::current();
        let (reader, writer) = io::pipe().expect("a pipe");
        let pipe: Rc<OwnedFd> = Rc::new(reader.into());
        let buffers = ring.pool.free.borrow().len();
        let operation = ring.read(&pipe, u64::MAX, 512);
        // Submitted: nothing comes out of an empty pipe.
        sleep_on_core(Duration::from_millis(2)).await;
        drop(operation);
        assert_eq!(
            ring.pool.free.borrow().len(),
            buffers - 1,
            "the kernel has it"
        );
        while ring.slots.borrow().flying > 1 {
            sleep_on_core(Duration::from_millis(1)).await;
        }
        assert_eq!(ring.pool.free.borrow().len(), buffers);
        assert_eq!(Rc::strong_count(&pipe), 1, "and its file");
        drop(writer);
    });
}

#[test]
fn what_is_under_way_when_a_core_ends_is_cancelled() {
    let (reader, writer) = io::pipe().expect("a pipe");
    on_core(CoreConfig::default(), async move || {
        let pipe: Rc<OwnedFd> = Rc::new(reader.into());
        GlommioSpawner.spawn(async move {
            let never = CoreRing::current().read(&pipe, u64::MAX, 512).await;
            panic!("nobody writes: {:?}", never.result);
        });
        sleep_on_core(Duration::from_millis(2)).await;
    });
    drop(writer);
}

#[test]
fn a_core_that_slept_long_still_lets_others_run() {
    on_core(CoreConfig::default(), async || {
        // Made by nobody whom the driver watches.
        let unseen = glommio::spawn_local(async {
            sleep_on_core(Duration::from_millis(250)).await;
            glommio::yield_if_needed().await;
            glommio::spawn_local(async {}).await;
        });
        unseen.await;
    });
}

#[test]
fn sleepers_wake_in_order_and_tasks_run_in_between() {
    on_core(CoreConfig::default(), async || {
        let order = Rc::new(RefCell::new(Vec::new()));
        let turns = Rc::new(Cell::new(0));
        let sleepers: Vec<_> = [30, 10, 20]
            .into_iter()
            .map(|millis| {
                let order = Rc::clone(&order);
                spawn_on_core(async move {
                    sleep_on_core(Duration::from_millis(millis)).await;
                    order.borrow_mut().push(millis);
                })
            })
            .collect();
        let counted = Rc::clone(&turns);
        let busy = spawn_on_core(async move {
            loop {
                counted.set(counted.get() + 1);
                futures_util::pending!();
            }
        });
        drop(Box::pin(sleep_on_core(Duration::from_millis(15))));
        join_all(sleepers).await;
        assert_eq!(*order.borrow(), [10, 20, 30]);
        assert_eq!(turns.get(), 1, "nobody woke it");
        busy.cancel().await;
        assert!(CoreRing::current().timers.borrow().by_due.is_empty());
    });
}
