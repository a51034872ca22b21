//! Traps of membership changes.

use crate::support::{
    Cluster, Envelope, Outcome, Seen, Setup, Solo, change, configuration, id, image, joint, ms,
    say, voters,
};
use kontiki_raft::{
    ConfigurationError, Effect, Event, Input, MessageBody, NodeId, RejectReason, Role, Settings,
    StopReason, TransferTarget,
};

fn has_entries(envelope: &Envelope) -> bool {
    matches!(&envelope.message.body, MessageBody::AppendEntries(a) if !a.entries.is_empty())
}

/// A single-server change is unsafe before the leader has committed an entry of its own term.
#[test]
fn trap_02_no_change_before_an_entry_of_the_own_term_is_committed() {
    let mut node = Solo::leader(voters([1, 2, 3]), 2, &[1]);
    let (token, effects) = node.change(change::remove(3));
    let reason = RejectReason::Configuration(ConfigurationError::LeaderNotReady);
    assert_eq!(effects.rejection(token), Some(&reason));
    node.settle();
    let (token, effects) = node.change(change::remove(3));
    assert_eq!(effects.rejection(token), None);
}

/// The history of the raft-dev thread: S1 appends a configuration {1,2,3,4,5}+… that only it holds,
/// another leader makes a different change, then S1 returns. Two majorities that do not overlap
/// must not both commit.
#[test]
fn trap_02_two_leaders_changes_never_both_commit() {
    let mut cluster = Setup::voters([1, 2, 3, 4]).start();
    cluster.elect(1);
    cluster.start_blank(5);
    // 1 adds 5; the entry reaches 5 only.
    cluster.hold_messages(|e| has_entries(e) && e.from == NodeId(1) && e.to != NodeId(5));
    let lost = cluster.change(1, change::add(5));
    cluster.run(ms(50));
    assert!(cluster.is_member(1, 5));
    // 2 is elected by 3 and 4 and removes 1.
    cluster.partition(&[1, 5], &[2, 3, 4]);
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    cluster.change_members(change::remove(1));
    cluster.commit("under the other change");
    // 1 and 5 are back: what they held is overwritten.
    cluster.drop_messages(has_entries_of_1);
    cluster.heal();
    cluster.run(ms(10_000));
    let leader = cluster.await_leader();
    assert_ne!(leader, 1);
    assert!(!cluster.is_member(leader, 5) && !cluster.is_member(leader, 1));
    assert!(matches!(cluster.outcome(lost), Outcome::Rejected(_)));
}

fn has_entries_of_1(envelope: &Envelope) -> bool {
    has_entries(envelope) && envelope.from == NodeId(1)
}

/// Configurations count from their append, so a node that has not applied its own removal does not
/// campaign by an older one.
#[test]
fn trap_03_an_unapplied_removal_already_holds() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.hold_apply(3);
    // 3 holds the entry, knows it to be committed, and has applied nothing of it.
    cluster.change_members(change::remove(3));
    cluster.run(ms(200));
    assert!(!cluster.is_member(3, 3));
    cluster.isolate(3);
    let before = cluster.sent(|e| e.from == NodeId(3));
    cluster.run(ms(10_000));
    assert_eq!(
        cluster.sent(|e| e.from == NodeId(3)),
        before,
        "it asks nobody for votes"
    );
    let token = cluster.campaign(3);
    let reason = RejectReason::NotVoter { node: NodeId(3) };
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
}

/// And a node that has not applied its own addition may campaign and win.
#[test]
fn trap_03_an_unapplied_addition_already_holds() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.start_blank(4);
    cluster.hold_apply(4);
    cluster.change_members(change::add(4));
    cluster.elect_again(4);
    cluster.release_apply(4);
    cluster.commit("led by the new one");
}

/// A leader that takes over in a joint configuration may leave it only by both majorities.
#[test]
fn trap_05_a_joint_configuration_found_at_start_needs_both_majorities() {
    let mut disk = image(1, &[1]);
    disk.entries
        .push(say::membership(id(1, 2), joint([1, 2, 3], [1, 4, 5])));
    let mut node = Solo::open(voters([1, 2, 3]), disk);
    node.win();
    assert_eq!(node.role(), Role::Leader);
    assert_eq!(
        node.status().configuration,
        joint([1, 2, 3], [1, 4, 5]),
        "carried on"
    );
    assert_eq!(node.last(), 3);
    node.ack(4, 3);
    node.ack(5, 3);
    assert_eq!(
        (node.commit(), node.last()),
        (0, 3),
        "the new half alone commits nothing"
    );
    node.ack(2, 3);
    assert_eq!(node.commit(), 3);
    assert_eq!(node.status().configuration, configuration([1, 4, 5]));
}

/// braft#407: the final configuration reached only a voter that is not in it. Its log is the
/// longest, so nobody else can be elected: it must campaign although it is leaving.
#[test]
fn trap_06_a_leaving_voter_with_the_longest_log_may_campaign() {
    let members = voters([1, 2, 3]);
    let mut cluster = Cluster::empty(Setup::voters([1, 2, 3]));
    let mut joined = image(1, &[1]);
    joined
        .entries
        .push(say::membership(id(1, 2), joint([1, 2, 3], [3, 4, 5])));
    let mut stable = joined.clone();
    stable
        .entries
        .push(say::membership(id(1, 3), configuration([3, 4, 5])));
    cluster.start_node(2, members.clone(), stable);
    for node in [3, 4, 5] {
        cluster.start_node(node, members.clone(), joined.clone());
    }
    // Node 1, which led, is gone for good.
    cluster.wait_for("the change is over", |c| {
        c.leader().is_some_and(|leader| {
            leader != 2 && c.status(leader).configuration == configuration([3, 4, 5])
        })
    });
    cluster.commit("without 1 and 2");
}

/// The same crash, with the entry on a voter of both sets.
#[test]
fn trap_06_a_crash_between_joint_and_final_leaves_an_electable_node() {
    for holder in [2, 3, 4] {
        let mut cluster = Cluster::empty(Setup::voters([1, 2, 3]));
        let mut joined = image(1, &[1]);
        joined
            .entries
            .push(say::membership(id(1, 2), joint([1, 2, 3], [3, 4, 5])));
        for node in 1..=5 {
            let mut disk = joined.clone();
            if node == holder || node == 1 {
                disk.entries
                    .push(say::membership(id(1, 3), configuration([3, 4, 5])));
            }
            cluster.start_node(node, voters([1, 2, 3]), disk);
        }
        cluster.crash(1);
        let leader = cluster.await_leader();
        cluster.wait_for("the change is over", |c| {
            c.leader()
                .is_some_and(|l| c.status(l).configuration == configuration([3, 4, 5]))
        });
        assert!(leader != 1);
        cluster.commit("goes on");
    }
}

/// A removed leader stops heartbeats at once, and the rest have a leader in far less than an
/// election timeout: it wakes the best of them.
#[test]
fn trap_07_a_removed_leader_falls_silent_and_wakes_a_successor() {
    let mut cluster = Cluster::led_by_1_of(3);
    let token = cluster.change(1, change::remove(1));
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    let removed_at = cluster.now;
    let sent = cluster.sent(|e| e.from == NodeId(1));
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    assert!(cluster.now.since(removed_at) < ms(100));
    cluster.run(ms(5_000));
    let heartbeats = cluster
        .sent(|e| e.from == NodeId(1) && matches!(e.message.body, MessageBody::Heartbeat(_)));
    let all = cluster.sent(|e| e.from == NodeId(1));
    assert!(all - sent < 10, "{heartbeats} heartbeats");
    assert_eq!(
        cluster.leaderships(1).last(),
        Some(&(1, Some(StopReason::Removed)))
    );
}

/// A leader that has logged its own removal and commands after it; node 2 and 3 hold the removal.
fn leaving() -> Solo {
    let mut node = Solo::leader(voters([1, 2, 3, 4]), 1, &[]);
    node.settle();
    let (token, _) = node.change(change::remove(1));
    let removal = node.last();
    node.propose("under way");
    node.ack(2, removal);
    let effects = node.ack(3, removal);
    assert!(effects.is_done(token), "{effects:?}");
    assert!(woken(&effects).is_empty(), "nobody holds the whole log");
    node
}

fn woken(effects: &[Effect]) -> Vec<u64> {
    let orders = effects.sent().into_iter();
    let orders = orders.filter(|(_, m)| matches!(m.body, MessageBody::TimeoutNow(_)));
    orders.map(|(to, _)| to).collect()
}

/// Node 4 may hold what is under way, and would refuse a candidate that does not.
#[test]
fn trap_07_a_removed_leader_wakes_a_successor_that_holds_the_whole_log() {
    let mut node = leaving();
    assert_eq!(node.role(), Role::Transferring);
    let (token, refused) = node.propose("too late");
    assert_eq!(refused.rejection(token), Some(&RejectReason::Transferring));
    let elsewhere = node.ack(4, node.last());
    assert!(woken(&elsewhere).is_empty(), "the best was chosen before");
    let target = node.status().transfer.expect("it hands over").target.0;
    let effects = node.ack(target, node.last());
    assert_eq!(woken(&effects).len(), 1);
    assert_eq!(node.role(), Role::Follower);
}

#[test]
fn trap_07_a_removed_leader_goes_though_nobody_catches_up() {
    let mut node = leaving();
    let begin = node.now;
    while node.is_leader() {
        let effects = node.tick_within(ms(2_000)).expect("it ticks");
        assert_eq!(woken(&effects).is_empty(), node.is_leader());
        for (from, heartbeat) in effects.heartbeats() {
            if from != 4 {
                node.receive(from, 1, say::heartbeat_ack(heartbeat.round));
            }
        }
    }
    assert!(node.now.since(begin) <= Settings::default().election_timeout);
    node.wait(ms(5_000));
    assert!(!node.is_leader());
}

/// A removed follower is told before it is forgotten, so that it does not campaign.
#[test]
fn trap_07_a_removed_follower_learns_of_its_removal() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.change_members(change::remove(3));
    cluster.run(ms(300));
    assert!(cluster.events(3).contains(&Event::Removed));
    let peers = cluster.status(1).peers;
    assert!(
        peers.iter().all(|peer| peer.node != NodeId(3)),
        "and then forgotten"
    );
}

/// A removed follower that cannot be told is not kept for ever either.
#[test]
fn trap_07_a_removed_follower_that_is_down_is_forgotten() {
    let mut cluster = Cluster::led_by_1_of(4);
    cluster.crash(4);
    cluster.change_members(change::remove(4));
    cluster.run(ms(5_000));
    assert!(
        cluster
            .status(1)
            .peers
            .iter()
            .all(|peer| peer.node != NodeId(4))
    );
}

/// A transfer is refused while a change is under way and a change while a transfer is; each time
/// with the reason, and the leader goes on.
#[test]
fn trap_33_change_and_transfer_exclude_each_other() {
    let mut cluster = Cluster::led_by_1_of(3);
    let adding = cluster.change(1, change::add(4));
    let token = cluster.transfer(1, 2);
    let catching_up = RejectReason::Configuration(ConfigurationError::CatchingUp);
    assert_eq!(cluster.outcome(token), Outcome::Rejected(catching_up));
    assert!(matches!(
        cluster.await_outcome(adding),
        Outcome::Rejected(_)
    ));

    cluster.drop_messages(|e| matches!(e.message.body, MessageBody::TimeoutNow(_)));
    cluster.transfer(1, 2);
    let token = cluster.change(1, change::remove(3));
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::Transferring)
    );
    cluster.run(ms(1_500));
    cluster.commit("not stuck");
}

/// A target that lags is not told to campaign; if it does not catch up in time the leader resumes.
#[test]
fn trap_33_a_lagging_target_is_not_told_to_campaign() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.drop_messages(|e| e.to == NodeId(2) && has_entries(e));
    cluster.commit("not at 2");
    let token = cluster.transfer(1, 2);
    let outcome = cluster.await_outcome(token);
    let Outcome::Rejected(RejectReason::TransferTimedOut { node, lag }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((node, lag.entries), (NodeId(2), 1));
    assert_eq!(
        cluster.sent(|e| matches!(e.message.body, MessageBody::TimeoutNow(_))),
        0
    );
    cluster.commit("resumed");
}

/// The best target is the one with the longest log among those that answer.
#[test]
fn trap_33_the_best_target_is_one_that_can_win() {
    let mut cluster = Cluster::led_by_1_of(4);
    cluster.drop_messages(|e| e.to == NodeId(2) && has_entries(e));
    cluster.commit("not at 2");
    cluster.crash(3);
    cluster.run(ms(1_500));
    let token = cluster.transfer_to(1, TransferTarget::Best);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    cluster.drop_nothing();
    assert_eq!(cluster.await_leader(), 4);
}

/// An order to campaign that arrives after its target was removed starts nothing.
#[test]
fn trap_33_a_removed_target_does_not_campaign() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    let entry = say::membership(id(1, 2), configuration([2, 3]));
    node.receive(2, 1, say::append_of(id(1, 1), vec![entry], 2));
    let effects = node.receive(2, 1, say::timeout_now());
    assert_eq!((node.role(), node.term()), (Role::Follower, 1));
    assert!(effects.sent().is_empty());
}

/// A newcomer that goes away while it catches up leaves no trace, and the change is answered once.
#[test]
fn trap_32_a_cancelled_catch_up_leaves_nothing() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(5);
    cluster.start_blank(4);
    cluster.drop_messages(|e| e.from == NodeId(4));
    let token = cluster.change(1, change::add(4));
    cluster.run(ms(1_000));
    let before = cluster.term(1);
    cluster.elect_again(2);
    assert!(cluster.term(2) > before);
    let reason = RejectReason::NotLeader { leader: None };
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(reason),
        "nothing was logged"
    );
    for node in 1..=3 {
        assert!(!cluster.is_member(node, 4));
    }
}

/// A change that waits for newcomers blocks every other change and every transfer for as long as
/// they answer; an operator can take it back, with nothing left of it.
#[test]
fn trap_32_an_operator_cancels_a_catch_up() {
    let setup = Setup::voters([1, 2, 3]).with(|settings| settings.catch_up_margin_entries = 1);
    let mut cluster = setup.start();
    cluster.elect(1);
    cluster.start_blank(4);
    cluster.drop_messages(|e| e.to == NodeId(4) && has_entries(e));
    cluster.commit_many(3);
    let token = cluster.change(1, change::add(4));
    // It answers, so that the time limit begins again and again.
    cluster.run(ms(180_000));
    assert_eq!(cluster.outcome(token), Outcome::Pending);
    let catching_up = || Outcome::Rejected(ConfigurationError::CatchingUp.into());
    let second = cluster.change(1, change::remove(3));
    assert_eq!(cluster.outcome(second), catching_up());
    assert_eq!(
        cluster.status(1).change_target,
        Some(voters([1, 2, 3, 4])),
        "a watcher can see where it leads"
    );

    let cancel = cluster.cancel_change(2);
    assert!(matches!(
        cluster.outcome(cancel),
        Outcome::Rejected(RejectReason::NotLeader { .. })
    ));
    let cancel = cluster.cancel_change(1);
    assert_eq!(cluster.outcome(cancel), Outcome::Done);
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::ChangeCancelled)
    );
    assert_eq!(cluster.status(1).peers.len(), 2, "4 is left alone");
    cluster.change_members(change::remove(3));
    assert!(!cluster.is_member(1, 4));
}

/// What is logged may be committed by any leader, so it is not taken back.
#[test]
fn trap_32_a_logged_change_is_not_cancelled() {
    let mut cluster = Cluster::led_by_1_of(3);
    let none = cluster.cancel_change(1);
    let refused = |error: ConfigurationError| Outcome::Rejected(error.into());
    assert_eq!(
        cluster.outcome(none),
        refused(ConfigurationError::NoneUnderWay)
    );
    cluster.drop_messages(has_entries);
    let token = cluster.change(1, change::replace_by([1]));
    let cancel = cluster.cancel_change(1);
    assert_eq!(cluster.outcome(cancel), refused(ConfigurationError::Logged));
    cluster.drop_nothing();
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
}

/// A replica that was removed may be deleted and made anew. What the leader knows of the old one,
/// and late answers of it, say nothing of the new one.
#[test]
fn trap_38_a_replica_made_anew_holds_nothing() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.start_blank(4);
    cluster.change_members(change::add(4));
    cluster.commit_many(3);
    cluster.await_agreement(&[1, 2, 3, 4]);
    let held = cluster.peer(1, 4).match_index;
    // It does not hear of its removal, so the leader still tells it.
    cluster.drop_messages(|e| e.from == NodeId(4) || e.to == NodeId(4));
    cluster.change_members(change::remove(4));
    assert_eq!(cluster.peer(1, 4).match_index, held);
    cluster.start_blank(4);
    cluster.change_members(change::add_learner(4));
    assert_eq!(
        cluster.peer(1, 4).match_index.0,
        0,
        "the record is a new one"
    );
    let term = cluster.term(1);
    let late = say::append_ack(1, held.0);
    cluster.receive(1, 4, term, late);
    assert_eq!(cluster.peer(1, 4).match_index.0, 0, "a late answer");
    cluster.drop_nothing();
    cluster.commit("for all");
    cluster.await_agreement(&[1, 2, 3, 4]);
}

/// Learners hold data but are never counted, for commits or votes (we have no witnesses, which
/// count without holding data).
#[test]
fn trap_37_a_learner_counts_for_nothing() {
    let members = crate::support::learner_set(&[1, 2, 3], &[4, 5]);
    let mut node = Solo::open(members, image(1, &[1]));
    let token = node.token();
    let asked = node.give(Input::Campaign { token });
    let asked: Vec<_> = asked
        .vote_requests()
        .into_iter()
        .map(|(to, r)| (to, r.clone()))
        .collect();
    assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [2, 3]);
    let request = asked[0].1.clone();
    node.receive(4, 2, say::vote_reply(&request, true));
    node.receive(5, 2, say::vote_reply(&request, true));
    assert_eq!(node.role(), Role::Candidate);
    node.receive(2, 2, say::vote_reply(&request, true));
    node.ack(4, 2);
    node.ack(5, 2);
    assert_eq!(node.commit(), 0);
    node.ack(3, 2);
    assert_eq!(node.commit(), 2);
}
