//! File descriptors for the database.
//!
//! A write may need new files, and so may what follows it in the background; a database that gets
//! none takes no more writes until it is opened again, though nothing is wrong with the disk. So a
//! write does not begin before some are free. Whoever lets connections in sees to it that they are;
//! this is for when they are not all the same.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

/// A new log, tables to be written and read, a manifest, a directory to be synced.
const COUNT: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);
/// Whoever uses them all up for as long is not waited for: the write is tried then.
const LIMIT: Duration = Duration::from_secs(60);

/// Knows whether descriptors are free.
#[derive(Debug)]
pub(crate) struct Spare {
    source: File,
}

impl Spare {
    /// # Errors
    /// If the system gives no descriptor at all.
    pub(crate) fn new() -> io::Result<Self> {
        let source = File::open("/dev/null")?;
        Ok(Self { source })
    }

    /// Waits until enough are free. That takes some microseconds if they are.
    pub(crate) fn wait(&self) {
        let began = Instant::now();
        let mut told = false;
        while let Err(error) = self.try_all() {
            if began.elapsed() > LIMIT {
                return;
            }
            if !told {
                told = true;
                tracing::error!(%error, "no file descriptors for the store: writes wait until some are free");
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn try_all(&self) -> io::Result<()> {
        let mut taken = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            taken.push(self.source.try_clone()?);
        }
        Ok(())
    }
}
