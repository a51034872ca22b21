//! gRPC health: the process as a whole under the empty name, each group as `group/<name>`.

use super::Shared;
use crate::node::context::lock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::HealthReporter;

/// How often groups are looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// Says how the node is.
pub(crate) struct Health {
    reporter: HealthReporter,
}

impl Health {
    pub(crate) async fn say_not_ready(&self) {
        self.reporter
            .set_service_status("", ServingStatus::NotServing)
            .await;
    }
}

/// Starts to report; ends with `stop`.
pub(crate) fn start(
    shared: &Shared,
    stop: &CancellationToken,
) -> (Health, HealthServer<impl HealthApi>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let (shared, stop) = (shared.clone(), stop.clone());
    let watching = reporter.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = watch(&shared, watching) => {}
            () = stop.cancelled() => {}
        }
    });
    (Health { reporter }, service)
}

async fn watch(shared: &Shared, mut reporter: HealthReporter) {
    let mut told: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let ready = is_ready(shared);
        tell(&mut reporter, &mut told, String::new(), ready).await;
        let groups = shared.context.router.all();
        for group in &groups {
            let name = format!("group/{}", group.name());
            let healthy = group.is_healthy() && group.brief().replay_left == 0;
            tell(&mut reporter, &mut told, name, healthy).await;
        }
        let broken: Vec<_> = lock(&shared.context.broken).keys().cloned().collect();
        for group in broken {
            let name = format!("group/{group}");
            tell(&mut reporter, &mut told, name, false).await;
        }
        let gone: Vec<_> = told
            .keys()
            .filter(|name| is_gone(shared, name))
            .cloned()
            .collect();
        for name in gone {
            reporter.clear_service_status(&name).await;
            told.remove(&name);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn is_gone(shared: &Shared, service: &str) -> bool {
    let context = &shared.context;
    let is_here =
        |name| context.router.by_name(name).is_some() || lock(&context.broken).contains_key(name);
    let group = service.strip_prefix("group/");
    group.is_some_and(|name| !is_here(name))
}

async fn tell(
    reporter: &mut HealthReporter,
    told: &mut BTreeMap<String, bool>,
    name: String,
    healthy: bool,
) {
    if told.get(&name) == Some(&healthy) {
        return;
    }
    let status = match healthy {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    reporter.set_service_status(&name, status).await;
    told.insert(name, healthy);
}

/// Whether new work is welcome here.
/// A replica that cannot be opened is its group's trouble here, unlike in [`checks`]: the other
/// groups are served.
pub(crate) fn is_ready(shared: &Shared) -> bool {
    let context = &shared.context;
    !context.is_stopping()
        && !context.gives_away()
        && !context.transport.is_set_aside()
        && !context.loading.load(Ordering::Acquire)
        && !context.storage.metrics().failed
        && replaying(shared).is_empty()
}

/// Something that must hold for a node to take work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    name: &'static str,
    pub(crate) passed: bool,
    /// What was found, if there is more to say than yes or no.
    note: String,
}

impl Check {
    fn new(name: &'static str, passed: bool) -> Self {
        let note = String::new();
        Self { name, passed, note }
    }
}

/// `[+] name note`, with a minus if it failed.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.passed { '+' } else { '-' };
        write!(f, "[{mark}] {}", self.name)?;
        match self.note.as_str() {
            "" => Ok(()),
            note => write!(f, " {note}"),
        }
    }
}

/// Everything that must hold before work is sent here and the next node is restarted.
pub(crate) fn checks(shared: &Shared) -> Vec<Check> {
    let context = &shared.context;
    let draining = context.gives_away();
    let loading = context.loading.load(Ordering::Acquire);
    let broken: Vec<_> = lock(&context.broken).keys().cloned().collect();
    vec![
        Check::new("storage", !context.storage.metrics().failed),
        groups_loaded(loading, context.router.all().len(), &broken),
        Check::new("only_process_of_node", !context.transport.is_set_aside()),
        groups_replayed(&replaying(shared)),
        Check::new("not_draining", !draining),
        Check::new("not_stopping", !context.is_stopping()),
    ]
}

/// A replica that cannot be opened is missing from its group's majority: whoever restarts one node
/// after the other must not go on to the next.
fn groups_loaded(loading: bool, opened: usize, broken: &[String]) -> Check {
    let mut note = format!("{opened}/{}", opened + broken.len());
    if loading {
        note = format!("{note} so far");
    }
    if !broken.is_empty() {
        note = format!("{note}, not opened: {}", broken.join(", "));
    }
    let passed = !loading && broken.is_empty();
    Check {
        note,
        ..Check::new("groups_loaded", passed)
    }
}

/// The groups whose replica here has not applied yet what was committed, since it was opened, and
/// how many entries it lacks.
fn replaying(shared: &Shared) -> Vec<(String, u64)> {
    let groups = shared.context.router.all().into_iter();
    let left = groups.map(|group| (group.name().to_owned(), group.brief().replay_left));
    left.filter(|(_, left)| *left > 0).collect()
}

/// A replica that replays its log leaves a leader without a successor that could answer: whoever
/// restarts one node after the other must wait for it.
fn groups_replayed(replaying: &[(String, u64)]) -> Check {
    let left = |(group, left): &(String, u64)| format!("{group}: {left} entries to apply");
    let note: Vec<_> = replaying.iter().map(left).collect();
    Check {
        note: note.join(", "),
        ..Check::new("groups_replayed", replaying.is_empty())
    }
}

/// Whether every group here has a leader and a plugin that runs.
pub(crate) fn leaders(shared: &Shared) -> Check {
    // A replica that was removed, or waits to be added, is not meant to have a leader.
    let groups = shared.context.router.all();
    let members = groups.iter().filter(|group| group.brief().member);
    let without: Vec<_> = members.filter(|group| !group.is_healthy()).collect();
    let names: Vec<_> = without.iter().map(|group| group.name()).collect();
    Check {
        note: names.join(", "),
        ..Check::new("leader", names.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_cannot_be_opened_fails_the_check() {
        let check = |loading, opened, broken: &[&str]| {
            let broken: Vec<_> = broken.iter().map(|&name| name.to_owned()).collect();
            groups_loaded(loading, opened, &broken).to_string()
        };
        assert_eq!(check(false, 2, &[]), "[+] groups_loaded 2/2");
        assert_eq!(
            check(false, 0, &["a"]),
            "[-] groups_loaded 0/1, not opened: a"
        );
        assert_eq!(check(true, 1, &[]), "[-] groups_loaded 1/1 so far");
    }

    #[test]
    fn a_replica_that_replays_fails_the_check_and_says_how_much_is_left() {
        assert_eq!(groups_replayed(&[]).to_string(), "[+] groups_replayed");
        let replaying = [("a".to_owned(), 3), ("b".to_owned(), 40)];
        assert_eq!(
            groups_replayed(&replaying).to_string(),
            "[-] groups_replayed a: 3 entries to apply, b: 40 entries to apply"
        );
    }
}
