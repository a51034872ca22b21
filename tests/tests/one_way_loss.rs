//! A link between leader and follower that carries packets one way only, between hosts of our own
//! (needs root). Both directions are tried at the same time, each in a cluster of its own.

use anyhow::{Context as _, Result, ensure};
use kontiki_proto::v1::GroupDescription;
use kontiki_tests::session::counter_on;
use kontiki_tests::{Cluster, ClusterOptions, Network, check, network, until};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// How long the link stays cut; the claim is for 60 s.
fn cut_time() -> Duration {
    let seconds = std::env::var("KONTIKI_CUT_SECONDS").ok();
    Duration::from_secs(seconds.map_or(60, |text| text.parse().expect("a number of seconds")))
}

/// What no longer gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// What the leader sends to the follower.
    ToFollower,
    /// What the follower sends to the leader.
    ToLeader,
}

/// Time since the leader last heard from the node called `name`.
fn silence(leader: &GroupDescription, name: &str) -> Option<Duration> {
    let peer = leader.peers.iter().find(|peer| peer.name == name)?;
    Some(Duration::from_micros(peer.last_contact_us?))
}

fn term(description: &GroupDescription) -> (&str, u64) {
    let summary = description.summary.as_ref();
    summary.map_or(("", 0), |summary| (summary.role.as_str(), summary.term))
}

async fn changes_neither_leader_nor_term(lost: Lost) -> Result<()> {
    if !network::is_root()? {
        return Ok(());
    }
    let network = Arc::new(Network::new(3)?);
    let options = ClusterOptions {
        network: Some(Arc::clone(&network)),
        beside_others: true,
        // A node that gets no processor for a second is not a lost link.
        election_timeout: Duration::from_secs(2),
        ..ClusterOptions::default()
    };
    let timeout = options.election_timeout;
    let cluster = Cluster::start(options)?;
    let mut session = counter_on(&cluster.addresses(), Duration::from_secs(5)).await?;
    let leader = session.leader(LIMIT).await?;
    let follower = (leader + 1) % 3;
    session.apply_until("add 1", LIMIT).await?;
    check::converged(&session, &[0, 1, 2], LIMIT).await?;

    let (from, to) = match lost {
        Lost::ToFollower => (leader, follower),
        Lost::ToLeader => (follower, leader),
    };
    network.cut(from + 1, to + 1)?;
    // "After the first": one change may be on its way when the link is cut. It is over once the one
    // that is not heard has been silent for several election timeouts.
    let name = &cluster.nodes()[follower].name;
    until("the loss is noticed", LIMIT, async || {
        let silent = match lost {
            Lost::ToFollower => {
                let contact = session.describe(follower).await?.leader_last_contact_us;
                contact.map(Duration::from_micros)
            }
            Lost::ToLeader => silence(&session.describe(leader).await?, name),
        };
        let is_over = silent.is_none_or(|silent| silent > 4 * timeout);
        Ok(is_over.then_some(()))
    })
    .await?;
    let leader = session.leader(LIMIT).await?;
    let before = session.describe(leader).await?;
    ensure!(term(&before).0 == "leader", "{:?}", term(&before));
    let end = Instant::now() + cut_time();
    let mut commands = 0;
    while Instant::now() < end {
        session.apply_until("add 1", Duration::from_secs(5)).await?;
        commands += 1;
        let now = session.describe(leader).await?;
        assert_eq!(term(&now), term(&before), "{lost:?}: leadership moved");
        // The pace of the commands, not a wait for something.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last = session.describe(leader).await?;
    let peer = last.peers.iter().find(|peer| peer.name == *name);
    let left_behind = peer.context("the follower is still a peer")?.match_index;
    let applied = last.summary.as_ref().map_or(0, |s| s.applied_index);
    assert!(
        left_behind < applied,
        "{lost:?}: the follower kept up, so nothing was lost on the way"
    );
    network.heal(to + 1)?;
    let per_second = f64::from(commands) / cut_time().as_secs_f64();
    eprintln!(
        "{lost:?}: {commands} commands, {per_second:.1}/s, in term {}",
        term(&last).1
    );
    assert!(
        per_second > 2.0,
        "{lost:?}: only {commands} commands were served"
    );
    check::converged(&session, &[0, 1, 2], LIMIT).await?;
    let after = session.describe(leader).await?;
    assert_eq!(
        term(&after),
        term(&before),
        "{lost:?}: the returning follower raised the term"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_from_leader_to_follower_changes_neither_leader_nor_term() -> Result<()> {
    changes_neither_leader_nor_term(Lost::ToFollower).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_from_follower_to_leader_changes_neither_leader_nor_term() -> Result<()> {
    changes_neither_leader_nor_term(Lost::ToLeader).await
}
