//! The paper's safety sections: log matching (§5.3, Figure 7), leader completeness and Figure 8
//! (§5.4), client interaction (§8) as far as it concerns the core, and timing (§5.6).

use crate::support::{
    Cluster, Image, Seen, Setup, Solo, entries_after, id, image, ms, say, voters,
};
use kontiki_raft::{HardState, LogIndex, NodeId, ReadMode, Role, Term};

/// Figure 7: the leader's log, and the six shapes (a) to (f) a follower's may have.
const LEADER: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
const FOLLOWERS: &[&[u64]] = &[
    &[1, 1, 1, 4, 4, 5, 5, 6, 6],
    &[1, 1, 1, 4],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    &[1, 1, 1, 4, 4, 4, 4],
    &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
];

/// §5.3, Figure 7: the leader brings every follower's log into line with its own: missing and
/// extraneous entries, over any number of terms.
#[test]
fn a_leader_brings_every_shape_of_figure_7_into_line() {
    let mut cluster = Cluster::empty(Setup::voters([1, 2, 3, 4, 5, 6, 7]));
    let members = voters([1, 2, 3, 4, 5, 6, 7]);
    cluster.start_node(1, members.clone(), image(7, LEADER));
    for (node, &log) in (2..).zip(FOLLOWERS) {
        cluster.start_node(node, members.clone(), image(7, log));
    }
    // Shapes (c) and (d) refuse, as their logs are longer; the other five make a majority.
    assert_eq!(cluster.elect(1), 8);
    cluster.await_agreement(&[1, 2, 3, 4, 5, 6, 7]);
    let mut expected = LEADER.to_vec();
    expected.push(8);
    for node in 1..=7 {
        assert_eq!(cluster.image(node).terms(), expected, "node {node}");
    }
}

/// §5.3: with the hint of the refusal one message per conflicting *term* is enough, not one per
/// entry.
#[test]
fn conflicting_terms_are_skipped_in_one_step() {
    let mut follower_log = vec![1; 10];
    follower_log.extend([2; 500]);
    let mut leader_log = vec![1; 10];
    leader_log.extend([3; 500]);
    let mut cluster = Cluster::empty(Setup::voters([1, 2, 3]));
    cluster.start_node(1, voters([1, 2, 3]), image(3, &leader_log));
    cluster.start_node(2, voters([1, 2, 3]), image(3, &follower_log));
    cluster.start_node(3, voters([1, 2, 3]), image(3, &leader_log));
    cluster.elect(1);
    cluster.await_agreement(&[1, 2, 3]);
    let refusals = cluster.sent(|envelope| {
        let body = &envelope.message.body;
        matches!(body, kontiki_raft::MessageBody::AppendEntriesReply(r) if r.conflict.is_some())
    });
    assert!(refusals <= 3, "{refusals} refusals");
}

/// §5.4.2: only entries of the leader's own term are committed by counting replicas; once one is,
/// all before it are committed indirectly.
#[test]
fn an_entry_of_an_older_term_is_not_committed_by_counting() {
    for (acked, committed) in [(1, 0), (2, 0), (3, 3)] {
        let mut node = Solo::leader(voters([1, 2, 3]), 3, &[1, 2]);
        node.ack(2, acked);
        assert_eq!(node.commit(), committed, "acknowledged up to {acked}");
    }
}

/// §5.4.2, Figure 8: S1 leads term 2 and replicates an entry to S2 only; S5 leads term 3 with
/// another entry in its place; S1 leads term 4 and copies the old entry to a majority. Until S1 has
/// an entry of term 4 on a majority, S5 can still be elected and overwrite it (d), so it must not
/// be committed; afterwards S5 cannot win (e).
#[test]
fn figure_8_an_old_entry_on_a_majority_may_still_be_overwritten() {
    let members = voters([1, 2, 3, 4, 5]);
    let mut cluster = Cluster::empty(Setup::voters([1, 2, 3, 4, 5]));
    cluster.start_node(1, members.clone(), image(3, &[1, 2]));
    cluster.start_node(2, members.clone(), image(2, &[1, 2]));
    cluster.start_node(3, members.clone(), image(3, &[1]));
    cluster.start_node(4, members.clone(), image(3, &[1]));
    cluster.start_node(5, members, image(3, &[1, 3]));
    // (c): S1 is elected for term 4 by S2, S3, S4 and copies entry 2 to S3; its own entry reaches
    // nobody: appends to S3 are cut after the old entry, the others get nothing.
    cluster.isolate(5);
    cluster.drop_messages(|envelope| match &envelope.message.body {
        kontiki_raft::MessageBody::AppendEntries(append) => {
            let new = append.entries.iter().any(|entry| entry.id.term == Term(4));
            new || envelope.to != NodeId(3)
        }
        _ => false,
    });
    cluster.campaign(1);
    cluster.run(ms(20));
    assert_eq!((cluster.role(1), cluster.term(1)), (Role::Leader, 4));
    let (prev, old) = (id(1, 1), entries_after(id(1, 1), &[2]));
    cluster.receive(3, 1, 4, say::append_of(prev, old, 0));
    cluster.run(ms(50));
    assert_eq!(cluster.image(3).terms(), [1, 2]);
    assert_eq!(
        cluster.commit_index(1),
        0,
        "on a majority, but not committed"
    );
    // (d): S1 crashes; S5 is elected by S3 and S4 and overwrites the entry everywhere.
    cluster.crash(1);
    cluster.drop_nothing();
    cluster.heal();
    cluster.run(ms(3_000));
    if cluster.leader() != Some(5) {
        cluster.elect_again(5);
    }
    cluster.restart(1);
    cluster.await_agreement(&[1, 2, 3, 4, 5]);
}

/// §5.4.2, Figure 8 (e): with an entry of its own term on a majority the old entry is committed,
/// and S5 cannot be elected any more.
#[test]
fn figure_8_an_entry_under_one_of_the_own_term_is_safe() {
    let members = voters([1, 2, 3, 4, 5]);
    let mut cluster = Cluster::empty(Setup::voters([1, 2, 3, 4, 5]));
    for (node, log) in [
        (1, &[1, 2][..]),
        (2, &[1, 2]),
        (3, &[1]),
        (4, &[1]),
        (5, &[1, 3]),
    ] {
        cluster.start_node(node, members.clone(), image(3, log));
    }
    cluster.isolate(5);
    cluster.elect(1);
    assert_eq!(cluster.commit_index(1), 3);
    cluster.crash(1);
    cluster.heal();
    cluster.campaign(5);
    cluster.run(ms(500));
    assert_ne!(cluster.role(5), Role::Leader);
    let leader = cluster.await_leader();
    assert_ne!(leader, 5);
    cluster.restart(1);
    cluster.await_agreement(&[1, 2, 3, 4, 5]);
    assert_eq!(cluster.image(5).terms()[..3], [1, 2, 4]);
}

/// §5.4.3, Leader Completeness: an entry committed in one term is in the log of every later leader,
/// whichever of a majority survives.
#[test]
fn a_committed_entry_survives_any_minority() {
    for lost in [[1, 2], [1, 3], [1, 4], [1, 5]] {
        let mut cluster = Cluster::led_by_1_of(5);
        // Only 2 and 3 take part in the commit.
        cluster.isolate(4);
        cluster.isolate(5);
        cluster.commit("kept");
        for node in lost {
            cluster.crash(node);
        }
        cluster.heal();
        let leader = cluster.await_leader();
        assert_eq!(cluster.commands(leader), ["kept"], "without {lost:?}");
    }
}

/// §5.3, State Machine Safety: a follower takes over no entry of a message that is older than what
/// it has, and does not shorten its log at one.
#[test]
fn a_late_message_does_not_shorten_the_log() {
    let mut node = Solo::new(voters([1, 2, 3]));
    node.receive(2, 1, say::append(id(0, 0), &[1, 1, 1], 0));
    node.receive(2, 1, say::append(id(0, 0), &[1], 0));
    assert_eq!(node.log(), [1, 1, 1]);
}

/// §5.5: followers and candidates that crash and come back are simply tried again.
#[test]
fn a_crashed_follower_catches_up_after_its_restart() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.crash(3);
    cluster.commit_many(20);
    cluster.restart(3);
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.leader(), Some(1));
}

/// §5.6: as long as broadcast time is far below the election timeout, a leader stays for ever.
#[test]
fn a_steady_leader_stays() {
    let mut cluster = Cluster::led_by_1_of(5);
    cluster.network.latency = ms(40);
    let term = cluster.term(1);
    cluster.run(ms(60_000));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
}

/// §8: a leader commits an entry of its term at the start, so that it knows what is committed.
#[test]
fn a_new_leader_commits_an_entry_of_its_own_at_once() {
    let mut node = Solo::leader(voters([1, 2, 3]), 3, &[1, 2]);
    assert_eq!(node.log(), [1, 2, 3]);
    node.settle();
    assert_eq!(node.commit(), 3);
}

/// §8: a leader confirms that it has not been deposed before it answers a read.
#[test]
fn a_deposed_leader_answers_no_read() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.isolate(1);
    let read = cluster.read(1, ReadMode::Quorum);
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    cluster.commit("unseen by 1");
    cluster.heal();
    let outcome = cluster.await_outcome(read);
    assert!(
        matches!(outcome, crate::support::Outcome::Rejected(_)),
        "{outcome:?}"
    );
}

/// §7: a follower whose entries are gone at the leader receives a snapshot and goes on from there;
/// its state machine equals one that lived through the log.
#[test]
fn a_follower_far_behind_receives_a_snapshot() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.crash(3);
    cluster.commit_many(10);
    cluster.compact(1);
    cluster.restart(3);
    cluster.await_agreement(&[1, 2, 3]);
    assert!(
        cluster.image(3).log_start.index.0 > 0,
        "its log begins at the snapshot"
    );
}

/// §7: an existing log entry with the snapshot's index and term keeps what follows it.
#[test]
fn a_snapshot_keeps_the_log_behind_it() {
    let members = voters([1, 2, 3]);
    let mut node = Solo::open(members.clone(), image(2, &[1, 1, 2, 2]));
    let snapshot = say::snapshot(id(1, 2), kontiki_raft::Configuration::stable(members));
    let effects = node.receive(2, 2, say::install(snapshot));
    assert_eq!(node.log(), [1, 1, 2, 2], "the rest is kept");
    assert_eq!(node.commit(), 2, "what the snapshot holds is committed");
    assert_eq!(effects.applied(), Some(LogIndex(2)));
}

/// Figure 2, "persistent state": term, vote and log survive a crash; what is volatile does not
/// matter.
#[test]
fn persistent_state_survives_a_crash() {
    let disk = Image {
        hard_state: HardState {
            term: Term(5),
            voted_for: Some(NodeId(2)),
        },
        entries: entries_after(id(0, 0), &[1, 4, 4]),
        ..Image::default()
    };
    let mut node = Solo::open(voters([1, 2, 3]), disk);
    let status = node.status();
    assert_eq!((status.term, status.voted_for), (Term(5), Some(NodeId(2))));
    assert_eq!((status.last, status.commit_index), (id(4, 3), LogIndex(0)));
    let effects = node.receive(3, 5, say::vote_request(id(4, 9)));
    assert!(
        !effects.vote_replies()[0].1.granted,
        "it has voted in this term"
    );
}
