//! Branches that other processes write: what they commit is looked for as long as somebody reads, and at once where something is
//! missing that they may have replaced.

use std::rc::Rc;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::error::{ErrorKind, ReadError};
use crate::io::clock::{Clock, within};
use crate::types::{Key, Lsn};

use super::page_pool::Page;
use super::read_path::{Found, Patience, Stop};
use super::request::BranchNumber;
use super::scan::ScanResult;
use super::{Platform, ShardState};

impl<P: Platform> ShardState<P> {
    /// Compares the branches that were asked for with the object store, over and over: on one core, for all.
    pub(super) async fn run_refresh(self: Rc<Self>) {
        let Some(every) = self.config.refresh_every else {
            return;
        };
        loop {
            self.clock.sleep(every).await;
            let look = async |number| {
                if let Err(error) = self.branches.refresh_one(number, &self.clock).await {
                    self.note_failed_look(number, &error);
                }
            };
            stream::iter(self.branches.wanted())
                .for_each_concurrent(LOOKS_AT_ONCE, look)
                .await;
        }
    }

    /// Compares a branch with the object store, if that was not done for a while. A store that does not answer is not waited for
    /// longer than a moment, and not again by those who come after.
    pub(super) async fn refresh_if_old(&self, number: BranchNumber) {
        let Some(every) = self.config.refresh_every else {
            return;
        };
        let refreshed = self.branches.get(number).refreshed();
        let age = self.clock.now().0.saturating_sub(refreshed);
        if Duration::from_nanos(age) < every {
            return;
        }
        let refresh = self.branches.refresh(number, &self.clock);
        match within(&self.clock, REFRESH_WAIT_MAX, refresh).await {
            Some(Ok(())) => {}
            Some(Err(error)) => self.note_failed_look(number, &error),
            None => self.branch(number).want(),
        }
    }

    fn note_failed_look(&self, number: BranchNumber, error: &ReadError) {
        tracing::warn!(%error, "what others wrote to a branch can't be seen");
        if error.kind() == ErrorKind::Unavailable {
            // The next round looks again.
            self.branch(number).want();
        }
    }

    /// A read with patience. What is damaged or missing may have been replaced by another process, and deleted since: then it is
    /// read once more as the branch is now.
    pub(super) async fn read_refreshed(
        self: &Rc<Self>,
        branch: BranchNumber,
        key: &Key,
        at: Lsn,
        page: &mut Page,
    ) -> Result<Found, Stop> {
        let mut tries = Tries::default();
        loop {
            let seen = self.seen(branch);
            match self.read(branch, key, at, page, Patience::Store).await {
                Err(Stop::Failed(error))
                    if self.is_news(branch, seen, &error, &mut tries).await => {}
                outcome => return outcome,
            }
        }
    }

    /// A scan in the same way.
    pub(super) async fn scan_refreshed(
        self: &Rc<Self>,
        branch: BranchNumber,
        (from, to): (Key, Key),
        at: Lsn,
    ) -> ScanResult {
        let mut tries = Tries::default();
        loop {
            let seen = self.seen(branch);
            match self.scan(branch, from, to, at).await {
                Err(error) if self.is_news(branch, seen, &error, &mut tries).await => {}
                outcome => return outcome,
            }
        }
    }

    /// Whether an error may be of what another process has replaced, so that it is worth another try.
    async fn is_news(
        &self,
        branch: BranchNumber,
        seen: u64,
        error: &ReadError,
        tries: &mut Tries,
    ) -> bool {
        tries.0 += 1;
        error.kind() == ErrorKind::Corrupt
            && tries.0 <= REFRESHES_MAX
            && self.branches.refresh(branch, &self.clock).await.is_ok()
            && self.generations(branch) > seen
    }
}

/// How often a read failed.
#[derive(Default)]
struct Tries(u32);

/// Longest wait for a look at the store when a branch is opened that is open already.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(1);
/// Times a read begins anew.
const REFRESHES_MAX: u32 = 3;
/// Branches that are compared with the store at once.
const LOOKS_AT_ONCE: usize = 8;
