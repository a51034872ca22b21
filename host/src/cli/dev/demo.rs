//! The groups of the dev cluster, and what is said when it is up.

use super::state::DevCluster;
use super::supervisor::Place;
use crate::cli::demo_plugins;
use crate::cli::failure::{Failure, Result};
use kontiki_client::{Client, Options, proto};
use std::time::{Duration, Instant};

/// How long groups may take to have a leader.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the groups that are not there yet and waits until all have a leader; names of those whose
/// plugin is not at hand.
pub(super) async fn make_groups(places: &[Place]) -> Result<Vec<&'static str>> {
    let addresses = places.iter().filter_map(|place| place.address.parse().ok());
    let options = Options {
        timeout: LIMIT,
        ..Options::default()
    };
    let client = Client::connect(addresses, options);
    let there = client
        .admin()
        .groups()
        .await
        .map_err(|e| Failure::from(e).of_read())?;
    let mut missing = Vec::new();
    for name in demo_plugins::NAMES {
        if there.iter().any(|group| group.name == name) {
            continue;
        }
        match demo_plugins::component(name) {
            Some(component) => make_group(&client, name, component, places).await?,
            None => missing.push(name),
        }
    }
    for name in demo_plugins::NAMES
        .iter()
        .filter(|name| !missing.contains(name))
    {
        wait_for_leader(&client, name).await?;
    }
    Ok(missing)
}

async fn make_group(
    client: &Client,
    name: &str,
    component: bytes::Bytes,
    places: &[Place],
) -> Result<()> {
    let plugin = client.admin().push_plugin(component, false).await?;
    let request = proto::CreateGroupRequest {
        name: name.to_owned(),
        plugin: plugin.digest,
        voters: places.iter().map(|place| place.name.clone()).collect(),
        learners: vec![],
    };
    let began = Instant::now();
    loop {
        match client.admin().create_group(request.clone()).await {
            // The nodes have just been started and may not have met yet.
            Err(error)
                if error.reason().as_str() == "PEER_UNREACHABLE" && began.elapsed() < LIMIT =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            created => return Ok(created.map(drop)?),
        }
    }
}

async fn wait_for_leader(client: &Client, group: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let described = client.admin().describe(group, false).await;
        let failure = match described {
            Ok(it)
                if it
                    .summary
                    .as_ref()
                    .and_then(|summary| summary.leader)
                    .is_some() =>
            {
                return Ok(());
            }
            Ok(_) => None,
            Err(error) => Some(Failure::from(error).of_read()),
        };
        if began.elapsed() > LIMIT {
            let message = format!("group {group} has no leader after {} s", LIMIT.as_secs());
            return Err(failure.unwrap_or_else(|| Failure::local("NO_LEADER", message)));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a person needs to know now.
pub(super) fn welcome(
    cluster: &DevCluster,
    took: Duration,
    missing: &[&str],
    empty: bool,
) -> String {
    let mut text = format!(
        "{} nodes are up after {:.1} s; data and logs in {}\n",
        cluster.nodes.len(),
        took.as_secs_f64(),
        cluster.directory.display()
    );
    for node in &cluster.nodes {
        let pid = node.pid.unwrap_or_default();
        text += &format!(
            "  {}  {}  http://{}  process {pid}\n",
            node.name, node.address, node.http_address
        );
    }
    if !missing.is_empty() {
        text += &format!(
            "\nwithout the groups {}: their plugins are neither in this program nor built;\n\
             `cargo xtask plugins` builds them, then start again\n",
            missing.join(", ")
        );
    }
    if empty || !missing.is_empty() {
        text += "\nTry, in another terminal:
  kontiki status
  kontiki plugin push PATH.wasm && kontiki group create NAME --plugin PLUGIN\n";
    } else {
        text += "\nTry, in another terminal:
  kontiki call counter add 5          the value before: 0
  kontiki query counter get           5
  kontiki call atomic cas x 0 7       ok old=0 new=7
  kontiki dev kill leader && kontiki call counter add 1
  kontiki status\n";
    }
    text += "\nThis is for trying things, not for work. Ctrl-C stops all of it.";
    text
}
