//! File descriptors: how many the process may have, and how they are shared out.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For listeners, links to other nodes, files of plugins, and whatever is open for a moment.
const OWN: usize = 64;
/// Connections are never more than this, however many descriptors there are: each costs memory too.
const CONNECTIONS_MAX: usize = 4_096;
/// And a node that lets in fewer is of no use.
const CONNECTIONS_MIN: usize = 16;
/// Table files that the store keeps open.
const STORE_MAX: usize = 512;

/// Raises the limit of this process as far as the system allows; how many descriptors there are.
pub fn raise_limit() -> usize {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "the limit of file descriptors cannot be raised");
    }
    limit()
}

/// How many descriptors the process may have.
fn limit() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many the store may keep open.
pub(crate) fn store_max() -> usize {
    of_store(limit())
}

/// How many connections may be let in, so that some are left for everything else.
pub(crate) fn connections_max() -> usize {
    of_connections(limit())
}

fn of_store(limit: usize) -> usize {
    (limit / 4).min(STORE_MAX)
}

fn of_connections(limit: usize) -> usize {
    let left = limit.saturating_sub(of_store(limit) + OWN);
    left.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_its_part() {
        for (limit, store, connections) in [
            (100, 25, 16),
            (200, 50, 86),
            (1_024, 256, 704),
            (1 << 20, 512, 4_096),
        ] {
            assert_eq!(of_store(limit), store, "{limit}");
            assert_eq!(of_connections(limit), connections, "{limit}");
        }
    }
}
