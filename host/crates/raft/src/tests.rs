//! Whole replicas together: the paths every other test stands on.

use crate::testing::{Cluster, members};
use crate::{
    ConfigurationChange, Event, Input, LeaseStatus, MemberSet, NodeId, PeerState, ReadMode,
    RejectReason, Role, Settings, TransferTarget,
};
use core::time::Duration;

#[test]
fn one_node_elects_itself_and_commits() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    let token = cluster.propose(leader, b"a");
    assert_eq!(cluster.node(leader).answered, [token]);
    assert_eq!(cluster.commands(leader), ["a"]);
}

#[test]
fn three_nodes_elect_one_leader_and_apply_everywhere() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for payload in [b"a", b"b", b"c"] {
        cluster.propose(leader, payload);
    }
    for id in 1..=3 {
        assert_eq!(cluster.commands(id), ["a", "b", "c"], "node {id}");
    }
    let term = cluster.node(leader).core.term();
    cluster.run_ms(10_000);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.node(leader).core.term(), term);
}

#[test]
fn a_dead_leader_is_replaced_and_catches_up_when_it_returns() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.propose(old, b"a");
    cluster.isolate(old);
    let lost = cluster.propose(old, b"lost");
    cluster.run_ms(6_000);
    let new = cluster.leader().unwrap();
    assert_ne!(new, old);
    assert_ne!(cluster.node(old).core.role(), Role::Leader);
    assert_eq!(
        cluster.reason(old, lost),
        Some(RejectReason::LeadershipLost)
    );
    cluster.propose(new, b"b");
    cluster.heal();
    cluster.run_ms(3_000);
    assert_eq!(cluster.commands(old), ["a", "b"]);
}

#[test]
fn a_cut_off_node_neither_raises_the_term_nor_disturbs() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let other = (1..=3).find(|&id| id != leader).unwrap();
    cluster.isolate(other);
    cluster.run_ms(20_000);
    let term = cluster.node(leader).core.term();
    assert_eq!(cluster.node(other).core.term(), term);
    cluster.heal();
    cluster.run_ms(5_000);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.node(leader).core.term(), term);
}

#[test]
fn one_way_loss_changes_no_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let other = (1..=3).find(|&id| id != leader).unwrap();
    let term = cluster.node(leader).core.term();
    cluster.cut.insert((leader, other));
    cluster.run_ms(60_000);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.node(leader).core.term(), term);
}

#[test]
fn acknowledged_commands_survive_a_restart_of_everybody() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for n in 0..50u8 {
        cluster.propose(leader, &[n]);
    }
    for id in 1..=3 {
        cluster.restart(id);
    }
    cluster.elect();
    cluster.run_ms(1_000);
    for id in 1..=3 {
        assert_eq!(cluster.commands(id).len(), 50);
    }
}

#[test]
fn a_follower_whose_disk_is_slow_does_not_acknowledge() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for id in 1..=3 {
        cluster.node_mut(id).hold_disk = id != leader;
    }
    let token = cluster.propose(leader, b"a");
    assert!(cluster.node(leader).answered.is_empty());
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    cluster.node_mut(follower).hold_disk = false;
    cluster.settle();
    assert_eq!(cluster.node(leader).answered, [token]);
}

#[test]
fn the_quorum_may_be_had_without_the_leaders_disk_but_apply_waits_for_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.node_mut(leader).hold_disk = true;
    cluster.propose(leader, b"a");
    let status = cluster.node(leader).core.status(cluster.now);
    assert_eq!(status.commit_index, status.last.index);
    assert!(status.applied_index < status.commit_index);
    cluster.node_mut(leader).hold_disk = false;
    cluster.settle();
    assert_eq!(cluster.commands(leader), ["a"]);
}

#[test]
fn a_leader_with_a_stalled_disk_steps_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.node_mut(leader).hold_disk = true;
    cluster.propose(leader, b"a");
    cluster.run_ms(15_000);
    let new = cluster.leader().unwrap();
    assert_ne!(new, leader);
}

#[test]
fn a_lagging_follower_is_served_from_disk_and_from_a_snapshot() {
    let settings = Settings {
        cache_size_bytes_max: 200,
        append_entries_max: 7,
        ..Settings::default()
    };
    let mut cluster = Cluster::with(3, settings);
    let leader = cluster.elect();
    let other = (1..=3).find(|&id| id != leader).unwrap();
    cluster.isolate(other);
    for n in 0..100u8 {
        cluster.propose(leader, &[n]);
    }
    cluster.heal();
    cluster.run_ms(5_000);
    assert_eq!(cluster.commands(other).len(), 100);
    cluster.isolate(other);
    for round in 0..3u8 {
        for n in 0..50u8 {
            cluster.propose(leader, &[round, n]);
        }
        cluster.save_snapshot(leader);
    }
    cluster.heal();
    cluster.run_ms(5_000);
    assert_eq!(cluster.node(other).fetches, 1);
    let (a, b) = (cluster.node(leader), cluster.node(other));
    assert_eq!(a.core.last_log_id(), b.core.last_log_id());
    assert_eq!(a.core.commit_index(), b.core.commit_index());
    let status = a.core.status(cluster.now);
    let peer = status
        .peers
        .iter()
        .find(|peer| peer.node == NodeId(other))
        .unwrap();
    assert_eq!(peer.state, PeerState::Replicate);
    // A restart on the snapshot and what follows finds the same place.
    cluster.restart(other);
    cluster.run_ms(3_000);
    assert_eq!(
        cluster.node(other).core.commit_index(),
        cluster.node(leader).core.commit_index()
    );
}

#[test]
fn a_failed_fetch_is_repeated() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let other = (1..=3).find(|&id| id != leader).unwrap();
    cluster.isolate(other);
    for _ in 0..3 {
        cluster.propose(leader, b"x");
        cluster.save_snapshot(leader);
    }
    cluster.node_mut(other).fail_fetch = true;
    cluster.heal();
    cluster.run_ms(4_000);
    assert!(cluster.node(other).fetches > 1);
    cluster.node_mut(other).fail_fetch = false;
    cluster.run_ms(3_000);
    assert_eq!(
        cluster.node(other).core.commit_index(),
        cluster.node(leader).core.commit_index()
    );
}

#[test]
fn reads_are_confirmed_on_leader_and_follower() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    cluster.propose(leader, b"a");
    let commit = cluster.node(leader).core.commit_index();
    for id in [leader, follower] {
        let token = cluster.read(id, ReadMode::Quorum);
        assert_eq!(cluster.node(id).reads, [(token, commit)]);
    }
    cluster.isolate(leader);
    let token = cluster.read(leader, ReadMode::Quorum);
    cluster.run_ms(3_000);
    assert!(
        cluster
            .node(leader)
            .reads
            .iter()
            .all(|(read, _)| *read != token)
    );
    assert!(cluster.reason(leader, token).is_some());
}

#[test]
fn members_come_and_go_one_by_one_and_together() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for n in 0..20u8 {
        cluster.propose(leader, &[n]);
    }
    for id in 4..=6 {
        cluster.open(id, crate::testing::DiskImage::default());
    }
    let token = cluster.change(leader, ConfigurationChange::AddVoter(NodeId(4)));
    assert!(cluster.node(leader).done.contains(&token));
    assert_eq!(cluster.commands(4).len(), 20);
    let token = cluster.change(leader, ConfigurationChange::AddLearner(NodeId(5)));
    assert!(cluster.node(leader).done.contains(&token));
    let set = members([leader, 5, 6]);
    let token = cluster.change(leader, ConfigurationChange::Replace(set.clone()));
    assert!(cluster.node(leader).done.contains(&token));
    assert_eq!(
        cluster
            .node(leader)
            .core
            .status(cluster.now)
            .configuration
            .current,
        set
    );
    cluster.run_ms(3_000);
    assert!(cluster.node(4).events.contains(&Event::Removed));
    // Removing the leader itself hands over at once.
    let token = cluster.change(leader, ConfigurationChange::Remove(NodeId(leader)));
    assert!(cluster.node(leader).done.contains(&token));
    cluster.run_ms(500);
    let new = cluster.leader().unwrap();
    assert!([5, 6].contains(&new));
    cluster.propose(new, b"z");
    cluster.run_ms(20_000);
    assert_eq!(cluster.leader(), Some(new));
}

#[test]
fn impossible_changes_are_refused_at_once() {
    use crate::ConfigurationError as E;
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    let cases = [
        (ConfigurationChange::Remove(NodeId(1)), E::NoVoters),
        (
            ConfigurationChange::Remove(NodeId(7)),
            E::NotMember(NodeId(7)),
        ),
        (ConfigurationChange::AddVoter(NodeId(1)), E::NoChange),
        (
            ConfigurationChange::AddLearner(NodeId(1)),
            E::IsVoter(NodeId(1)),
        ),
        (ConfigurationChange::Demote(NodeId(1)), E::NoVoters),
        (ConfigurationChange::Promote(NodeId(1)), E::NoChange),
        (
            ConfigurationChange::Demote(NodeId(7)),
            E::NotMember(NodeId(7)),
        ),
        (
            ConfigurationChange::Promote(NodeId(7)),
            E::NotMember(NodeId(7)),
        ),
        (
            ConfigurationChange::Replace(MemberSet {
                voters: [NodeId(1)].into(),
                learners: [NodeId(1)].into(),
            }),
            E::VoterAndLearner(NodeId(1)),
        ),
    ];
    for (change, error) in cases {
        let token = cluster.change(leader, change);
        assert_eq!(
            cluster.reason(leader, token),
            Some(RejectReason::Configuration(error))
        );
    }
}

#[test]
fn a_newcomer_that_never_answers_fails_the_change() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let token = cluster.change(leader, ConfigurationChange::AddVoter(NodeId(9)));
    cluster.run_ms(61_000);
    let node = NodeId(9);
    assert_eq!(
        cluster.reason(leader, token),
        Some(RejectReason::CatchUpFailed { node })
    );
    assert_eq!(cluster.node(leader).core.status(cluster.now).peers.len(), 2);
}

#[test]
fn leadership_is_transferred_at_once() {
    for leader_lease in [false, true] {
        let settings = Settings {
            leader_lease,
            ..Settings::default()
        };
        let mut cluster = Cluster::with(3, settings);
        let old = cluster.elect();
        let target = (1..=3).find(|&id| id != old).unwrap();
        let token = cluster.token();
        let to = TransferTarget::Node(NodeId(target));
        cluster.give(old, Input::TransferLeadership { token, target: to });
        assert_eq!(cluster.leader(), Some(target), "lease {leader_lease}");
        assert!(cluster.node(old).done.contains(&token));
    }
}

#[test]
fn a_transfer_that_fails_is_resumed_in_the_same_term() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let target = (1..=3).find(|&id| id != leader).unwrap();
    let term = cluster.node(leader).core.term();
    cluster.cut.insert((leader, target));
    let token = cluster.token();
    let to = TransferTarget::Node(NodeId(target));
    cluster.give(leader, Input::TransferLeadership { token, target: to });
    let refused = cluster.propose(leader, b"a");
    assert_eq!(
        cluster.reason(leader, refused),
        Some(RejectReason::Transferring)
    );
    cluster.run_ms(1_100);
    let Some(RejectReason::TransferTimedOut { node, .. }) = cluster.reason(leader, token) else {
        panic!("{:?}", cluster.reason(leader, token));
    };
    assert_eq!(node, NodeId(target));
    assert_eq!(cluster.node(leader).core.term(), term);
    let epochs: alloc::vec::Vec<u64> = cluster
        .node(leader)
        .events
        .iter()
        .filter_map(|event| match event {
            Event::LeaderStarted { lease_epoch, .. } => Some(*lease_epoch),
            _ => None,
        })
        .collect();
    assert_eq!(epochs, [1, 2]);
}

#[test]
fn leases_are_valid_while_a_quorum_answers() {
    let settings = Settings {
        leader_lease: true,
        ..Settings::default()
    };
    let mut cluster = Cluster::with(3, settings);
    let leader = cluster.elect();
    let status = cluster.node(leader).core.status(cluster.now);
    assert_eq!(status.lease, LeaseStatus::Valid);
    let token = cluster.read(leader, ReadMode::Lease);
    assert_eq!(
        cluster.node(leader).reads.last().map(|read| read.0),
        Some(token)
    );
    // A follower may ask for the same: its answer comes without any round of heartbeats.
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    let rounds = cluster.heartbeats;
    let token = cluster.read(follower, ReadMode::Lease);
    assert_eq!(
        cluster.node(follower).reads.last().map(|read| read.0),
        Some(token)
    );
    assert_eq!(cluster.heartbeats, rounds);
    cluster.read(follower, ReadMode::Quorum);
    assert!(cluster.heartbeats > rounds);
    cluster.isolate(leader);
    cluster.run_ms(1_500);
    let status = cluster.node(leader).core.status(cluster.now);
    assert_eq!(status.lease, LeaseStatus::Expired);
    assert_eq!(cluster.elect(), cluster.leader().unwrap());
}

#[test]
fn too_few_writable_members_make_the_group_read_only() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let followers: alloc::vec::Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
    cluster.give(followers[0], Input::SetReadOnly(true));
    cluster.run_ms(200);
    cluster.propose(leader, b"a");
    cluster.give(followers[1], Input::SetReadOnly(true));
    cluster.run_ms(200);
    let token = cluster.propose(leader, b"b");
    assert_eq!(cluster.reason(leader, token), Some(RejectReason::ReadOnly));
    cluster.give(followers[0], Input::SetReadOnly(false));
    cluster.run_ms(200);
    cluster.propose(leader, b"c");
    assert_eq!(cluster.commands(leader), ["a", "c"]);
}

#[test]
fn a_survivor_is_reset_and_serves_alone() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.propose(leader, b"a");
    for id in (1..=3).filter(|&id| id != leader) {
        cluster.nodes.remove(&id);
    }
    cluster.run_ms(3_000);
    let token = cluster.token();
    let members = members([leader]);
    cluster.give(leader, Input::ResetPeers { token, members });
    assert!(cluster.node(leader).done.contains(&token));
    cluster.restart(leader);
    cluster.elect();
    cluster.propose(leader, b"b");
    assert_eq!(cluster.commands(leader), ["a", "b"]);
}

#[test]
fn a_leader_that_forgets_its_peers_counts_nothing_that_they_said_before() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    let lost = cluster.propose(leader, b"a");
    let term = cluster.node(leader).core.term();
    let token = cluster.token();
    cluster.give(leader, Input::ForgetPeers { token });
    let node = cluster.node(leader);
    assert!(node.done.contains(&token));
    assert_eq!(node.core.role(), Role::Follower);
    assert_eq!(node.core.leader(), None);
    assert!(node.core.term() > term, "late answers could be counted");
    let reason = cluster.reason(leader, lost);
    assert_eq!(reason, Some(RejectReason::LeadershipLost));
}

#[test]
fn shutdown_answers_everything_and_hands_over() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    let token = cluster.propose(leader, b"a");
    cluster.heal();
    cluster.give(leader, Input::Shutdown);
    assert_eq!(
        cluster.reason(leader, token),
        Some(RejectReason::LeadershipLost)
    );
    assert_eq!(cluster.node(leader).core.role(), Role::Stopped);
    assert_ne!(cluster.leader(), Some(leader));
    assert!(cluster.leader().is_some(), "no timeout was waited for");
    let token = cluster.propose(leader, b"b");
    assert_eq!(cluster.reason(leader, token), Some(RejectReason::Stopping));
}

#[test]
fn a_node_of_higher_priority_wins_where_its_vote_decides() {
    let mut cluster = Cluster::new(3);
    for id in 1..=2 {
        cluster.set(id, |settings| settings.priority = 10);
    }
    cluster.cut.extend([(1, 2), (2, 1)]);
    assert_eq!(cluster.elect(), 3);
    cluster.heal();
    cluster.isolate(3);
    cluster.run_ms(8_000);
    assert!(cluster.leader().is_some_and(|leader| leader != 3));
}

#[test]
fn backlog_and_entry_size_are_limited() {
    let settings = Settings {
        entry_size_bytes_max: 100,
        uncommitted_size_bytes_max: 300,
        ..Settings::default()
    };
    let mut cluster = Cluster::with(3, settings);
    let leader = cluster.elect();
    let token = cluster.propose(leader, &[0; 101]);
    assert!(matches!(
        cluster.reason(leader, token),
        Some(RejectReason::TooLarge { .. })
    ));
    cluster.isolate(leader);
    let tokens: alloc::vec::Vec<_> = (0..5).map(|_| cluster.propose(leader, &[0; 100])).collect();
    assert_eq!(cluster.reason(leader, tokens[0]), None);
    assert_eq!(cluster.reason(leader, tokens[4]), Some(RejectReason::Busy));
    cluster.heal();
    cluster.run(Duration::from_secs(3));
    let leader = cluster.leader().unwrap();
    let token = cluster.propose(leader, &[0; 100]);
    assert_eq!(cluster.reason(leader, token), None);
}
