//! What a connection has in hand: bytes that came in and are not answered, and answers that its
//! client has not taken. All of it waits in memory, and a client that sends without end or does not
//! read decides how much, unless it is limited. Whoever reaches the limit is waited for or refused,
//! and nobody else: what is always allowed is enough for small calls one after the other, however
//! much the others have in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// What a connection may have in hand.
const CONNECTION_SIZE_BYTES_MAX: usize = 16 << 20;
/// What it may have in any case.
const ALWAYS_SIZE_BYTES: usize = 64 << 10;
/// What all connections of a node may have, beyond what is always allowed.
const NODE_SIZE_BYTES_MAX: usize = 192 << 20;
/// How often room that another connection made is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What all connections of a node have in hand together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledgers(Arc<AtomicUsize>);

impl Ledgers {
    /// The ledger of a new connection.
    pub(crate) fn open(&self) -> Ledger {
        Ledger(Arc::new(Inner {
            node: Arc::clone(&self.0),
            own: AtomicUsize::new(0),
            less: Notify::new(),
        }))
    }

    /// Bytes in hand.
    pub(crate) fn size_bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one connection has in hand. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: Arc<AtomicUsize>,
    own: AtomicUsize,
    less: Notify,
}

/// Something in hand; let go of when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    ledger: Ledger,
    size_bytes: usize,
}

impl Ledger {
    /// Whether the connection may take more.
    pub(crate) fn has_room(&self) -> bool {
        let own = self.0.own.load(Ordering::Acquire);
        let node = self.0.node.load(Ordering::Acquire);
        own < ALWAYS_SIZE_BYTES || (own < CONNECTION_SIZE_BYTES_MAX && node < NODE_SIZE_BYTES_MAX)
    }

    /// Waits until it may.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            let less = self.0.less.notified();
            // Another connection's room is not announced here, nor what came before the line above.
            let _ = tokio::time::timeout(LOOK_INTERVAL, less).await;
        }
    }

    /// Takes something in hand, whether or not there is room.
    pub(crate) fn charge(&self, size_bytes: usize) -> Charge {
        let mut charge = Charge {
            ledger: self.clone(),
            size_bytes: 0,
        };
        charge.grow(size_bytes);
        charge
    }
}

impl Charge {
    /// There is more of it.
    pub(crate) fn grow(&mut self, size_bytes: usize) {
        self.size_bytes += size_bytes;
        let inner = &self.ledger.0;
        inner.own.fetch_add(size_bytes, Ordering::AcqRel);
        inner.node.fetch_add(size_bytes, Ordering::AcqRel);
    }

    /// It has turned into something of another size.
    pub(crate) fn becomes(&mut self, size_bytes: usize) {
        let before = self.size_bytes;
        self.grow(size_bytes);
        self.shrink(before);
    }

    fn shrink(&mut self, size_bytes: usize) {
        self.size_bytes -= size_bytes;
        let inner = &self.ledger.0;
        inner.own.fetch_sub(size_bytes, Ordering::AcqRel);
        inner.node.fetch_sub(size_bytes, Ordering::AcqRel);
        inner.less.notify_waiters();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.size_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_connection_that_has_its_fill_waits_and_leaves_the_others_alone() {
        let ledgers = Ledgers::default();
        let (greedy, other) = (ledgers.open(), ledgers.open());
        let mut much = greedy.charge(CONNECTION_SIZE_BYTES_MAX);
        assert!(greedy.room().now_or_never().is_none());
        assert!(other.has_room());
        much.becomes(1);
        greedy.room().await;
        assert_eq!(ledgers.size_bytes(), 1);
        drop(much);
        assert_eq!(ledgers.size_bytes(), 0);
    }

    #[test]
    fn small_calls_go_on_however_much_the_others_have() {
        let ledgers = Ledgers::default();
        let greedy: Vec<_> = (0..NODE_SIZE_BYTES_MAX / CONNECTION_SIZE_BYTES_MAX)
            .map(|_| ledgers.open().charge(CONNECTION_SIZE_BYTES_MAX))
            .collect();
        let other = ledgers.open();
        assert!(other.has_room());
        let small = other.charge(ALWAYS_SIZE_BYTES);
        assert!(!other.has_room());
        drop((greedy, small));
        assert!(other.has_room());
    }
}
