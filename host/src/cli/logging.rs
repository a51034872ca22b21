//! The log of `kontiki serve`, on standard error.

use super::failure::{Failure, Result};
use clap::ValueEnum;
use kontiki::log::{DropNote, LogWriter};
use std::backtrace::Backtrace;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Longest wait for the last lines to be read.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// The log of this process, once it has one.
static LOG: OnceLock<LogWriter> = OnceLock::new();

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Reads what is to be logged. A word alone must be a level: the filter itself would take any other
/// for a place in the program, and log nothing else.
pub(crate) fn level(text: &str) -> std::result::Result<String, String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let lone = text.split(',').map(str::trim).find(|directive| {
        let is_level = levels
            .iter()
            .any(|level| directive.eq_ignore_ascii_case(level));
        !is_level && !directive.contains(['=', '['])
    });
    if let Some(lone) = lone {
        let all = levels.join(", ");
        return Err(format!(
            "{lone:?} is no level; levels are {all}; for a part of the program write for example \
             info,kontiki=debug"
        ));
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Logs from now on what `level` admits, panics included.
pub(crate) fn start(level: &str, format: LogFormat) -> Result<()> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::usage(format!("--log-level: {error}")))?;
    let note = match format {
        LogFormat::Text => lost as DropNote,
        LogFormat::Json => lost_as_json,
    };
    let writer = open(note).map_err(|error| Failure::local("LOG", error.to_string()))?;
    let writer = LOG.get_or_init(|| writer);
    let log = tracing_subscriber::fmt()
        .with_writer(|| writer.clone())
        .with_env_filter(filter);
    let started = match format {
        LogFormat::Text => {
            let colours = io::IsTerminal::is_terminal(&io::stderr())
                && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).try_init()
        }
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::local("LOG", error.to_string()))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Lets the last lines leave; false if nobody reads them. Then nothing else should be written to the
/// standard error either.
pub(crate) fn flush() -> bool {
    LOG.get().is_none_or(|log| log.flush(FLUSH_LIMIT))
}

/// A descriptor of its own, so that whoever prints beside the log does not wait for its lock.
fn open(note: DropNote) -> io::Result<LogWriter> {
    let out = io::stderr().as_fd().try_clone_to_owned()?;
    LogWriter::start(File::from(out), note)
}

fn lost(lines: u64) -> String {
    format!("{lines} lines of the log were dropped: nobody read them in time")
}

fn lost_as_json(lines: u64) -> String {
    let message = "lines of the log were dropped: nobody read them in time";
    serde_json::json!({"level": "WARN", "message": message, "dropped": lines}).to_string()
}

/// As the default hook does, but without waiting for a reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    tracing::error!(
        location = location.unwrap_or_default(),
        thread = std::thread::current().name().unwrap_or_default(),
        why = panic.payload_as_str().unwrap_or_default(),
        %backtrace,
        "panicked"
    );
    // The process may end by this.
    flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_level_is_refused() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,kontiki=debug",
            "kontiki[group]=trace",
        ] {
            assert_eq!(level(text).as_deref(), Ok(text));
        }
        for text in ["wow", "", "info,kontiki", "kontiki=wow", "7"] {
            assert!(level(text).is_err(), "{text:?}");
        }
    }
}
