//! Traps of linearizable reads.

use crate::support::{Cluster, Outcome, Seen, Setup, Solo, image, ms, say, voters};
use kontiki_raft::{LogIndex, MessageBody, ReadIndexRequest, ReadMode, Token};

/// A new leader may know less to be committed than its predecessor acknowledged, so reads wait for
/// the first entry of its term; a follower's question too.
#[test]
fn trap_08_reads_wait_for_the_first_commit_of_the_term() {
    let mut node = Solo::leader(voters([1, 2, 3]), 2, &[1, 1, 1]);
    assert_eq!(node.commit(), 0);
    for mode in [ReadMode::Quorum, ReadMode::Lease] {
        let (token, effects) = node.read(mode);
        assert_eq!(effects.read_index(token), None);
    }
    let question = MessageBody::ReadIndexRequest(ReadIndexRequest {
        token: Token(77),
        mode: ReadMode::Quorum,
    });
    let effects = node.receive(3, 2, question);
    assert!(effects.sent().is_empty());
    let effects = node.ack(2, 4);
    let round = effects.heartbeats()[0].1.round;
    // One round serves all three: they are older than it.
    let answers = node.receive(2, 2, say::heartbeat_ack(round));
    let reply = answers
        .to(3)
        .into_iter()
        .find_map(|message| match &message.body {
            MessageBody::ReadIndexReply(reply) => reply.index,
            _ => None,
        });
    assert_eq!(reply, Some(LogIndex(4)));
    assert_eq!(answers.read_index(Token(2)), Some(4));
    assert_eq!(answers.read_index(Token(3)), Some(4));
}

/// The same under the lease alone: an acknowledged round does not make up for the missing commit.
#[test]
fn trap_08_a_lease_is_not_ready_before_the_first_commit() {
    let settings = kontiki_raft::Settings {
        leader_lease: true,
        ..kontiki_raft::Settings::default()
    };
    let mut node = Solo::leader_with(settings, voters([1, 2, 3]), 2, &[1]);
    let effects = node.wait(ms(100));
    let round = effects.heartbeats()[0].1.round;
    node.receive(2, 2, say::heartbeat_ack(round));
    assert_eq!(node.status().lease, kontiki_raft::LeaseStatus::NotReady);
}

/// A late answer to an older round confirms no newer question.
#[test]
fn trap_09_a_late_answer_confirms_nothing_newer() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    let effects = node.wait(ms(100));
    let before = effects.heartbeats()[0].1.round;
    let (token, effects) = node.read(ReadMode::Quorum);
    let round = effects.heartbeats()[0].1.round;
    assert!(round > before);
    let effects = node.receive(2, 1, say::heartbeat_ack(before));
    assert_eq!(effects.read_index(token), None);
    let effects = node.receive(2, 1, say::heartbeat_ack(round));
    assert_eq!(effects.read_index(token), Some(1));
}

/// A second question while a round is under way needs a round of its own.
#[test]
fn trap_09_a_round_under_way_does_not_serve_a_later_question() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    let (_, effects) = node.read(ReadMode::Quorum);
    let round = effects.heartbeats()[0].1.round;
    node.propose("x");
    node.ack(2, 2);
    let (second, _) = node.read(ReadMode::Quorum);
    let effects = node.receive(2, 1, say::heartbeat_ack(round));
    assert_eq!(effects.read_index(second), None);
    let round = effects.heartbeats()[0].1.round;
    let effects = node.receive(2, 1, say::heartbeat_ack(round));
    assert_eq!(effects.read_index(second), Some(2));
}

/// An answer from before a restart, with a number from then, fits nothing after it.
#[test]
fn trap_09_answers_from_before_a_restart_fit_nothing() {
    let mut before = Solo::seeded(voters([1, 2, 3]), image(1, &[1]), 1);
    before.follow(2, 1);
    let (_, effects) = before.read(ReadMode::Quorum);
    let asked = |effects: &[kontiki_raft::Effect]| match effects.to(2)[0].body {
        MessageBody::ReadIndexRequest(ref request) => request.token,
        ref other => panic!("{other:?}"),
    };
    let old = asked(&effects);
    let mut after = Solo::seeded(voters([1, 2, 3]), before.durable().clone(), 2);
    after.follow(2, 1);
    let (token, effects) = after.read(ReadMode::Quorum);
    assert_ne!(asked(&effects), old);
    let index = Some(LogIndex(1));
    let reply = MessageBody::ReadIndexReply(kontiki_raft::ReadIndexReply {
        token: old,
        index,
        busy: false,
    });
    let effects = after.receive(2, 1, reply);
    assert_eq!(effects.read_index(token), None);
}

/// A group of one that restarts knows only the commit index of its snapshot; a read must not be
/// served below what was acknowledged before.
#[test]
fn trap_10_a_restarted_single_voter_reads_what_it_acknowledged() {
    let mut cluster = Cluster::led_by_1_of(1);
    let index = cluster.commit("acknowledged");
    cluster.crash(1);
    cluster.restart(1);
    let token = cluster.read(1, ReadMode::Quorum);
    let outcome = cluster.await_outcome(token);
    match outcome {
        Outcome::ReadAt(read) => assert!(read >= index),
        // Before it is elected it does not lead; then it is asked again.
        Outcome::Rejected(_) => {
            cluster.await_leader();
            let token = cluster.read(1, ReadMode::Quorum);
            let outcome = cluster.await_outcome(token);
            assert!(
                matches!(outcome, Outcome::ReadAt(read) if read >= index),
                "{outcome:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.commands(1), ["acknowledged"]);
}

/// Also with the lease, and with a held apply queue: the read index is never below what was
/// acknowledged.
#[test]
fn trap_10_a_restarted_leader_reads_what_it_acknowledged() {
    let mut cluster = Setup::voters([1, 2, 3]).leases(100).start();
    cluster.elect(1);
    let index = cluster.commit("acknowledged");
    for node in 1..=3 {
        cluster.crash(node);
    }
    for node in 1..=3 {
        cluster.restart(node);
    }
    let leader = cluster.await_leader();
    let token = cluster.read(leader, ReadMode::Lease);
    let outcome = cluster.await_outcome(token);
    assert!(
        matches!(outcome, Outcome::ReadAt(read) if read >= index),
        "{outcome:?}"
    );
}
