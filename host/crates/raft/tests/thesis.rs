//! One test per claim of Ongaro's thesis that goes beyond the paper: leadership transfer (3.10),
//! membership changes (chapter 4), linearizable reads (6.4) and pre-vote (9.6).

use crate::support::{
    Cluster, Envelope, Outcome, Seen, Setup, Solo, change, configuration, id, image, joint, ms,
    say, voters,
};
use kontiki_raft::{
    ConfigurationError, Event, Input, LogIndex, MessageBody, NodeId, ReadMode, RejectReason, Role,
    Term, TransferTarget,
};

fn is_timeout_now(envelope: &Envelope) -> bool {
    matches!(envelope.message.body, MessageBody::TimeoutNow(_))
}

fn has_entries(envelope: &Envelope) -> bool {
    matches!(&envelope.message.body, MessageBody::AppendEntries(a) if !a.entries.is_empty())
}

// 3.10 Leadership transfer extension

/// 3.10 step 1: the prior leader stops accepting new client requests.
#[test]
fn a_leader_that_hands_over_takes_no_commands() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.drop_messages(is_timeout_now);
    cluster.transfer(1, 2);
    let token = cluster.propose(1, "too late");
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::Transferring)
    );
}

/// 3.10 step 2: the prior leader fully updates the target's log before it tells it to campaign.
#[test]
fn the_target_of_a_transfer_is_brought_up_to_date_first() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.hold_messages(|envelope| envelope.goes(1, 2) && has_entries(envelope));
    cluster.commit("not at 2 yet");
    cluster.transfer(1, 2);
    cluster.run(ms(200));
    assert_eq!(cluster.sent(is_timeout_now), 0);
    cluster.release_messages();
    cluster.wait_for("2 leads", |c| c.leads(2));
    assert_eq!(cluster.sent(is_timeout_now), 1);
}

/// 3.10 step 3: TimeoutNow has the effect of the target's election timer firing: it starts an
/// election at once, wins, and the prior leader steps down.
#[test]
fn a_transfer_takes_no_election_timeout() {
    let mut cluster = Cluster::led_by_1_of(3);
    let before = cluster.now;
    let token = cluster.transfer(1, 2);
    cluster.wait_for("2 leads", |c| c.leads(2));
    assert!(cluster.now.since(before) < ms(50));
    assert_eq!(cluster.outcome(token), Outcome::Done);
    assert_eq!(cluster.role(1), Role::Follower);
    assert_eq!(cluster.term(2), 2);
}

/// 3.10: if the transfer does not complete after about an election timeout, the prior leader
/// aborts it and resumes accepting requests.
#[test]
fn a_transfer_that_fails_is_given_up_in_the_same_term() {
    let mut cluster = Cluster::led_by_1_of(3);
    let term = cluster.term(1);
    cluster.drop_messages(is_timeout_now);
    let before = cluster.now;
    let token = cluster.transfer(1, 2);
    let outcome = cluster.await_outcome(token);
    let Outcome::Rejected(RejectReason::TransferTimedOut { node, lag }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((node, lag.entries), (NodeId(2), 0));
    assert_eq!(cluster.now.since(before), ms(1_000));
    cluster.commit("goes on");
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
}

/// 3.10: the target must be one whose log and vote can win; a learner, a stranger or a node that
/// does not answer is refused at once.
#[test]
fn a_transfer_to_a_node_that_cannot_lead_is_refused() {
    let mut cluster = Setup::voters([1, 2, 3]).learners(&[4]).start();
    cluster.elect(1);
    for target in [4, 9] {
        let token = cluster.transfer(1, target);
        let node = NodeId(target);
        assert_eq!(
            cluster.outcome(token),
            Outcome::Rejected(RejectReason::NotVoter { node })
        );
    }
    cluster.crash(3);
    cluster.run(ms(1_500));
    let token = cluster.transfer(1, 3);
    let node = NodeId(3);
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::PeerUnreachable { node })
    );
    let token = cluster.transfer_to(1, TransferTarget::Best);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 2);
}

// 4.1 Safety

/// 4.1: a server uses the latest configuration in its log, committed or not.
#[test]
fn a_configuration_holds_from_its_append() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    let entry = say::membership(id(1, 2), configuration([1, 2]));
    node.receive(2, 1, say::append_of(id(1, 1), vec![entry], 0));
    assert_eq!(node.commit(), 0);
    assert_eq!(node.status().configuration, configuration([1, 2]));
}

/// 4.1: it must fall back to the configuration before if that entry is removed.
#[test]
fn a_configuration_that_is_overwritten_is_undone() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    let entry = say::membership(id(1, 2), configuration([1, 2]));
    node.receive(2, 1, say::append_of(id(1, 1), vec![entry], 0));
    node.receive(3, 2, say::append(id(1, 1), &[2], 0));
    assert_eq!(node.status().configuration, configuration([1, 2, 3]));
}

/// 4.1: while a change is not committed no other may begin.
#[test]
fn one_change_at_a_time() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.drop_messages(has_entries);
    cluster.change(1, change::remove(3));
    let second = cluster.change(1, change::remove(2));
    let reason = RejectReason::Configuration(ConfigurationError::InProgress);
    assert_eq!(cluster.outcome(second), Outcome::Rejected(reason));
}

/// 4.1: servers process requests of servers that are not in their configuration: a node may vote
/// for a candidate, and follow a leader, it does not know yet.
#[test]
fn a_server_serves_strangers() {
    let mut node = Solo::new(voters([1, 2, 3]));
    let effects = node.receive(9, 1, say::vote_request(id(0, 0)));
    assert!(effects.vote_replies()[0].1.granted);
    let effects = node.receive(9, 1, say::append(id(0, 0), &[1], 0));
    assert!(effects.append_replies()[0].1.conflict.is_none());
    assert_eq!(node.status().leader, Some(NodeId(9)));
}

// 4.2 Availability

/// 4.2.1: a new server catches up before it becomes a voter, so that adding it does not stop
/// commits.
#[test]
fn a_new_server_catches_up_before_it_counts() {
    let mut cluster = Setup::voters([1, 2, 3])
        .with(|s| s.catch_up_margin_entries = 5)
        .start();
    cluster.elect(1);
    cluster.commit_many(50);
    cluster.start_blank(4);
    cluster.hold_messages(|envelope| envelope.to == NodeId(4) && has_entries(envelope));
    let token = cluster.change(1, change::add(4));
    cluster.run(ms(500));
    assert_eq!(cluster.status(1).change_stage, "catch-up");
    assert!(!cluster.is_member(1, 4), "nothing is logged yet");
    let progress = cluster.status(1).catching_up;
    assert_eq!(
        (progress[0].node, progress[0].entries_left),
        (NodeId(4), 51)
    );
    cluster.commit("commits go on");
    cluster.release_messages();
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    cluster.await_agreement(&[1, 2, 3, 4]);
}

/// 4.2.1: a new server that is unavailable or too slow must not hold the change for ever.
#[test]
fn a_new_server_that_does_not_answer_is_given_up() {
    let mut cluster = Cluster::led_by_1_of(3);
    let token = cluster.change(1, change::add(4));
    cluster.run(ms(61_000));
    let reason = RejectReason::CatchUpFailed { node: NodeId(4) };
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    assert!(!cluster.is_member(1, 4));
    cluster.change_members(change::remove(3));
}

/// 4.2.2: a leader that is not part of the new configuration leads until it is committed, without
/// counting itself, then steps down.
#[test]
fn a_removed_leader_steps_down_once_its_removal_is_committed() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.hold_messages(has_entries);
    let token = cluster.change(1, change::remove(1));
    cluster.run(ms(50));
    assert_eq!(cluster.role(1), Role::Leader);
    assert_eq!(cluster.outcome(token), Outcome::Pending);
    cluster.release_messages();
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.role(1), Role::Follower);
    assert!(cluster.events(1).contains(&Event::Removed));
    let leader = cluster.await_leader();
    assert_ne!(leader, 1);
    assert!(!cluster.is_member(leader, 1));
}

/// 4.2.2: while it manages a configuration without itself it does not count its own copy.
#[test]
fn a_leader_does_not_count_itself_when_it_is_removed() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    let token = node.token();
    let change = change::remove(1);
    node.give(Input::ChangeConfiguration {
        token,
        change,
        expected: None,
    });
    assert_eq!(node.last(), 2);
    let effects = node.ack(2, 2);
    assert_eq!(node.commit(), 1, "of nodes 2 and 3 only one holds it");
    assert!(!effects.is_done(token));
    let effects = node.ack(3, 2);
    assert!(effects.is_done(token));
}

/// 4.2.3: a removed server that times out cannot depose the leader.
#[test]
fn a_removed_server_does_not_disrupt_the_group() {
    let mut cluster = Cluster::led_by_1_of(4);
    cluster.isolate(4);
    cluster.change_members(change::remove(4));
    let term = cluster.term(1);
    cluster.heal();
    // It was not told, keeps its old configuration, and campaigns as often as it likes.
    cluster.run(ms(20_000));
    cluster.campaign(4);
    cluster.run(ms(2_000));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
}

/// 4.2.3: a server that receives a vote request within the minimum election timeout of hearing
/// from a leader neither updates its term nor grants its vote.
#[test]
fn a_vote_request_is_ignored_while_a_leader_lives() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.follow(2, 1);
    node.wait(ms(999));
    let effects = node.receive(3, 7, say::vote_request(id(9, 9)));
    assert!(!effects.vote_replies()[0].1.granted);
    assert_eq!((node.term(), node.status().leader), (1, Some(NodeId(2))));
}

/// 4.2.3 with 3.10: an election the leader ordered itself may disturb it.
#[test]
fn an_ordered_election_overrides_a_live_leader() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.follow(2, 1);
    let effects = node.receive(3, 2, say::forced_vote_request(id(1, 1)));
    assert!(effects.vote_replies()[0].1.granted);
    assert_eq!(node.term(), 2);
}

// 4.3 Arbitrary configuration changes using joint consensus

/// A leader of term 1 in the joint configuration from {1,2,3} to {1,4,5}, everything before it
/// committed. Its entry is at index 2.
fn joint_leader() -> (Solo, kontiki_raft::Token) {
    let settings = kontiki_raft::Settings {
        catch_up_margin_entries: 10,
        ..kontiki_raft::Settings::default()
    };
    let mut node = Solo::leader_with(settings, voters([1, 2, 3]), 1, &[]);
    node.settle();
    let token = node.token();
    let change = change::replace_by([1, 4, 5]);
    node.give(Input::ChangeConfiguration {
        token,
        change,
        expected: None,
    });
    node.ack(4, 1);
    node.ack(5, 1);
    assert_eq!(node.status().configuration, joint([1, 2, 3], [1, 4, 5]));
    assert_eq!((node.last(), node.commit()), (2, 1));
    (node, token)
}

/// 4.3: log entries are replicated to all servers in both configurations.
#[test]
fn joint_replicates_to_both_sets() {
    let (mut node, _) = joint_leader();
    let (_, effects) = node.propose("x");
    let receivers: Vec<u64> = effects.appends().iter().map(|(to, _)| *to).collect();
    assert_eq!(receivers, [2, 3, 4, 5]);
}

/// 4.3: agreement requires majorities of the old and of the new configuration, separately.
#[test]
fn joint_commits_by_both_majorities() {
    for (acking, committed) in [
        (&[2, 3][..], false),
        (&[4, 5], false),
        (&[2, 4], true),
        (&[3, 5], true),
        (&[2, 3, 4], true),
    ] {
        let (mut node, _) = joint_leader();
        for &peer in acking {
            node.ack(peer, 2);
        }
        assert_eq!(node.commit() >= 2, committed, "{acking:?}");
    }
}

/// 4.3: elections need majorities of both as well.
#[test]
fn joint_elects_by_both_majorities() {
    let both = joint([1, 2, 3], [1, 4, 5]);
    for (granting, elected) in [
        (&[2, 3][..], false),
        (&[4, 5], false),
        (&[2, 4], true),
        (&[3, 4, 5], true),
    ] {
        let mut disk = image(1, &[1]);
        disk.entries.push(say::membership(id(1, 2), both.clone()));
        let mut node = Solo::open(voters([1, 2, 3]), disk);
        let token = node.token();
        let asked = node.give(Input::Campaign { token });
        for (voter, request) in asked.vote_requests() {
            if granting.contains(&voter) && !node.is_leader() {
                node.receive(voter, 2, say::vote_reply(request, true));
            }
        }
        assert_eq!(node.is_leader(), elected, "{granting:?}");
    }
}

/// 4.3: once the joint configuration is committed the leader appends the new one, and the change
/// is done when that is committed, by the new majority alone.
#[test]
fn joint_leads_to_the_new_configuration_by_itself() {
    let (mut node, token) = joint_leader();
    node.ack(2, 2);
    node.ack(4, 2);
    assert_eq!(node.status().configuration, configuration([1, 4, 5]));
    assert_eq!((node.last(), node.commit()), (3, 2));
    let effects = node.ack(5, 3);
    assert!(effects.is_done(token));
    assert_eq!(node.commit(), 3);
}

/// 4.3: any server of either configuration may lead; a leader outside the new one steps down at
/// the end.
#[test]
fn joint_replaces_every_server_at_once() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(10);
    for node in 4..=6 {
        cluster.start_blank(node);
    }
    cluster.change_members(change::replace_by([4, 5, 6]));
    cluster.commit("by the new ones alone");
    cluster.await_agreement(&[4, 5, 6]);
    for node in 1..=3 {
        cluster.crash(node);
    }
    cluster.commit("still");
}

/// 4.3: another leader finishes what the first began.
#[test]
fn joint_is_finished_by_the_next_leader() {
    let mut cluster = Cluster::led_by_1_of(3);
    for node in [4, 5] {
        cluster.start_blank(node);
    }
    // The joint entry reaches everybody; nothing comes back to the leader.
    let token = cluster.change(1, change::replace_by([2, 4, 5]));
    cluster.wait_for("joint", |c| c.status(1).change_stage == "joint");
    cluster.run(cluster.network.latency);
    cluster.crash(1);
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    let leader = cluster.await_leader();
    cluster.wait_for("the change is over", |c| {
        c.status(leader).configuration == configuration([2, 4, 5])
    });
    assert_eq!(
        cluster.outcome(token),
        Outcome::Pending,
        "the crashed leader cannot answer"
    );
    cluster.commit("in the new configuration");
}

// 6.4 Processing read-only queries more efficiently

/// 6.4 step 1: a leader that has not committed an entry of its term waits until it has.
#[test]
fn a_read_waits_for_an_entry_of_the_term() {
    let mut node = Solo::leader(voters([1, 2, 3]), 2, &[1, 1]);
    let (token, effects) = node.read(ReadMode::Quorum);
    assert!(effects.read_index(token).is_none() && effects.heartbeats().is_empty());
    let effects = node.ack(2, 3);
    let round = effects.heartbeats()[0].1.round;
    let effects = node.receive(2, 2, say::heartbeat_ack(round));
    assert_eq!(effects.read_index(token), Some(3));
}

/// 6.4 steps 2 and 3: the read index is the commit index when the question came; a round of
/// heartbeats that a majority answers confirms it.
#[test]
fn a_read_index_is_confirmed_by_a_round() {
    let mut node = Solo::leader(voters([1, 2, 3, 4, 5]), 1, &[]);
    node.settle();
    let (token, effects) = node.read(ReadMode::Quorum);
    let round = effects.heartbeats()[0].1.round;
    node.propose("later");
    for peer in 2..=5 {
        node.ack(peer, 2);
    }
    assert_eq!(node.commit(), 2);
    let effects = node.receive(2, 1, say::heartbeat_ack(round));
    assert_eq!(effects.read_index(token), None, "two of five");
    let effects = node.receive(3, 1, say::heartbeat_ack(round));
    assert_eq!(
        effects.read_index(token),
        Some(1),
        "as committed when it was asked"
    );
}

/// 6.4: one round of heartbeats serves any number of reads that came before it.
#[test]
fn many_reads_share_a_round() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    let (first, effects) = node.read(ReadMode::Quorum);
    let first_round = effects.heartbeats()[0].1.round;
    let later: Vec<_> = (0..100).map(|_| node.read(ReadMode::Quorum)).collect();
    assert!(
        later
            .iter()
            .all(|(_, effects)| effects.heartbeats().is_empty())
    );
    let effects = node.receive(2, 1, say::heartbeat_ack(first_round));
    assert_eq!(effects.read_index(first), Some(1));
    let rounds = effects.heartbeats();
    assert_eq!(rounds.len(), 2, "one round for the hundred, to two peers");
    let round = rounds[0].1.round;
    let effects = node.receive(2, 1, say::heartbeat_ack(round));
    assert!(
        later
            .iter()
            .all(|(token, _)| effects.read_index(*token) == Some(1))
    );
}

/// 6.4: followers can serve reads: they ask the leader for a read index.
#[test]
fn a_follower_serves_reads_through_the_leader() {
    let mut cluster = Cluster::led_by_1_of(3);
    let index = cluster.commit("x");
    let token = cluster.read(3, ReadMode::Quorum);
    assert_eq!(cluster.await_outcome(token), Outcome::ReadAt(index));
}

/// 6.4.1: with a lease reads need no round: the lease lasts an election timeout from when the
/// round that a majority answered was *sent*.
#[test]
fn a_lease_answers_reads_at_once_until_it_ends() {
    let settings = kontiki_raft::Settings {
        leader_lease: true,
        ..kontiki_raft::Settings::default()
    };
    let mut node = Solo::leader_with(settings, voters([1, 2, 3]), 1, &[]);
    node.settle();
    let effects = node.wait(ms(100));
    let round = effects.heartbeats()[0].1.round;
    let sent_at = node.now;
    node.wait(ms(400));
    node.receive(2, 1, say::promising_ack(round, 1_000, 1_000));
    let (token, effects) = node.read(ReadMode::Lease);
    assert_eq!(effects.read_index(token), Some(1));
    node.now = sent_at.plus(ms(999));
    let (token, effects) = node.read(ReadMode::Lease);
    assert_eq!(effects.read_index(token), Some(1));
    node.now = sent_at.plus(ms(1_000));
    let (token, effects) = node.read(ReadMode::Lease);
    assert_eq!(effects.read_index(token), None, "a round is needed again");
}

/// 6.4.1: voters do not vote while they may be part of a lease, however late the clocks: election
/// timeout plus drift.
#[test]
fn a_voter_honours_a_lease_for_its_whole_length() {
    let settings = kontiki_raft::Settings {
        leader_lease: true,
        max_clock_drift: ms(300),
        ..kontiki_raft::Settings::default()
    };
    let mut node = Solo::with(settings, voters([1, 2, 3]), image(1, &[1]));
    node.follow(2, 1);
    let heard_at = node.now;
    node.now = heard_at.plus(ms(1_299));
    let effects = node.receive(3, 2, say::forced_vote_request(id(1, 1)));
    let reply = effects.vote_replies()[0].1;
    assert!(!reply.granted && reply.rejected_by_lease);
    node.now = heard_at.plus(ms(1_300));
    let effects = node.receive(3, 2, say::forced_vote_request(id(1, 1)));
    assert!(effects.vote_replies()[0].1.granted);
}

// 9.6 Preventing disruptions when a server rejoins the cluster

/// 9.6: a candidate only increments its term if it first learns from a majority that they would
/// vote for it.
#[test]
fn a_pre_vote_does_not_raise_the_term() {
    let mut node = Solo::open(voters([1, 2, 3]), image(4, &[1]));
    let effects = node.wait_for_election();
    assert!(
        effects
            .vote_requests()
            .iter()
            .all(|(_, request)| request.pre_vote)
    );
    assert_eq!(
        effects.to(2)[0].term,
        Term(5),
        "it asks about the next term"
    );
    node.wait(ms(60_000));
    assert_eq!(node.term(), 4);
}

/// 9.6: a server that was cut off for long rejoins without an election.
#[test]
fn a_rejoining_server_does_not_disturb() {
    let mut cluster = Cluster::led_by_1_of(3);
    let term = cluster.term(1);
    cluster.isolate(3);
    cluster.run(ms(60_000));
    assert_eq!(cluster.term(3), term, "its term has not grown");
    cluster.heal();
    cluster.run(ms(5_000));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
    assert_eq!(cluster.status(3).leader, Some(NodeId(1)));
}

/// 9.6: a pre-vote is granted only to an up-to-date log, and only without a live leader.
#[test]
fn a_pre_vote_is_granted_by_the_rules_of_a_vote() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1, 1]));
    let asks = |node: &mut Solo, index| {
        let effects = node.receive(3, 2, say::pre_vote_request(id(1, index)));
        effects.vote_replies()[0].1.granted
    };
    assert!(!asks(&mut node, 1));
    assert!(asks(&mut node, 2));
    assert_eq!(
        (node.term(), node.status().voted_for),
        (1, None),
        "nothing was promised"
    );
    node.follow(2, 1);
    assert!(!asks(&mut node, 2));
    assert_eq!(node.commit(), LogIndex(0).0);
}

/// 9.6 with 4.2.3: one link lost in one direction does not move leadership back and forth.
#[test]
fn a_one_way_partition_does_not_flap() {
    let mut cluster = Cluster::led_by_1_of(3);
    let term = cluster.term(1);
    cluster.cut_one_way(1, 3);
    cluster.run(ms(60_000));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
    cluster.heal();
    cluster.cut_one_way(3, 1);
    cluster.run(ms(60_000));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
}
