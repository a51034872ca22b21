//! How many databases are open in this process.
//!
//! RocksDB has static objects, which are destroyed when the process ends in the ordinary way. A
//! thread that is still in a database then, to close it say, finds locks that are no more, and the
//! process aborts. So whoever ends the process first waits here.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

static OPEN: Mutex<usize> = Mutex::new(0);
static CLOSED: Condvar = Condvar::new();

/// Counts a database from before it is opened until it is dropped, which must be after the database.
#[derive(Debug)]
pub(crate) struct OpenDatabase(());

impl OpenDatabase {
    pub(crate) fn count() -> Self {
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CLOSED.notify_all();
    }
}

/// Waits until no database is open in this process, at most for `limit`; says whether that is so.
/// If it is not, the process must end without running what is registered for its exit.
#[must_use]
pub fn wait_until_closed(limit: Duration) -> bool {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = CLOSED.wait_timeout_while(open, limit, |open| *open > 0);
    let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
    *open == 0
}
