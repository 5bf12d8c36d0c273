//! How many retries a store thread may make: a bucket of tokens. A retry takes one, a success gives back a tenth of
//! one. While the store works, every failure is retried at once; while it is down, the bucket runs dry and retries
//! add at most a tenth to the load of what still gets through, however many callers there are.

/// The bucket. Starts full.
#[derive(Debug)]
pub(super) struct RetryBudget {
    tenths: u64,
    tenths_max: u64,
}

impl RetryBudget {
    /// A full bucket of `retries_max` retries.
    pub(super) fn new(retries_max: u32) -> RetryBudget {
        let tenths_max = u64::from(retries_max) * TENTHS_PER_RETRY;
        RetryBudget {
            tenths: tenths_max,
            tenths_max,
        }
    }

    /// Takes a retry if there is one.
    pub(super) fn take(&mut self) -> bool {
        let left = self.tenths.checked_sub(TENTHS_PER_RETRY);
        self.tenths = left.unwrap_or(self.tenths);
        left.is_some()
    }

    /// An operation succeeded.
    pub(super) fn give_back(&mut self) {
        self.tenths = (self.tenths + 1).min(self.tenths_max);
    }
}

const TENTHS_PER_RETRY: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_bucket_allows_one_retry_per_ten_successes() {
        let mut budget = RetryBudget::new(3);
        assert_eq!((0..10).filter(|_| budget.take()).count(), 3);
        let mut retries = 0;
        for _ in 0..100 {
            budget.give_back();
            retries += u32::from(budget.take());
        }
        assert_eq!(retries, 10);
    }

    #[test]
    fn it_never_holds_more_than_it_started_with() {
        let mut budget = RetryBudget::new(2);
        (0..1000).for_each(|_| budget.give_back());
        assert_eq!((0..10).filter(|_| budget.take()).count(), 2);
    }
}
