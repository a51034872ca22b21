//! gRPC health: the process as a whole under the empty name, each group as `group/<name>`.

use super::Shared;
use std::collections::BTreeMap;
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
            tell(&mut reporter, &mut told, name, group.is_healthy()).await;
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
    let group = service.strip_prefix("group/");
    group.is_some_and(|name| shared.context.router.by_name(name).is_none())
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
pub(crate) fn is_ready(shared: &Shared) -> bool {
    let context = &shared.context;
    !context.is_stopping()
        && !context.gives_away()
        && !context.loading.load(Ordering::Acquire)
        && !context.storage.metrics().failed
}
