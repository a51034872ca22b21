//! Places at which a test lets this process die, named `step.moment`. `KONTIKI_FAILPOINT=NAME` makes
//! the process abort, as by SIGKILL, when it comes there first. Only in builds with debug
//! assertions: a released program has none.

/// Ends the process here if the environment says so.
pub(crate) fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("KONTIKI_FAILPOINT").is_some_and(|wanted| wanted == name) {
        // The log says why the process is gone: it cannot once it is.
        tracing::error!(name, "failpoint");
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
