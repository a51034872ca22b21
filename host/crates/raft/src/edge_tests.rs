//! The less travelled paths: restarts in the middle of things, refusals, damage, liars.

use crate::testing::{Cluster, DiskImage, members};
use crate::{
    AppendEntries, ConfigurationChange, Core, Effect, Effects, Entry, EntryKind, Event, HardState,
    Input, Instant, LeaseStatus, LogId, LogIndex, Message, MessageBody, NodeId, ReadMode,
    Recovered, RejectReason, RequestVote, Role, Settings, StopReason, Term, TermStart, Token,
    TransferTarget,
};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

fn with_leases() -> Settings {
    Settings {
        leader_lease: true,
        ..Settings::default()
    }
}

fn command(term: u64, index: u64) -> Entry {
    Entry {
        id: LogId::new(Term(term), LogIndex(index)),
        time_ns: 0,
        kind: EntryKind::Command(Bytes::from_static(b"x")),
    }
}

fn append(term: u64, prev: (u64, u64), entries: Vec<Entry>, commit: u64) -> Message {
    Message {
        term: Term(term),
        body: MessageBody::AppendEntries(AppendEntries {
            prev: LogId::new(Term(prev.0), LogIndex(prev.1)),
            entries,
            commit: LogIndex(commit),
            sequence: 1,
        }),
    }
}

/// One replica alone, with every effect in view.
struct Replica {
    core: Core,
    now: Instant,
}

impl Replica {
    fn of_three(recovered: Recovered, settings: Settings) -> Self {
        let now = Instant(5_000_000);
        let core = Core::new(NodeId(1), settings, members(1..=3), recovered, now, 7);
        Self { core, now }
    }

    fn new() -> Self {
        Self::of_three(Recovered::default(), Settings::default())
    }

    fn give(&mut self, input: Input) -> Effects {
        let mut effects = Effects::new();
        self.core.handle(self.now, input, &mut effects);
        effects
    }

    fn receive(&mut self, from: u64, message: Message) -> Effects {
        let from = NodeId(from);
        self.give(Input::Message { from, message })
    }

    fn vote_request(&self, term: u64, forced: bool, disrupted: Option<(u64, u64)>) -> Message {
        Message {
            term: Term(term),
            body: MessageBody::RequestVote(RequestVote {
                pre_vote: false,
                last: LogId::new(Term(99), LogIndex(99)),
                round: 1,
                forced,
                disrupted_leader: disrupted.map(|(node, term)| (NodeId(node), Term(term))),
                priority: 100,
                applied: None,
            }),
        }
    }

    /// Asks for a vote and says what comes of it once it is durable.
    fn asks_vote(&mut self, message: Message) -> crate::RequestVoteReply {
        let mut effects = self.receive(3, message);
        if let Some(io) = persisted(&effects) {
            assert!(
                replies(&effects).is_empty(),
                "nothing leaves before it is durable"
            );
            effects = self.give(Input::Persisted { io });
        }
        match replies(&effects).as_slice() {
            [MessageBody::RequestVoteReply(reply)] => reply.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn persisted(effects: &Effects) -> Option<crate::IoId> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Persist(persist) => Some(persist.io),
        _ => None,
    })
}

fn replies(effects: &Effects) -> Vec<MessageBody> {
    let body = |effect: &Effect| match effect {
        Effect::Send { message, .. } => Some(message.body.clone()),
        _ => None,
    };
    effects.iter().filter_map(body).collect()
}

#[test]
fn a_late_completion_does_not_acknowledge_what_was_cut() {
    let mut replica = Replica::new();
    let first = replica.receive(2, append(1, (0, 0), vec![command(1, 1), command(1, 2)], 0));
    let second = replica.receive(3, append(2, (1, 1), vec![command(2, 2)], 0));
    assert!(replies(&first).is_empty() && replies(&second).is_empty());
    let after = replica.give(Input::Persisted {
        io: persisted(&first).unwrap(),
    });
    assert!(
        replies(&after).is_empty(),
        "the old leader is not told of entry 2: {after:?}"
    );
    assert_eq!(replica.core.status(replica.now).durable_index, LogIndex(1));
    let after = replica.give(Input::Persisted {
        io: persisted(&second).unwrap(),
    });
    let [MessageBody::AppendEntriesReply(reply)] = &replies(&after)[..] else {
        panic!("{after:?}");
    };
    assert_eq!((reply.index, reply.conflict), (LogIndex(2), None));
}

#[test]
fn a_message_that_contradicts_committed_entries_is_refused_and_reported() {
    let mut replica = Replica::new();
    let effects = replica.receive(2, append(1, (0, 0), vec![command(1, 1), command(1, 2)], 2));
    let io = persisted(&effects).unwrap();
    replica.give(Input::Persisted { io });
    let effects = replica.receive(3, append(5, (0, 0), vec![command(4, 1)], 0));
    let conflict = Event::Conflict {
        from: NodeId(3),
        index: LogIndex(1),
    };
    assert!(effects.contains(&Effect::Event(conflict)));
    assert_eq!(replica.core.last_log_id(), LogId::new(Term(1), LogIndex(2)));
    let effects = replica.receive(3, append(5, (4, 2), vec![], 0));
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Event(Event::Conflict { .. })))
    );
}

#[test]
fn the_commit_index_is_capped_at_what_the_message_shows() {
    let mut replica = Replica::new();
    replica.receive(2, append(1, (0, 0), vec![command(1, 1), command(1, 2)], 0));
    replica.receive(3, append(2, (1, 1), vec![], 2));
    assert_eq!(replica.core.commit_index(), LogIndex(1));
}

#[test]
fn two_leaders_in_a_term_are_both_sent_into_the_next() {
    let mut replica = Replica::new();
    replica.receive(2, append(1, (0, 0), vec![], 0));
    let effects = replica.receive(3, append(1, (0, 0), vec![], 0));
    let second = Event::SecondLeader {
        other: NodeId(3),
        term: Term(1),
    };
    assert!(effects.contains(&Effect::Event(second)));
    let io = persisted(&effects).unwrap();
    let told: Vec<(NodeId, Term)> = replica
        .give(Input::Persisted { io })
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { to, message } => Some((*to, message.term)),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(NodeId(3), Term(2)), (NodeId(2), Term(2))]);
}

#[test]
fn a_lost_term_is_repaired_from_the_log() {
    let recovered = Recovered {
        last: LogId::new(Term(7), LogIndex(1)),
        terms: vec![TermStart {
            index: LogIndex(1),
            term: Term(7),
        }],
        tail: vec![command(7, 1)],
        ..Recovered::default()
    };
    let mut replica = Replica::of_three(recovered, Settings::default());
    assert_eq!(replica.core.next_deadline(), Some(replica.now));
    let effects = replica.give(Input::Tick);
    let hard_state = Some(HardState {
        term: Term(8),
        voted_for: None,
    });
    assert!(matches!(&effects[0], Effect::Persist(p) if p.hard_state == hard_state));
}

#[test]
fn what_cannot_be_true_stops_the_replica_with_a_reason() {
    let recovered = Recovered {
        log_start: LogId::new(Term(1), LogIndex(9)),
        last: LogId::new(Term(1), LogIndex(9)),
        ..Recovered::default()
    };
    let mut replica = Replica::of_three(recovered, Settings::default());
    let effects = replica.give(Input::Tick);
    assert!(matches!(effects[..], [Effect::Event(Event::Failed { .. })]));
    let token = Token(4);
    let effects = replica.give(Input::Campaign { token });
    let reason = RejectReason::Stopping;
    assert_eq!(effects, [Effect::Rejected { token, reason }]);
}

#[test]
fn a_voter_honours_a_lease_it_may_have_given_before_a_restart() {
    let recovered = Recovered {
        hard_state: HardState {
            term: Term(3),
            voted_for: None,
        },
        ..Recovered::default()
    };
    let mut replica = Replica::of_three(recovered, with_leases());
    let request = replica.vote_request(9, true, Some((2, 3)));
    let reply = replica.asks_vote(request.clone());
    assert!(!reply.granted && reply.rejected_by_lease);
    replica.now = replica.now.plus(Duration::from_millis(2_001));
    assert!(replica.asks_vote(request).granted);
    // One that never took part has promised nothing.
    let mut replica = Replica::of_three(Recovered::default(), with_leases());
    let request = replica.vote_request(1, false, None);
    assert!(replica.asks_vote(request).granted);
}

#[test]
fn a_voter_is_released_by_the_leader_that_stood_down_and_by_no_other() {
    let mut replica = Replica::of_three(Recovered::default(), with_leases());
    let effects = replica.receive(2, append(3, (0, 0), vec![], 0));
    let io = persisted(&effects).unwrap();
    replica.give(Input::Persisted { io });
    let other = replica.vote_request(4, true, Some((2, 2)));
    assert!(replica.asks_vote(other).rejected_by_lease);
    let stood_down = replica.vote_request(4, true, Some((2, 3)));
    assert!(replica.asks_vote(stood_down).granted);
}

#[test]
fn only_a_voter_may_force_its_way_past_a_live_leader() {
    let mut replica = Replica::new();
    replica.receive(2, append(1, (0, 0), vec![], 0));
    let message = replica.vote_request(2, true, None);
    let effects = replica.receive(9, message.clone());
    assert_eq!(replica.core.term(), Term(1), "{effects:?}");
    replica.receive(3, message);
    assert_eq!(replica.core.term(), Term(2));
}

#[test]
fn a_half_done_change_is_carried_on_by_the_next_leader() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    for id in 4..=5 {
        cluster.open(id, DiskImage::default());
    }
    // The joint configuration reaches the others, but its acknowledgements do not come back.
    let peers: Vec<u64> = (1..=5).filter(|&id| id != old).collect();
    let set = members(peers.iter().copied());
    cluster.propose(old, b"a");
    for &id in &peers {
        cluster.node_mut(id).hold_disk = id <= 3;
    }
    let token = cluster.change(old, ConfigurationChange::Replace(set.clone()));
    let joint = cluster.node(old).core.status(cluster.now);
    assert_eq!(joint.change_stage, "joint");
    cluster.isolate(old);
    for &id in &peers {
        cluster.node_mut(id).hold_disk = false;
    }
    cluster.settle();
    cluster.run_ms(6_000);
    assert_eq!(
        cluster.reason(old, token),
        Some(RejectReason::LeadershipLost)
    );
    let new = cluster.leader().unwrap();
    let status = cluster.node(new).core.status(cluster.now);
    assert!(!status.configuration.is_joint());
    assert_eq!(status.configuration.current, set);
}

#[test]
fn an_old_voter_that_alone_holds_the_final_configuration_can_finish_the_change() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    cluster.open(2, DiskImage::default());
    // Joint is committed; the final configuration is appended, but does not get out.
    cluster.node_mut(2).hold_disk = true;
    cluster.change(1, ConfigurationChange::AddLearner(NodeId(2)));
    cluster.node_mut(2).hold_disk = false;
    cluster.settle();
    let token = cluster.change(1, ConfigurationChange::Replace(members([2])));
    assert!(cluster.node(1).done.contains(&token) || cluster.leader() == Some(2));
    cluster.run_ms(3_000);
    assert_eq!(cluster.leader(), Some(2));
    cluster.propose(2, b"z");
    assert_eq!(cluster.commands(2), ["z"]);
}

#[test]
fn reads_wait_for_the_first_entry_of_the_term() {
    let mut cluster = Cluster::new(1);
    cluster.node_mut(1).hold_disk = true;
    cluster.run_ms(10);
    cluster.sync_one(1); // The vote: node 1 leads now.
    assert_eq!(cluster.node(1).core.role(), Role::Leader);
    let token = cluster.read(1, ReadMode::Quorum);
    assert!(cluster.node(1).reads.is_empty());
    cluster.node_mut(1).hold_disk = false;
    cluster.settle();
    assert_eq!(cluster.node(1).reads, [(token, LogIndex(1))]);
}

#[test]
fn timeouts_change_in_both_forms() {
    let mut cluster = Cluster::with(3, with_leases());
    let mut set = |election_ms: u64, drift_ms: Option<u64>| {
        let token = cluster.token();
        cluster.give(
            1,
            Input::SetTimeouts {
                token,
                election_timeout: Duration::from_millis(election_ms),
                max_clock_drift: drift_ms.map(Duration::from_millis),
            },
        );
        let status = cluster.node(1).core.status(cluster.now);
        let times = (
            status.election_timeout.as_millis(),
            status.max_clock_drift.as_millis(),
        );
        (cluster.node(1).done.contains(&token), times)
    };
    assert_eq!(set(500, None), (true, (500, 1_500)));
    assert_eq!(set(700, Some(100)), (true, (700, 100)));
    assert_eq!(set(900, None), (false, (700, 100)));
    assert_eq!(set(5, Some(100)), (false, (700, 100)));
}

#[test]
fn impossible_transfers_are_refused_at_once() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    let transfer = |cluster: &mut Cluster, from: u64, target| {
        let token = cluster.token();
        cluster.give(from, Input::TransferLeadership { token, target });
        cluster.reason(from, token)
    };
    let to = |id| TransferTarget::Node(NodeId(id));
    assert!(matches!(
        transfer(&mut cluster, follower, to(1)),
        Some(RejectReason::NotLeader { leader: Some(_) })
    ));
    let node = NodeId(9);
    assert_eq!(
        transfer(&mut cluster, leader, to(9)),
        Some(RejectReason::NotVoter { node })
    );
    assert_eq!(transfer(&mut cluster, leader, to(leader)), None);
    cluster.cut.insert((follower, leader));
    cluster.run_ms(1_500);
    let node = NodeId(follower);
    assert_eq!(
        transfer(&mut cluster, leader, to(follower)),
        Some(RejectReason::PeerUnreachable { node })
    );
}

#[test]
fn a_state_machine_that_cannot_go_on_gives_up_leadership() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let index = cluster.node(leader).core.commit_index();
    cluster.give(leader, Input::ApplyFailed { index });
    assert_eq!(cluster.node(leader).core.role(), Role::Stopped);
    assert!(
        cluster
            .node(leader)
            .events
            .iter()
            .any(|e| matches!(e, Event::Failed { .. }))
    );
    let new = cluster.leader().unwrap();
    cluster.propose(new, b"a");
    assert_eq!(cluster.commands(new), ["a"]);
}

#[test]
fn an_ordered_election_wins_against_a_live_leader_even_under_leases() {
    for settings in [Settings::default(), with_leases()] {
        let mut cluster = Cluster::with(3, settings);
        let old = cluster.elect();
        let other = (1..=3).find(|&id| id != old).unwrap();
        let token = cluster.token();
        cluster.give(other, Input::Campaign { token });
        assert!(cluster.node(other).done.contains(&token));
        assert_eq!(cluster.leader(), Some(other));
        let stopped = |event: &Event| matches!(event, Event::LeaderStopped { reason, .. } if *reason == StopReason::HigherTerm);
        assert!(cluster.node(old).events.iter().any(stopped));
        assert_ne!(
            cluster.node(old).core.status(cluster.now).lease,
            LeaseStatus::Valid
        );
    }
}

#[test]
fn priority_zero_never_campaigns_but_can_be_ordered_to() {
    let mut cluster = Cluster::new(3);
    for id in 1..=3 {
        cluster.set(id, |settings| settings.priority = 0);
    }
    cluster.run_ms(30_000);
    assert_eq!(cluster.leader(), None);
    let token = cluster.token();
    cluster.give(2, Input::Campaign { token });
    assert_eq!(cluster.leader(), Some(2));
}

#[test]
fn stepping_down_in_the_same_term_keeps_the_vote() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    cluster.run_ms(1_100);
    let status = cluster.node(leader).core.status(cluster.now);
    assert_ne!(status.role, Role::Leader);
    assert_eq!(status.voted_for, Some(NodeId(leader)));
}

#[test]
fn a_removed_node_cannot_disturb() {
    let mut cluster = Cluster::new(4);
    let leader = cluster.elect();
    let gone = (1..=4).find(|&id| id != leader).unwrap();
    // It never learns of its removal.
    cluster.isolate(gone);
    cluster.change(leader, ConfigurationChange::Remove(NodeId(gone)));
    cluster.run_ms(5_000);
    let term = cluster.node(leader).core.term();
    cluster.heal();
    let token = cluster.token();
    cluster.give(gone, Input::Campaign { token });
    cluster.run_ms(30_000);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.node(leader).core.term(), term);
}

#[test]
fn a_stalled_state_machine_stops_apply_at_the_window_but_not_commit() {
    let settings = Settings {
        apply_inflight_entries_max: 3,
        ..Settings::default()
    };
    let mut cluster = Cluster::with(1, settings);
    cluster.elect();
    cluster.node_mut(1).hold_apply = true;
    for n in 0..10u8 {
        cluster.propose(1, &[n]);
    }
    let status = cluster.node(1).core.status(cluster.now);
    assert_eq!(status.commit_index, status.last.index);
    assert_eq!(status.applying_index.0 - status.applied_index.0, 3);
    cluster.node_mut(1).hold_apply = false;
    let index = status.applying_index;
    cluster.give(1, Input::Applied { index });
    assert_eq!(cluster.commands(1).len(), 10);
    assert_eq!(cluster.node(1).answered.len(), 10);
}

#[test]
fn a_transfer_under_leases_survives_the_loss_of_the_old_leaders_answer() {
    let mut cluster = Cluster::with(3, with_leases());
    let old = cluster.elect();
    let target = (1..=3).find(|&id| id != old).unwrap();
    let token = cluster.token();
    let to = TransferTarget::Node(NodeId(target));
    // Its vote, and the word that it stood down, are lost; it repeats both when asked again.
    cluster.cut.insert((old, target));
    cluster.give_later(old, Input::TransferLeadership { token, target: to });
    cluster.cut.clear();
    cluster.deliver_one();
    cluster.sync_one(target);
    cluster.cut.insert((old, target));
    cluster.settle();
    assert_eq!(cluster.leader(), None);
    cluster.cut.clear();
    cluster.run_ms(300);
    assert_eq!(cluster.leader(), Some(target));
}

/// A leader of three with twenty entries, one in each message, on their way to a follower whose
/// disk is held.
fn with_slow_follower() -> (Cluster, u64, u64) {
    let settings = Settings {
        append_entries_max: 1,
        ..Settings::default()
    };
    let mut cluster = Cluster::with(3, settings);
    let leader = cluster.elect();
    let slow = leader % 3 + 1;
    cluster.node_mut(slow).hold_disk = true;
    cluster.entries_sent.clear();
    for _ in 0..20 {
        cluster.propose(leader, b"x");
    }
    (cluster, leader, slow)
}

#[test]
fn a_follower_that_is_slow_but_answers_is_sent_every_entry_once() {
    let (mut cluster, leader, slow) = with_slow_follower();
    for _ in 0..20 {
        cluster.run_ms(400);
        cluster.sync_one(slow);
        cluster.settle();
    }
    assert_eq!(cluster.entries_sent[&slow], 20);
    let status = cluster.node(leader).core.status(cluster.now);
    let peer = status.peers.iter().find(|peer| peer.node == NodeId(slow));
    assert_eq!(peer.map(|p| p.match_index), Some(status.last.index));
}

#[test]
fn a_follower_whose_answers_stall_for_long_is_probed_but_not_sent_everything_again() {
    let (mut cluster, leader, slow) = with_slow_follower();
    cluster.run_ms(5_000);
    for _ in 0..20 {
        cluster.sync_one(slow);
        cluster.settle();
        cluster.run_ms(50);
    }
    cluster.propose(leader, b"y");
    cluster.node_mut(slow).hold_disk = false;
    cluster.run_ms(2_000);
    assert_eq!(cluster.entries_sent[&slow], 21);
    let status = cluster.node(leader).core.status(cluster.now);
    let peer = status.peers.iter().find(|peer| peer.node == NodeId(slow));
    assert_eq!(peer.map(|p| p.match_index), Some(status.last.index));
}

#[test]
fn what_was_lost_on_the_way_is_sent_again_within_two_retries() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let cut_off = leader % 3 + 1;
    cluster.cut.insert((leader, cut_off));
    cluster.propose(leader, b"x");
    cluster.heal();
    cluster.run_ms(2_000);
    let last = cluster.node(leader).core.last_log_id();
    assert_eq!(cluster.node(cut_off).core.last_log_id(), last);
}

#[test]
fn an_answer_to_a_member_s_earlier_record_is_not_credited_to_its_present_one() {
    let mut cluster = Cluster::new(4);
    let leader = cluster.elect();
    let comes_back = leader % 4 + 1;
    let sequences = |cluster: &Cluster| cluster.sequences_sent(comes_back);
    cluster.propose(leader, b"x");
    cluster.change(leader, ConfigurationChange::Remove(NodeId(comes_back)));
    cluster.run_ms(5_000);
    let before = sequences(&cluster);
    cluster.change(leader, ConfigurationChange::AddVoter(NodeId(comes_back)));
    cluster.run_ms(5_000);
    let after = &sequences(&cluster)[before.len()..];
    assert!(!before.is_empty() && !after.is_empty());
    assert!(
        after
            .iter()
            .all(|sequence| sequence > before.iter().max().unwrap())
    );
}

#[test]
fn a_read_that_lost_its_leader_is_asked_once_more_of_the_next() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let (target, reader) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // The question stays on the wire while leadership moves.
    let token = cluster.token();
    let mode = ReadMode::Quorum;
    cluster.cut.insert((reader, leader));
    cluster.give(reader, Input::ReadIndex { token, mode });
    cluster.heal();
    let transfer = cluster.token();
    let target = TransferTarget::Node(NodeId(target));
    let order = Input::TransferLeadership {
        token: transfer,
        target,
    };
    cluster.give(leader, order);
    cluster.run_ms(500);
    let reads = &cluster.node(reader).reads;
    assert!(reads.iter().any(|(read, _)| *read == token));
    assert_eq!(cluster.reason(reader, token), None);
}

#[test]
fn a_read_that_the_leader_does_not_confirm_names_the_silent_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let reader = leader % 3 + 1;
    cluster.cut.insert((reader, leader));
    let read = cluster.read(reader, ReadMode::Quorum);
    cluster.run_ms(1_100);
    let silent = RejectReason::LeaderSilent {
        leader: NodeId(leader),
    };
    assert_eq!(cluster.reason(reader, read), Some(silent));
}

#[test]
fn a_leader_that_is_too_busy_to_read_says_so_to_followers() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let reader = leader % 3 + 1;
    cluster.isolate(leader);
    for _ in 0..16_384 {
        let token = cluster.token();
        let mode = ReadMode::Quorum;
        cluster.give_later(leader, Input::ReadIndex { token, mode });
    }
    cluster.cut.remove(&(reader, leader));
    cluster.cut.remove(&(leader, reader));
    cluster.node_mut(reader).deaf_to_heartbeats = true;
    let read = cluster.read(reader, ReadMode::Quorum);
    assert_eq!(cluster.reason(reader, read), Some(RejectReason::Busy));
}

#[test]
fn a_probe_that_is_repeated_carries_nothing_again() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let (next, slow) = (first % 3 + 1, (first + 1) % 3 + 1);
    // The next leader's probe arrives, but its entry never gets to the disk.
    cluster.node_mut(slow).hold_disk = true;
    let token = cluster.token();
    let target = TransferTarget::Node(NodeId(next));
    cluster.give(first, Input::TransferLeadership { token, target });
    cluster.run_ms(100);
    assert_eq!(cluster.leader(), Some(next));
    cluster.sync_one(slow);
    cluster.settle();
    cluster.run_ms(10_000);
    assert_eq!(cluster.entries_sent[&slow], 2, "one of each leader");
    cluster.node_mut(slow).hold_disk = false;
    cluster.settle();
    cluster.run_ms(1_000);
    let last = cluster.node(next).core.last_log_id();
    assert_eq!(cluster.node(slow).core.last_log_id(), last);
}
