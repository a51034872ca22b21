//! Traps of the log: commit, truncation, durability, flow.

use crate::support::{
    Cluster, Envelope, Seen, Setup, Solo, entries_after, id, image, ms, say, voters,
};
use kontiki_raft::{
    AppendEntries, AppendEntriesReply, Effect, Event, Input, LogIndex, MessageBody, NodeId,
    ReadError, RejectReason, Role, Settings, StopReason, Term,
};

/// Only an entry of the leader's own term is committed by counting.
#[test]
fn trap_01_an_older_entry_is_committed_only_under_one_of_the_own_term() {
    let mut node = Solo::leader(voters([1, 2, 3]), 5, &[1, 2, 2]);
    for index in 1..=3 {
        node.ack(2, index);
        node.ack(3, index);
        assert_eq!(node.commit(), 0, "on every node, but of an older term");
    }
    node.ack(2, 4);
    assert_eq!(node.commit(), 4);
}

/// A write that completes after its entries were cut and written anew vouches for nothing of the
/// new ones.
#[test]
fn trap_22_a_late_completion_does_not_vouch_for_new_entries() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    node.receive(2, 1, say::append(id(1, 1), &[1, 1], 0));
    // A new leader overwrites both before they are durable; the same indexes again.
    node.receive(3, 2, say::append(id(1, 1), &[2, 2], 0));
    assert!(node.writes_under_way() >= 2);
    let effects = node.persist();
    let acked = |effects: &[Effect]| -> Option<LogIndex> {
        let replies = effects.append_replies();
        replies
            .iter()
            .filter(|(_, r)| r.conflict.is_none())
            .map(|(_, r)| r.index)
            .max()
    };
    assert!(
        acked(&effects).is_none_or(|index| index <= LogIndex(1)),
        "the first write"
    );
    assert!(node.status().durable_index <= LogIndex(1));
    let mut last = None;
    while node.writes_under_way() > 0 {
        last = acked(&node.persist()).max(last);
    }
    assert_eq!(last, Some(LogIndex(3)));
    assert_eq!(node.durable().terms(), [1, 2, 2]);
}

/// Completions name their write; one that was never issued counts for nothing.
#[test]
fn trap_22_an_unknown_completion_is_ignored() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    let effects = node.receive(2, 1, say::append(id(1, 1), &[1], 0));
    let mut io = effects.writes()[0].io;
    io.leader_term = Term(9);
    let effects = node.give(Input::Persisted { io });
    assert!(effects.is_empty() && node.status().durable_index == LogIndex(1));
}

/// Completions out of order: a later one stands for the earlier ones, which then say nothing new.
#[test]
fn trap_22_completions_may_be_lost() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    let first = node.receive(2, 1, say::append(id(1, 1), &[1], 0)).writes()[0].io;
    let second = node.receive(2, 1, say::append(id(1, 2), &[1], 0)).writes()[0].io;
    let effects = node.give(Input::Persisted { io: second });
    assert_eq!(effects.append_replies().len(), 2);
    assert!(node.give(Input::Persisted { io: first }).is_empty());
    assert_eq!(node.status().durable_index, LogIndex(3));
}

/// The leader's own copy counts when it is durable, its first entry included.
#[test]
fn trap_23_the_leaders_own_copy_counts_once_it_is_durable() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    let token = node.token();
    let asked = node.give(Input::Campaign { token });
    node.hold_disk();
    node.grant_all(&asked);
    assert_eq!(node.role(), Role::Leader);
    node.ack(2, 2);
    assert_eq!(node.commit(), 0, "one durable copy of three");
    node.persist();
    assert_eq!(node.commit(), 2);
}

/// Others may commit without the leader's disk.
#[test]
fn trap_23_a_majority_of_followers_commits_without_the_leaders_disk() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    node.hold_disk();
    node.propose("x");
    node.ack(2, 2);
    assert_eq!(node.commit(), 1);
    node.ack(3, 2);
    assert_eq!(node.commit(), 2);
}

/// The order in which peers acknowledge, and gaps between them, make no difference: three of five
/// commit, never two.
#[test]
fn trap_24_commit_is_what_a_majority_holds_in_any_order() {
    for order in [[2, 3, 4, 5], [5, 4, 3, 2], [4, 2, 5, 3], [3, 5, 2, 4]] {
        let mut node = Solo::leader(voters([1, 2, 3, 4, 5]), 1, &[]);
        node.settle();
        for _ in 0..4 {
            node.propose("x");
        }
        // The first acknowledges most, the last least.
        for (at, peer) in (0..).zip(order) {
            node.ack(peer, 5 - at);
            // With the leader's 5: sorted descending, the third.
            let expected = [1, 4, 4, 4][usize::try_from(at).expect("small")];
            assert_eq!(node.commit(), expected, "{order:?} after {peer}");
        }
    }
}

/// Acknowledgements of an earlier term, or of more than there is, move nothing.
#[test]
fn trap_24_stale_and_impossible_acknowledgements_do_not_count() {
    let mut node = Solo::leader(voters([1, 2, 3]), 3, &[1, 1]);
    for term in [1, 2] {
        node.receive(2, term, say::append_ack(1, 3));
    }
    node.ack(2, 99);
    assert_eq!((node.commit(), node.role()), (0, Role::Leader));
    let peer = |node: &Solo| node.status().peers[0].match_index;
    assert_eq!(peer(&node), LogIndex(0));
    node.ack(2, 3);
    assert_eq!((node.commit(), peer(&node)), (3, LogIndex(3)));
}

/// A message that ends before the follower's log, and agrees with it, cuts nothing.
#[test]
fn trap_25_only_a_conflict_cuts_the_log() {
    let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1, 1, 2, 2]));
    let effects = node.receive(2, 2, say::append(id(1, 1), &[1], 0));
    assert_eq!(node.log(), [1, 1, 2, 2]);
    assert!(effects.writes().is_empty());
    node.receive(2, 2, say::append(id(0, 0), &[1, 1, 2], 0));
    assert_eq!(node.log(), [1, 1, 2, 2]);
    node.receive(3, 3, say::append(id(1, 2), &[3], 0));
    assert_eq!(node.log(), [1, 1, 3]);
}

/// A follower's commit index is capped at the last entry the message shows to match: what lies
/// behind may be another leader's.
#[test]
fn trap_25_commit_is_capped_at_what_the_message_covers() {
    let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1, 2, 2, 2]));
    let effects = node.receive(3, 3, say::append(id(1, 1), &[], 4));
    assert_eq!((node.commit(), effects.applied()), (1, Some(LogIndex(1))));
    assert_eq!(
        effects.append_replies()[0].1.index,
        LogIndex(1),
        "nor is more acknowledged"
    );
}

/// A heartbeat's commit index is what the leader knows to match there, so it needs no entry.
#[test]
fn trap_25_a_heartbeat_carries_only_what_is_known_to_match() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.ack(2, 1);
    let effects = node.wait(ms(100));
    let commits: Vec<_> = effects
        .heartbeats()
        .iter()
        .map(|(to, h)| (*to, h.commit))
        .collect();
    assert_eq!(commits[..2], [(2, LogIndex(1)), (3, LogIndex(0))]);
}

/// Truncation and what replaces it are one atomic write, so a crash leaves either log, no gap.
#[test]
fn trap_30_cutting_and_replacing_are_one_write() {
    let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1, 2, 2]));
    node.hold_disk();
    let effects = node.receive(2, 3, say::append(id(1, 1), &[3, 3], 0));
    let writes = effects.writes();
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].truncate_from, Some(LogIndex(2)));
    assert_eq!(writes[0].entries.len(), 2);
    assert_eq!(writes[0].hard_state.map(|hard| hard.term), Some(Term(3)));
}

/// Damage must not be taken for the end of a log: bounds with a hole stop the replica.
#[test]
fn trap_31_a_log_with_a_hole_is_refused() {
    let mut disk = image(2, &[1, 1, 2]);
    disk.log_start = id(1, 5);
    disk.entries = entries_after(id(1, 5), &[1, 2]);
    // No snapshot reaches up to where the log begins.
    let mut node = Solo::open(voters([1, 2, 3]), disk);
    let effects = node.give(Input::Tick);
    assert!(matches!(effects.events()[..], [Event::Failed { .. }]));
    assert_eq!(node.role(), Role::Stopped);
    let effects = node.receive(2, 9, say::vote_request(id(9, 9)));
    assert!(effects.sent().is_empty());
}

fn is_append(envelope: &Envelope) -> bool {
    matches!(envelope.message.body, MessageBody::AppendEntries(_))
}

/// Pipelined appends and their answers overtaking one another neither drive `next_index` back
/// below what matches nor ask anybody to cut what is committed.
#[test]
fn trap_32_reordered_pipelines_do_no_harm() {
    let mut cluster = Setup::voters([1, 2, 3])
        .with(|s| s.append_entries_max = 1)
        .start();
    cluster.elect(1);
    let mut hold = true;
    cluster.hold_messages(move |envelope| {
        // Every second message of the stream, and every second answer, is late.
        hold = !hold;
        hold && (is_append(envelope) || envelope.to == NodeId(1))
    });
    for number in 0..60 {
        cluster.propose(1, &format!("{number}"));
        if number % 7 == 0 {
            let now = cluster.now;
            cluster.network.duplicate();
            cluster.network.release(now);
        }
        cluster.run(ms(3));
        let status = cluster.status(1);
        assert!(
            status
                .peers
                .iter()
                .all(|peer| peer.next_index > peer.match_index)
        );
    }
    cluster.release_messages();
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(2).len(), 60);
}

/// A refusal that is late, after the peer has acknowledged more, is not believed.
#[test]
fn trap_32_a_late_refusal_does_not_move_next_index_below_match() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    for _ in 0..5 {
        node.propose("x");
    }
    node.ack(2, 6);
    for sequence in 0..5 {
        let body = MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence,
            index: LogIndex(3),
            conflict: Some(id(0, 0)),
            read_only: false,
            promise: None,
        });
        node.receive(2, 1, body);
        let peer = node.status().peers[0].clone();
        assert!(
            peer.match_index == LogIndex(6) && peer.next_index == LogIndex(7),
            "{peer:?}"
        );
    }
}

/// What is committed is never cut, whatever a peer says; the contradiction is reported.
#[test]
fn trap_32_committed_entries_are_never_cut() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1, 1, 1]));
    node.receive(2, 1, say::append(id(1, 3), &[], 3));
    assert_eq!(node.commit(), 3);
    let effects = node.receive(3, 2, say::append(id(1, 1), &[2], 0));
    assert!(matches!(
        effects.events().last(),
        Some(Event::Conflict { .. })
    ));
    assert_eq!(node.log(), [1, 1, 1]);
}

/// Heartbeats bypass the log, so a leader whose own disk stalls must notice by itself.
#[test]
fn trap_34_a_leader_with_a_stalled_disk_gives_up() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.hold_disk(1);
    cluster.propose(1, "never on 1's disk");
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    let (_, reason) = *cluster.leaderships(1).last().expect("it led");
    assert_eq!(reason, Some(StopReason::DiskStalled));
    let leader = cluster.await_leader();
    cluster.commit("goes on");
    cluster.run(ms(30_000));
    assert_eq!(
        cluster.leader(),
        Some(leader),
        "and 1 does not come back with its disk stalled"
    );
    cluster.release_disk(1);
    cluster.await_agreement(&[1, 2, 3]);
}

/// What a lost leadership had not committed does not count against the next one's limit.
#[test]
fn trap_36_the_backlog_limit_starts_anew_with_a_leadership() {
    let settings = Settings {
        entry_size_bytes_max: 100,
        uncommitted_size_bytes_max: 100,
        ..Settings::default()
    };
    let mut node = Solo::leader_with(settings, voters([1, 2, 3]), 1, &[]);
    node.settle();
    let long = "a command of more than a hundred bytes altogether with its overhead, twice is one too many";
    node.propose(long);
    let (token, effects) = node.propose(long);
    assert_eq!(effects.rejection(token), Some(&RejectReason::Busy));
    // Another leader takes over, and loses to this node again.
    node.follow(2, 2);
    node.wait(ms(1_000));
    node.win();
    assert!(node.is_leader());
    assert_eq!(node.status().uncommitted_size_bytes, 0);
    let (token, effects) = node.propose(long);
    assert_eq!(effects.rejection(token), None);
}

/// What is committed by others but not durable here is not applied here: after a crash the state
/// machine would be ahead of its own log.
#[test]
fn trap_39_nothing_is_applied_before_it_is_durable_here() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    let effects = node.receive(2, 1, say::append(id(1, 1), &[1, 1], 3));
    assert_eq!(node.commit(), 3, "known to be committed");
    assert_eq!(effects.applied(), Some(LogIndex(1)));
    let effects = node.persist();
    assert_eq!(effects.applied(), Some(LogIndex(3)));
}

/// Entries handed to the state machine are bounded by what it reports as applied.
#[test]
fn trap_39_a_slow_state_machine_is_not_flooded() {
    let settings = Settings {
        apply_inflight_entries_max: 2,
        ..Settings::default()
    };
    let mut node = Solo::with(settings, voters([1, 2, 3]), image(1, &[1]));
    let effects = node.receive(2, 1, say::append(id(1, 1), &[1; 9], 10));
    assert_eq!(effects.applied(), Some(LogIndex(2)));
    let effects = node.give(Input::Applied { index: LogIndex(1) });
    assert_eq!(effects.applied(), Some(LogIndex(3)));
}

/// A leader that keeps nothing in memory, so that followers need entries from disk.
fn forgetful_leader() -> Solo {
    let settings = Settings {
        cache_size_bytes_max: 0,
        ..Settings::default()
    };
    let mut node = Solo::leader_with(settings, voters([1, 2, 3]), 2, &[1, 1, 1]);
    node.ack(3, 4);
    node
}

/// The read the leader issued for node 2, which holds only entry 1.
fn read_for_2(node: &mut Solo) -> kontiki_raft::ReadId {
    let effects = node.ack(2, 1);
    let read = effects.iter().find_map(|effect| match *effect {
        Effect::ReadEntries { read, first, .. } => Some((read, first)),
        _ => None,
    });
    let (read, first) = read.expect("entries are read back");
    assert_eq!(first, LogIndex(2));
    read
}

/// Entries that cannot be read are not made up: no append leaves, and the leader gives up.
#[test]
fn trap_40_what_cannot_be_read_is_not_made_up() {
    let mut node = forgetful_leader();
    let read = read_for_2(&mut node);
    let effects = node.give(Input::EntriesRead {
        read,
        result: Err(ReadError::Damaged),
    });
    assert!(effects.appends().is_empty());
    assert_eq!(node.role(), Role::Stopped);
    assert!(
        effects
            .events()
            .iter()
            .any(|event| matches!(event, Event::Failed { .. }))
    );
}

/// Entries that are not the ones in the log (a disk that brings back what was overwritten) are not
/// sent either.
#[test]
fn trap_40_foreign_entries_from_the_disk_are_not_sent() {
    let mut node = forgetful_leader();
    let read = read_for_2(&mut node);
    let result = Ok(entries_after(id(1, 1), &[9, 9]));
    let effects = node.give(Input::EntriesRead { read, result });
    assert!(effects.appends().is_empty());
    assert_eq!(node.role(), Role::Stopped);
}

/// What is read back goes out with the right entry before it.
#[test]
fn trap_40_entries_read_back_are_sent_as_they_are() {
    let mut node = forgetful_leader();
    let read = read_for_2(&mut node);
    let result = Ok(entries_after(id(1, 1), &[1, 1]));
    let effects = node.give(Input::EntriesRead { read, result });
    let (to, append) = effects.appends()[0];
    assert_eq!((to, append.prev, append.entries.len()), (2, id(1, 1), 2));
}

/// Messages that no honest peer sends (holes, falling terms, positions that would overflow) do
/// nothing at all.
#[test]
fn trap_40_impossible_messages_are_dropped() {
    let far = u64::MAX - 1;
    let hole = {
        let mut entries = entries_after(id(1, 1), &[1, 1]);
        entries.remove(0);
        say::append_of(id(1, 1), entries, 0)
    };
    for body in [
        hole,
        say::append(id(1, 1), &[2, 1], 0),
        say::append(id(1, far), &[], 0),
        say::append(id(7, 1), &[], 0),
        say::vote_request(id(far, far)),
        say::heartbeat(far),
    ] {
        let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
        let effects = node.receive(2, 5, body.clone());
        assert!(effects.is_empty(), "{body:?}");
        assert_eq!(node.term(), 1);
    }
}

/// Nothing sleeps: an idle group keeps its heartbeats, notices a dead leader, and takes changes.
#[test]
fn trap_35_an_idle_group_stays_awake() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.run(ms(600_000));
    cluster.crash(1);
    let crashed_at = cluster.now;
    cluster.await_leader();
    assert!(cluster.now.since(crashed_at) < ms(4_000));
}

/// The same entry of an older message, arriving with others behind it, is not written twice.
#[test]
fn trap_32_overlapping_messages_append_only_what_is_new() {
    let mut node = Solo::new(voters([1, 2, 3]));
    node.receive(2, 1, say::append(id(0, 0), &[1, 1, 1], 0));
    let entries = entries_after(id(1, 1), &[1, 1, 1, 1]);
    let overlapping = MessageBody::AppendEntries(AppendEntries {
        prev: id(1, 1),
        entries,
        commit: LogIndex(0),
        sequence: 9,
    });
    let effects = node.receive(2, 1, overlapping);
    assert_eq!(effects.writes()[0].entries.len(), 2);
    assert_eq!(node.log(), [1; 5]);
}
