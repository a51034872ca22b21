//! How much may be under way at one place, in number and in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is under way. Cheap to clone; clones share the count.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What is taken here is taken there too.
    whole: Option<Budget>,
    count: AtomicUsize,
    size_bytes: AtomicUsize,
    count_max: usize,
    size_bytes_max: usize,
}

/// Part of a budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Inner>,
    size_bytes: usize,
    _of_whole: Option<Box<Share>>,
}

impl Budget {
    pub(crate) fn new(count_max: usize, size_bytes_max: usize) -> Self {
        Self(Arc::new(Inner {
            whole: None,
            count: AtomicUsize::new(0),
            size_bytes: AtomicUsize::new(0),
            count_max,
            size_bytes_max,
        }))
    }

    /// This budget as a part of another.
    pub(crate) fn within(self, whole: &Self) -> Self {
        Self(Arc::new(Inner {
            whole: Some(whole.clone()),
            count: AtomicUsize::new(0),
            size_bytes: AtomicUsize::new(0),
            count_max: self.0.count_max,
            size_bytes_max: self.0.size_bytes_max,
        }))
    }

    /// Takes a share for something of `size_bytes`; nothing if too much is under way. Alone,
    /// anything is allowed: else what is larger than the whole budget would be refused for ever.
    pub(crate) fn take(&self, size_bytes: usize) -> Option<Share> {
        let inner = &self.0;
        let of_whole = match &inner.whole {
            Some(whole) => Some(Box::new(whole.take(size_bytes)?)),
            None => None,
        };
        // Given back on every refusal, by dropping it.
        let share = Share {
            budget: Arc::clone(inner),
            size_bytes,
            _of_whole: of_whole,
        };
        let count = inner.count.fetch_add(1, Ordering::AcqRel);
        let before = inner.size_bytes.fetch_add(size_bytes, Ordering::AcqRel);
        let fits = before == 0 || before.saturating_add(size_bytes) <= inner.size_bytes_max;
        (count < inner.count_max && fits).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.count.fetch_sub(1, Ordering::AcqRel);
        self.budget
            .size_bytes
            .fetch_sub(self.size_bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_bytes_are_limited_and_come_back() {
        let budget = Budget::new(2, 100);
        let first = budget.take(60).unwrap();
        assert!(budget.take(60).is_none(), "too many bytes");
        let second = budget.take(40).unwrap();
        assert!(budget.take(0).is_none(), "too many");
        drop(first);
        assert!(budget.take(60).is_some());
        drop(second);
        assert!(budget.take(1_000).is_some(), "alone anything is allowed");
    }

    #[test]
    fn parts_share_what_there_is_in_all() {
        let whole = Budget::new(usize::MAX, 100);
        let parts = [(); 2].map(|()| Budget::new(10, 80).within(&whole));
        let first = parts[0].take(60).unwrap();
        assert!(parts[1].take(60).is_none(), "the other part has it");
        let second = parts[1].take(40).unwrap();
        drop((first, second));
        assert!(parts[1].take(80).is_some());
        assert!(whole.take(100).is_some(), "everything was given back");
    }
}
