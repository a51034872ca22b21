//! Lines in the node's log.
//!
//! They are for people: they never change a state or an answer, the host drops them while it
//! replays a log, and it limits their rate. A native test prints them to standard error.
//!
//! ```
//! kontiki_guest::log::warn(format_args!("{} leases expired at once", 12));
//! ```

use std::fmt;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// An operator must act.
    Error,
    /// Something is worse than it should be.
    Warn,
    /// Something happened that happens seldom.
    Info,
    /// Detail for whoever works on the plugin.
    Debug,
}

/// Logs a line for which an operator must act.
pub fn error(line: impl fmt::Display) {
    log(Level::Error, line);
}

/// Logs a line about something worse than it should be.
pub fn warn(line: impl fmt::Display) {
    log(Level::Warn, line);
}

/// Logs a line about something that happens seldom.
pub fn info(line: impl fmt::Display) {
    log(Level::Info, line);
}

/// Logs a line for whoever works on the plugin.
pub fn debug(line: impl fmt::Display) {
    log(Level::Debug, line);
}

/// Logs a line; the host keeps at most 4 KiB of it.
#[cfg(target_family = "wasm")]
pub fn log(level: Level, line: impl fmt::Display) {
    use crate::wit::kontiki::plugin::host;

    let level = match level {
        Level::Error => host::Level::Error,
        Level::Warn => host::Level::Warn,
        Level::Info => host::Level::Info,
        Level::Debug => host::Level::Debug,
    };
    host::log(level, &line.to_string());
}

/// Logs a line; the host keeps at most 4 KiB of it.
#[cfg(not(target_family = "wasm"))]
pub fn log(level: Level, line: impl fmt::Display) {
    eprintln!("{level:?}: {line}");
}
