//! Extents on their way from the object store: at most one request for each, whatever the number of its readers.
//!
//! The bytes arrive in order. A reader waits for the directory, finds its block in it, waits for the block's last
//! byte, and opens it while the rest is still under way.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use crate::error::ReadError;

use super::local_event::Progress;

/// One extent under way, or just arrived and not yet in the cache.
pub(crate) struct ExtentFlight {
    want_bytes: usize,
    bytes: RefCell<Vec<u8>>,
    progress: Progress,
    failed: RefCell<Option<ReadError>>,
}

impl ExtentFlight {
    /// A flight that will bring `want_bytes`.
    pub(crate) fn new(want_bytes: usize) -> Rc<ExtentFlight> {
        Rc::new(ExtentFlight {
            want_bytes,
            bytes: RefCell::new(Vec::with_capacity(want_bytes)),
            progress: Progress::default(),
            failed: RefCell::new(None),
        })
    }

    /// Adds the next bytes and wakes whoever has all it waited for.
    pub(crate) fn append(&self, chunk: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        assert!(
            bytes.len() + chunk.len() <= self.want_bytes,
            "a flight brings one extent"
        );
        bytes.extend_from_slice(chunk);
        let reached = bytes.len() as u64;
        drop(bytes);
        self.progress.advance(reached);
    }

    /// Whether everything has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.bytes.borrow().len() == self.want_bytes
    }

    /// Nothing more will come. Readers that still wait get `error`; those that have their bytes don't.
    pub(crate) fn fail(&self, error: ReadError) {
        if !self.is_complete() {
            self.failed.borrow_mut().get_or_insert(error);
            self.progress.finish();
        }
    }

    /// Completes when the first `count` bytes are there.
    /// # Errors
    /// Why they are not coming.
    pub(crate) async fn wait_for(&self, count: usize) -> Result<(), ReadError> {
        // More than the whole never comes: whoever asks for it is told when all is there.
        self.progress
            .wait_for(count.min(self.want_bytes) as u64)
            .await;
        if self.bytes.borrow().len() >= count {
            return Ok(());
        }
        let failed = self.failed.borrow();
        Err(failed
            .clone()
            .unwrap_or_else(|| ReadError::unavailable("the extent is shorter than that")))
    }

    /// What has arrived. Not to be held over an await.
    pub(crate) fn bytes(&self) -> Ref<'_, [u8]> {
        Ref::map(self.bytes.borrow(), Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll};

    use futures_util::task::{noop_waker, noop_waker_ref};

    use super::*;

    #[test]
    fn a_reader_gets_its_bytes_before_the_rest_and_keeps_them_when_the_rest_fails() {
        let flight = ExtentFlight::new(10);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut early = pin!(flight.wait_for(4));
        let mut late = pin!(flight.wait_for(8));
        assert!(early.as_mut().poll(&mut cx).is_pending());
        assert!(late.as_mut().poll(&mut cx).is_pending());
        flight.append(&[1, 2, 3, 4, 5]);
        assert!(matches!(early.poll(&mut cx), Poll::Ready(Ok(()))));
        assert_eq!(&*flight.bytes(), [1, 2, 3, 4, 5]);
        flight.fail(ReadError::unavailable("cut"));
        assert!(matches!(
            late.poll(&mut cx),
            Poll::Ready(Err(ReadError::Unavailable { .. }))
        ));
        let mut again = pin!(flight.wait_for(3));
        assert!(matches!(again.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    }

    #[test]
    fn who_asks_for_more_than_there_is_hears_so_when_all_is_there() {
        let flight = ExtentFlight::new(4);
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut beyond = pin!(flight.wait_for(5));
        assert!(beyond.as_mut().poll(&mut cx).is_pending());
        flight.append(&[1, 2, 3, 4]);
        assert!(matches!(
            beyond.poll(&mut cx),
            Poll::Ready(Err(ReadError::Unavailable { .. }))
        ));
    }
}
