//! Where a node's log goes: a writer that never waits for whoever reads it.
//!
//! A pipe that nobody reads is full after 64 KiB, and a write to it waits for ever; so would whatever
//! logs, the way out on SIGTERM included. Lines go into a buffer of limited size instead, which one
//! thread empties. Lines that find it full are dropped, counted, and the count is written as soon as
//! there is room.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that wait to be written at most.
const WAITING_SIZE_BYTES_MAX: usize = 1 << 20;

/// Lines that were dropped since the process began, over all writers.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines of the log that were dropped since the process began, because nobody read what was written
/// before.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Takes whole lines at once and has a thread write them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

/// The line that says how many were dropped, without its end.
pub type DropNote = fn(u64) -> String;

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something to write.
    filled: Condvar,
    /// Everything is written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    /// Lines dropped since that was last said.
    dropped: u64,
    /// The thread is in a write.
    writing: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `out`; `note` says there what was dropped.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(out: File, note: DropNote) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        // It ends with the process: nobody can interrupt a write that waits.
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || theirs.run(out, note))?;
        Ok(Self { shared })
    }

    /// Waits until everything is written, at most for `limit`; says whether it is.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut waiting = self.shared.lock();
        while waiting.writing || !waiting.text.is_empty() || waiting.dropped > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.emptied.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Write for LogWriter {
    /// Takes all of it or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.shared.lock();
        if waiting.text.len() + line.len() > WAITING_SIZE_BYTES_MAX {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
        } else {
            waiting.text.extend_from_slice(line);
            self.shared.filled.notify_one();
        }
        Ok(line.len())
    }

    /// Does nothing: see [`LogWriter::flush`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: File, note: DropNote) {
        loop {
            let text = self.take(note);
            // A reader that has gone is no reason to stop: the next may come, and lines are lost
            // either way.
            let _ = out.write_all(&text);
            let mut waiting = self.lock();
            waiting.writing = false;
            if waiting.text.is_empty() && waiting.dropped == 0 {
                self.emptied.notify_all();
            }
        }
    }

    /// What waits, and how much was dropped behind it.
    fn take(&self, note: DropNote) -> Vec<u8> {
        let mut waiting = self.lock();
        while waiting.text.is_empty() && waiting.dropped == 0 {
            let woken = self.filled.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        waiting.writing = true;
        let mut text = std::mem::take(&mut waiting.text);
        let dropped = std::mem::take(&mut waiting.dropped);
        drop(waiting);
        if dropped > 0 {
            text.extend_from_slice(note(dropped).as_bytes());
            text.push(b'\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn pipe() -> (std::io::PipeReader, LogWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        let out = File::from(std::os::fd::OwnedFd::from(writer));
        let note = |dropped| format!("{dropped} lost");
        (reader, LogWriter::start(out, note).unwrap())
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_says_what_was_lost() {
        let (reader, mut log) = pipe();
        let before = dropped();
        let line = [vec![b'x'; 999], vec![b'\n']].concat();
        // Four times what pipe and buffer hold.
        for _ in 0..4_400 {
            log.write_all(&line).unwrap();
        }
        assert!(!log.flush(Duration::from_millis(1)), "nobody reads");
        assert!(dropped() - before > 2_000);
        let mut lines = BufReader::new(reader).lines();
        let read = std::thread::spawn(move || {
            let lost = lines.find(|line| !line.as_ref().unwrap().starts_with('x'));
            (lost.unwrap().unwrap(), lines)
        });
        let (lost, lines) = read.join().unwrap();
        let lost = lost.strip_suffix(" lost").unwrap().parse::<u64>();
        assert_eq!(lost, Ok(dropped() - before));
        assert!(log.flush(PATIENCE));
        drop(lines);
    }

    #[test]
    fn what_is_logged_is_written_in_order() {
        let (reader, mut log) = pipe();
        for line in ["one\n", "two\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert!(log.flush(PATIENCE));
        let lines: Vec<_> = BufReader::new(reader).lines().take(2).collect();
        assert_eq!(
            lines.into_iter().flatten().collect::<Vec<_>>(),
            ["one", "two"]
        );
    }

    #[test]
    fn a_reader_that_goes_is_no_failure() {
        let (reader, mut log) = pipe();
        drop(reader);
        log.write_all(b"to nobody\n").unwrap();
        assert!(log.flush(PATIENCE));
    }
}
