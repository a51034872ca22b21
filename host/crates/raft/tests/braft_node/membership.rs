//! Changes of membership and `reset_peers`.

use crate::support::{Cluster, Outcome, change, configuration, learner_set, ms, voters};
use kontiki_raft::{ConfigurationError, NodeId, RejectReason, TransferTarget};

/// From one node to three, one at a time; adding one that is there, or in vain, is refused.
#[test]
fn join_node() {
    let mut cluster = Cluster::led_by_1_of(1);
    cluster.commit_many(10);
    let token = cluster.change(1, change::add(2));
    cluster.run(ms(61_000));
    let reason = RejectReason::CatchUpFailed { node: NodeId(2) };
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(reason),
        "2 is not there yet"
    );
    cluster.start_blank(2);
    cluster.change_members(change::add(2));
    cluster.start_blank(3);
    cluster.change_members(change::add(3));
    let token = cluster.change(1, change::add(3));
    let reason = RejectReason::Configuration(ConfigurationError::NoChange);
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    cluster.commit_many(10);
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.status(3).configuration, configuration([1, 2, 3]));
}

/// A follower is removed, others go on, and it can be added again with its old disk.
#[test]
fn remove_follower() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(10);
    cluster.change_members(change::remove(3));
    cluster.commit_many(10);
    let token = cluster.change(1, change::remove(3));
    let reason = RejectReason::Configuration(ConfigurationError::NotMember(NodeId(3)));
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    cluster.change_members(change::add(3));
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(3).len(), 20);
}

/// The leader is removed: it steps down, another leads; the old one can come back.
#[test]
fn remove_leader() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(10);
    cluster.change_members(change::remove(1));
    let leader = cluster.await_leader();
    assert_ne!(leader, 1);
    cluster.commit_many(10);
    cluster.change_members(change::add(1));
    cluster.await_agreement(&[1, 2, 3]);
}

/// reset_peers on the only survivor of a group of one majority lost: it leads alone.
#[test]
fn set_peer_1() {
    let mut cluster = Cluster::of(1);
    cluster.await_leader();
    cluster.commit("x");
    let token = cluster.reset_peers(1, voters([1]));
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    cluster.await_leader();
    cluster.commit("y");
    assert_eq!(cluster.commands(1), ["x", "y"]);
}

/// reset_peers after two of three are lost for good: the survivor leads alone, then grows again;
/// what it had is kept. Refused where it makes no sense.
#[test]
fn set_peer_2() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(10);
    cluster.await_agreement(&[1, 2, 3]);
    cluster.crash(1);
    cluster.crash(2);
    cluster.run(ms(5_000));
    let token = cluster.reset_peers(3, voters([1, 2]));
    let reason = RejectReason::Configuration(ConfigurationError::WithoutSelf);
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    let token = cluster.reset_peers(3, voters([3]));
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 3);
    assert_eq!(cluster.commands(3).len(), 10);
    cluster.commit("alone");
    cluster.start_blank(4);
    cluster.change_members(change::add(4));
    cluster.await_agreement(&[3, 4]);
    // It holds over a restart.
    cluster.crash(3);
    cluster.restart(3);
    cluster.await_leader();
    assert_eq!(cluster.status(3).configuration, configuration([3, 4]));
}

/// To any set, and back, without losing anything.
#[test]
fn change_peers() {
    let mut cluster = Cluster::led_by_1_of(1);
    for node in 2..=6 {
        cluster.start_blank(node);
    }
    for node in 2..=6 {
        cluster.commit("between");
        let set = voters([node]);
        cluster.change_members(kontiki_raft::ConfigurationChange::Replace(set));
        assert_eq!(cluster.await_leader(), node);
    }
    cluster.commit("last");
    assert_eq!(cluster.commands(6).len(), 6);
}

/// Several at once, with a newcomer that is down: nothing is logged; then again with all up.
#[test]
fn change_peers_add_multiple_node() {
    let mut cluster = Cluster::led_by_1_of(1);
    cluster.commit_many(10);
    cluster.start_blank(2);
    let token = cluster.change(1, change::replace_by([1, 2, 3]));
    let reason = RejectReason::CatchUpFailed { node: NodeId(3) };
    cluster.run(ms(61_000));
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    assert_eq!(cluster.status(1).configuration, configuration([1]));
    cluster.start_blank(3);
    cluster.change_members(change::replace_by([1, 2, 3]));
    cluster.await_agreement(&[1, 2, 3]);
}

/// The leader steps down while joint: the caller hears that the outcome is unknown, the next leader
/// finishes the change.
#[test]
fn change_peers_steps_down_in_joint_consensus() {
    let mut cluster = Cluster::led_by_1_of(3);
    for node in [4, 5] {
        cluster.start_blank(node);
    }
    let token = cluster.change(1, change::replace_by([3, 4, 5]));
    cluster.wait_for("joint", |c| c.status(1).change_stage == "joint");
    cluster.run(cluster.network.latency);
    cluster.isolate(1);
    let outcome = cluster.await_outcome(token);
    assert_eq!(outcome, Outcome::Rejected(RejectReason::LeadershipLost));
    cluster.wait_for("finished", |c| {
        c.leader()
            .is_some_and(|l| l != 1 && c.status(l).configuration == configuration([3, 4, 5]))
    });
    cluster.heal();
    cluster.commit("in the new set");
    cluster.await_agreement(&[3, 4, 5]);
}

/// braft's chaos: any number of changes at random, of voters and learners, while commands flow.
#[test]
fn change_peers_chaos() {
    let mut cluster = Cluster::led_by_1_of(5);
    for node in 6..=8 {
        cluster.start_blank(node);
    }
    // A fixed sequence of sets, each a subset of 1..=8 by its bits.
    for (round, bits) in [0x1f_u64, 0x07, 0xe0, 0xa5, 0x5a, 0x80, 0xff, 0x11]
        .into_iter()
        .enumerate()
    {
        let nodes: Vec<u64> = (1..=8).filter(|node| bits >> (node - 1) & 1 == 1).collect();
        let (learners, nodes) = nodes.split_at(usize::from(round % 2 == 1 && nodes.len() > 1));
        let leader = cluster.await_leader();
        cluster.propose(leader, &format!("before {round}"));
        let set = learner_set(nodes, learners);
        if cluster.status(leader).configuration.current != set {
            cluster.change_members(kontiki_raft::ConfigurationChange::Replace(set.clone()));
        }
        cluster.commit(&format!("after {round}"));
        let members: Vec<u64> = nodes.iter().chain(learners).copied().collect();
        cluster.await_agreement(&members);
        let leader = cluster.await_leader();
        assert_eq!(cluster.status(leader).configuration.current, set);
    }
}

/// A demoted voter goes on as a learner; promoted again it votes (not in braft).
#[test]
fn learner_demotion_and_promotion() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.change_members(change::demote(3));
    cluster.commit("as a learner");
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(
        cluster.status(1).configuration.current,
        learner_set(&[1, 2], &[3])
    );
    cluster.change_members(change::promote(3));
    cluster.crash(2);
    cluster.commit("1 and 3 are a majority");
    let token = cluster.transfer_to(1, TransferTarget::Best);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 3);
}
