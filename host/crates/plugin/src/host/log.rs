use super::{HostState, fuel};
use crate::bindings::machine::kontiki::plugin::host::Level;
use crate::{clean, clean_bytes};
use std::time::{Duration, Instant};
use wasmtime::StoreContextMut;
use wasmtime::component::WasmStr;

/// Longest line that is written; the rest of it is cut off.
const LINE_SIZE_BYTES_MAX: usize = 4 << 10;
/// How much of the standard error is kept for a fault.
const STDERR_SIZE_BYTES_MAX: usize = 1 << 10;
/// Fuel for a line, about what it costs the host, and one unit more for each byte.
const LINE_FUEL: u64 = 1_000;

/// The import `log`.
pub(super) fn write(
    mut store: StoreContextMut<'_, HostState>,
    (level, message): (Level, WasmStr),
) -> wasmtime::Result<()> {
    store.data_mut().charge_call()?;
    let text = message.to_str(&store)?;
    let size_bytes = text.len() as u64;
    let line = text[..text.floor_char_boundary(2 * LINE_SIZE_BYTES_MAX)].to_owned();
    fuel::charge(&mut store, LINE_FUEL + size_bytes)?;
    store.data_mut().log.line(level, &line);
    Ok(())
}

/// Writes a plugin's lines into the node's log.
#[derive(Debug)]
pub(crate) struct GuestLog {
    plugin: String,
    replaying: bool,
    lines_per_second: u32,
    second_began: Instant,
    lines_this_second: u32,
    dropped: u64,
    /// Unfinished line of the standard output and the standard error.
    partial: [Vec<u8>; 2],
    /// End of what was written to the standard error during this call.
    stderr_tail: Vec<u8>,
}

/// Where a program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandardStream {
    Output = 0,
    Error = 1,
}

impl GuestLog {
    pub(crate) fn new(plugin: &str, lines_per_second: u32) -> Self {
        Self {
            plugin: plugin.to_owned(),
            replaying: false,
            lines_per_second,
            second_began: Instant::now(),
            lines_this_second: 0,
            dropped: 0,
            partial: Default::default(),
            stderr_tail: Vec::new(),
        }
    }

    /// While `true`, nothing is written.
    pub(crate) fn set_replaying(&mut self, replaying: bool) {
        self.replaying = replaying;
    }

    /// A call begins: what the guest wrote before does not belong to its faults.
    pub(crate) fn begin(&mut self) {
        self.stderr_tail.clear();
    }

    /// End of what was written to the standard error during this call.
    pub(crate) fn stderr_tail(&self) -> String {
        clean_bytes(self.stderr_tail.trim_ascii(), 2 * STDERR_SIZE_BYTES_MAX)
    }

    /// Takes what a program printed, and writes its whole lines.
    pub(crate) fn print(&mut self, stream: StandardStream, bytes: &[u8]) {
        if stream == StandardStream::Error {
            self.keep_tail(bytes);
        }
        let mut buffer = std::mem::take(&mut self.partial[stream as usize]);
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            let room = LINE_SIZE_BYTES_MAX.saturating_sub(buffer.len());
            buffer.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.print_line(stream, &buffer);
                buffer.clear();
            }
        }
        self.partial[stream as usize] = buffer;
    }

    fn print_line(&mut self, stream: StandardStream, line: &[u8]) {
        let level = match stream {
            StandardStream::Output => Level::Info,
            StandardStream::Error => Level::Warn,
        };
        let text = String::from_utf8_lossy(line);
        self.line(level, text.trim_end());
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(STDERR_SIZE_BYTES_MAX)..];
        self.stderr_tail.extend_from_slice(bytes);
        let excess = self.stderr_tail.len().saturating_sub(STDERR_SIZE_BYTES_MAX);
        self.stderr_tail.drain(..excess);
    }

    /// Writes a line, unless there were too many.
    pub(crate) fn line(&mut self, level: Level, text: &str) {
        if self.replaying {
            return;
        }
        if !self.admit(Instant::now()) {
            self.dropped += 1;
            return;
        }
        let (plugin, text) = (&self.plugin, clean(text, LINE_SIZE_BYTES_MAX));
        match level {
            Level::Error => tracing::error!(target: "kontiki::guest", plugin, text, "plugin log"),
            Level::Warn => tracing::warn!(target: "kontiki::guest", plugin, text, "plugin log"),
            Level::Info => tracing::info!(target: "kontiki::guest", plugin, text, "plugin log"),
            Level::Debug => tracing::debug!(target: "kontiki::guest", plugin, text, "plugin log"),
        }
    }

    /// Whether a line may be written at `now`.
    fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second_began) >= Duration::from_secs(1) {
            if self.dropped > 0 {
                let (plugin, dropped) = (&self.plugin, self.dropped);
                tracing::warn!(target: "kontiki::guest", plugin, dropped, "plugin logs too fast");
            }
            self.second_began = now;
            self.lines_this_second = 0;
            self.dropped = 0;
        }
        if self.lines_this_second >= self.lines_per_second {
            return false;
        }
        self.lines_this_second += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_counted_until_the_next_second() {
        let mut log = GuestLog::new("p", 3);
        let start = Instant::now();
        let admitted = (0..10).filter(|_| log.admit(start)).count();
        assert_eq!(admitted, 3);
        assert!(log.admit(start + Duration::from_secs(1)));
    }

    #[test]
    fn stderr_keeps_its_end_and_endless_lines_do_not_grow() {
        let mut log = GuestLog::new("p", 3);
        for _ in 0..100 {
            log.print(StandardStream::Error, &[b'x'; 1000]);
        }
        log.print(StandardStream::Error, b"panicked");
        assert!(log.stderr_tail().ends_with("xpanicked"));
        assert_eq!(log.stderr_tail().len(), STDERR_SIZE_BYTES_MAX);
        assert_eq!(log.partial[1].len(), LINE_SIZE_BYTES_MAX);
        log.begin();
        assert_eq!(log.stderr_tail(), "");
    }
}
