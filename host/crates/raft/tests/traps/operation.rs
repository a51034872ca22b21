//! Trap 43 (braft code not to be copied) and what concerns operation: read-only mode, failing
//! state machines, bootstrap.

use crate::support::{
    Cluster, Outcome, Seen, Setup, Solo, configuration, id, image, joint, ms, say, voters,
};
use kontiki_raft::{
    AppendEntriesReply, Event, HeartbeatReply, Input, LogIndex, MessageBody, RejectReason, Role,
    Standing,
};

fn says_read_only(node: &mut Solo, peer: u64) {
    let round = node.wait(ms(100)).heartbeats()[0].1.round;
    let term = node.term();
    let body = MessageBody::HeartbeatReply(HeartbeatReply {
        round,
        read_only: true,
        echo: None,
        promise: None,
        standing: Standing::default(),
    });
    node.receive(peer, term, body);
}

/// Read-only if the leader is, OR if too few members are writable; braft's code says AND.
#[test]
fn trap_43_read_only_is_or() {
    let mut leader = Solo::leader(voters([1, 2, 3]), 1, &[]);
    leader.settle();
    leader.give(Input::SetReadOnly(true));
    let (token, effects) = leader.propose("x");
    assert_eq!(
        effects.rejection(token),
        Some(&RejectReason::ReadOnly),
        "the leader alone"
    );

    let mut leader = Solo::leader(voters([1, 2, 3]), 1, &[]);
    leader.settle();
    says_read_only(&mut leader, 2);
    let (token, effects) = leader.propose("x");
    assert_eq!(effects.rejection(token), None, "one of three");
    says_read_only(&mut leader, 3);
    let (token, effects) = leader.propose("x");
    assert_eq!(
        effects.rejection(token),
        Some(&RejectReason::ReadOnly),
        "two of three"
    );
    // And back: an append acknowledgement says so as well.
    let body = MessageBody::AppendEntriesReply(AppendEntriesReply {
        sequence: 0,
        index: LogIndex(1),
        conflict: None,
        read_only: false,
        promise: None,
    });
    leader.receive(2, 1, body);
    let (token, effects) = leader.propose("x");
    assert_eq!(effects.rejection(token), None);
}

/// In a joint configuration both sets count; braft lets the second overwrite the first.
#[test]
fn trap_43_read_only_looks_at_both_sets() {
    for (read_only, refused) in [
        ([2, 3], true),
        ([4, 5], true),
        ([2, 4], false),
        ([3, 5], false),
    ] {
        let mut disk = image(1, &[1]);
        disk.entries
            .push(say::membership(id(1, 2), joint([1, 2, 3], [1, 4, 5])));
        let mut leader = Solo::open(voters([1, 2, 3]), disk);
        leader.win();
        assert!(leader.is_leader());
        for peer in read_only {
            says_read_only(&mut leader, peer);
        }
        let (token, effects) = leader.propose("x");
        assert_eq!(effects.rejection(token).is_some(), refused, "{read_only:?}");
    }
}

/// Configuration entries flow in read-only mode, so a read-only group can be repaired.
#[test]
fn trap_43_membership_changes_in_read_only_mode() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.give(1, Input::SetReadOnly(true));
    cluster.change_members(crate::support::change::remove(3));
    let token = cluster.propose(1, "x");
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::ReadOnly)
    );
    assert_eq!(cluster.status(1).configuration, configuration([1, 2]));
}

/// After a failure of the state machine what it applied is what it says, not what is committed.
#[test]
fn trap_43_a_failed_state_machine_keeps_its_applied_index() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.hold_apply(1);
    cluster.propose(1, "a");
    let lost = cluster.propose(1, "b");
    cluster.run(ms(50));
    assert_eq!(cluster.commit_index(1), 3);
    cluster.give(1, Input::ApplyFailed { index: LogIndex(1) });
    let status = cluster.status(1);
    assert_eq!(
        (status.role, status.applied_index),
        (Role::Stopped, LogIndex(1))
    );
    assert!(
        cluster
            .events(1)
            .iter()
            .any(|event| matches!(event, Event::Failed { .. }))
    );
    // The rest goes on, with both entries.
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    cluster.await_agreement(&[2, 3]);
    assert_eq!(cluster.commands(2), ["a", "b"]);
    assert_eq!(
        cluster.outcome(lost),
        Outcome::Pending,
        "in the hands of the host that failed"
    );
}

/// A group that begins in term 0 with nothing works: braft's bootstrap fails there.
#[test]
fn trap_43_a_group_starts_from_nothing() {
    for size in 1..=5 {
        let mut cluster = Cluster::of(size);
        let leader = cluster.await_leader();
        cluster.commit("first");
        assert_eq!(cluster.image(leader).terms()[0], cluster.term(leader));
    }
}

/// A group that begins from a snapshot without any log, as bootstrap makes it, works too.
#[test]
fn trap_43_a_group_starts_from_a_snapshot() {
    let mut cluster = Cluster::empty(Setup::voters([1, 2, 3]));
    for node in 1..=3 {
        cluster.start_blank(node);
        let meta = say::snapshot(id(1, 10), configuration([1, 2, 3]));
        let commands = vec!["from the snapshot".to_string()];
        cluster
            .replica(node)
            .disk
            .publish(crate::support::Saved { meta, commands });
        cluster.crash(node);
        cluster.restart(node);
    }
    cluster.commit("and on");
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(3), ["from the snapshot", "and on"]);
}
