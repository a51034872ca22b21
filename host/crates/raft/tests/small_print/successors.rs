//! Who takes over from a leader.

use crate::support::{Image, Seen, Solo, change, learner_set, ms, say, voters};
use kontiki_raft::{
    Effect, ElectionTurn, Event, Heartbeat, HeartbeatReply, Input, MemberSet, MessageBody, NodeId,
    Settings, Standing, TransferTarget,
};

/// A leader whose peers answer every heartbeat and say this of themselves.
struct Group {
    node: Solo,
    standings: Vec<(u64, Standing)>,
    /// They answer nothing else.
    lagging: Vec<u64>,
}

fn ranked(priority: u32) -> Standing {
    Standing {
        priority,
        ..Standing::default()
    }
}

fn drained() -> Standing {
    Standing {
        drained: true,
        ..Standing::default()
    }
}

impl Group {
    /// All hold the whole log, but those in `lagging` nothing.
    fn new<const N: usize>(
        members: MemberSet,
        standings: [(u64, Standing); N],
        lagging: &[u64],
    ) -> Self {
        let mut node = Solo::leader_with(Settings::default(), members, 1, &[]);
        for (peer, _) in standings {
            if !lagging.contains(&peer) {
                node.ack(peer, node.last());
            }
        }
        Self {
            node,
            standings: standings.to_vec(),
            lagging: lagging.to_vec(),
        }
    }

    /// Lets time pass; gives what happened, with the time since the beginning.
    fn run(&mut self, span_ms: u64) -> Vec<(u64, Effect)> {
        let begin = self.node.now;
        let mut all = Vec::new();
        loop {
            let left = ms(span_ms).saturating_sub(self.node.now.since(begin));
            let Some(effects) = self.node.tick_within(left) else {
                return all;
            };
            let at = self.node.now.since(begin).as_millis() as u64;
            let sent = effects.sent().into_iter();
            let sent: Vec<_> = sent.map(|(to, m)| (to, m.body.clone())).collect();
            all.extend(effects.into_iter().map(|effect| (at, effect)));
            for (to, body) in sent {
                let more = self.answer(to, &body);
                all.extend(more.into_iter().map(|effect| (at, effect)));
            }
        }
    }

    fn answer(&mut self, from: u64, body: &MessageBody) -> Vec<Effect> {
        let standing = self.standings.iter().find(|(peer, _)| *peer == from);
        let Some(&(_, standing)) = standing else {
            return Vec::new();
        };
        let reply = match body {
            MessageBody::Heartbeat(heartbeat) => MessageBody::HeartbeatReply(HeartbeatReply {
                round: heartbeat.round,
                read_only: false,
                echo: None,
                promise: None,
                standing,
            }),
            MessageBody::AppendEntries(append) if !self.lagging.contains(&from) => {
                let upto = append.prev.index.0 + append.entries.len() as u64;
                say::append_ack(append.sequence, upto)
            }
            _ => return Vec::new(),
        };
        let term = self.node.term();
        self.node.receive(from, term, reply)
    }

    /// The turn each peer was told last.
    fn turns(&mut self) -> Vec<(u64, ElectionTurn)> {
        let effects: Vec<Effect> = self
            .run(400)
            .into_iter()
            .map(|(_, effect)| effect)
            .collect();
        let beats = effects.heartbeats();
        let of = |peer: u64| beats.iter().rev().find(|(to, _)| *to == peer);
        let turn = |&(peer, _): &(u64, Standing)| of(peer).map(|(_, beat)| (peer, beat.turn));
        self.standings.iter().filter_map(turn).collect()
    }

    /// Orders a transfer to whoever is best, and gives who that is.
    fn hand_to_best(&mut self) -> Option<NodeId> {
        let (token, target) = (self.node.token(), TransferTarget::Best);
        self.node.give(Input::TransferLeadership { token, target });
        self.node.status().transfer.map(|transfer| transfer.target)
    }
}

/// Who is handed over to, and when.
fn takeovers(happened: &[(u64, Effect)]) -> Vec<(u64, u64)> {
    let takeover = |(at, effect): &(u64, Effect)| match effect {
        Effect::Event(Event::TakeoverStarted { target, .. }) => Some((*at, target.0)),
        _ => None,
    };
    happened.iter().filter_map(takeover).collect()
}

/// Who is told to campaign.
fn woken(effects: &[Effect]) -> Vec<u64> {
    let orders = effects.sent().into_iter();
    let orders = orders.filter(|(_, m)| matches!(m.body, MessageBody::TimeoutNow(_)));
    orders.map(|(to, _)| to).collect()
}

#[test]
fn whoever_never_campaigns_makes_nobody_first() {
    let members = || voters([1, 2, 3]);
    let mut group = Group::new(members(), [(2, ranked(100)), (3, ranked(0))], &[]);
    assert_eq!(
        group.turns(),
        [(2, ElectionTurn::Any), (3, ElectionTurn::Later)]
    );
    let mut group = Group::new(members(), [(2, ranked(100)), (3, drained())], &[]);
    assert_eq!(
        group.turns(),
        [(2, ElectionTurn::Any), (3, ElectionTurn::Later)]
    );
    let mut group = Group::new(members(), [(2, ranked(100)), (3, ranked(50))], &[]);
    assert_eq!(
        group.turns(),
        [(2, ElectionTurn::First), (3, ElectionTurn::Later)]
    );
}

#[test]
fn a_learner_neither_has_a_turn_nor_gives_one() {
    let members = learner_set(&[1, 2, 3], &[4]);
    let standings = [(2, ranked(100)), (3, ranked(100)), (4, ranked(50))];
    let mut group = Group::new(members.clone(), standings, &[]);
    let any = ElectionTurn::Any;
    assert_eq!(group.turns(), [(2, any), (3, any), (4, any)]);
    let standings = [(2, ranked(100)), (3, ranked(100)), (4, ranked(200))];
    let mut group = Group::new(members, standings, &[]);
    assert_eq!(group.turns(), [(2, any), (3, any), (4, any)]);
}

#[test]
fn a_voter_that_lags_or_is_silent_makes_nobody_later() {
    let standings = [(2, ranked(100)), (3, ranked(200))];
    let mut group = Group::new(voters([1, 2, 3]), standings, &[3]);
    let any = ElectionTurn::Any;
    assert_eq!(group.turns(), [(2, any), (3, any)]);
    // One that answers no more does not count either, whatever it said before.
    let standings = [(2, ranked(100)), (3, ranked(90))];
    let mut group = Group::new(voters([1, 2, 3]), standings, &[]);
    assert_eq!(group.turns()[0], (2, ElectionTurn::First));
    group.standings.pop();
    group.run(1_500);
    assert_eq!(group.turns(), [(2, any)]);
}

#[test]
fn the_best_successor_keeps_up_even_if_another_is_preferred() {
    let standings = [(2, ranked(100)), (3, ranked(200))];
    let mut group = Group::new(voters([1, 2, 3]), standings, &[3]);
    group.run(400);
    assert_eq!(group.hand_to_best(), Some(NodeId(2)));
}

#[test]
fn a_drained_member_is_handed_leadership_only_if_there_is_nobody_else() {
    // Node 2 lags, but an operator wants nothing led at node 3.
    let standings = [(2, ranked(100)), (3, drained())];
    let mut group = Group::new(voters([1, 2, 3]), standings, &[2]);
    group.run(400);
    assert_eq!(group.hand_to_best(), Some(NodeId(2)));
}

#[test]
fn a_leader_that_stops_wakes_one_that_is_willing_before_one_that_holds_more() {
    let standings = [(2, ranked(100)), (3, drained())];
    let mut group = Group::new(voters([1, 2, 3]), standings, &[]);
    group.run(400);
    group.node.propose("x");
    group.node.ack(3, group.node.last());
    let stopped = group.node.give(Input::Shutdown);
    assert_eq!(woken(&stopped), [2]);
}

#[test]
fn neither_a_learner_nor_a_silent_voter_succeeds_a_leader() {
    let members = learner_set(&[1, 2, 3], &[4]);
    let standings = [(2, ranked(100)), (3, ranked(300)), (4, ranked(200))];
    let mut group = Group::new(members, standings, &[]);
    group.run(300);
    group.standings.remove(1);
    group.run(1_500);
    assert_eq!(group.hand_to_best(), Some(NodeId(2)));
}

#[test]
fn a_learner_does_not_stand_in_the_way_of_a_preferred_voter() {
    let members = learner_set(&[1, 2, 3], &[4]);
    let standings = [(2, ranked(200)), (3, ranked(100)), (4, ranked(300))];
    let mut group = Group::new(members, standings, &[]);
    let happened = takeovers(&group.run(4_000));
    assert_eq!(happened.first().map(|(_, target)| *target), Some(2));
}

/// Whoever is to take over must have kept up for two election timeouts in which nothing went on.
#[test]
fn a_change_under_way_makes_the_calm_begin_anew() {
    let standings = [(2, ranked(200)), (3, ranked(100))];
    let mut group = Group::new(voters([1, 2, 3]), standings, &[]);
    group.run(1_000);
    // It will never catch up: node 4 is not there.
    group.node.change(change::add(4));
    assert!(takeovers(&group.run(3_000)).is_empty());
    let token = group.node.token();
    let cancelled = group.node.give(Input::CancelChange { token });
    assert!(cancelled.is_done(token));
    let happened = takeovers(&group.run(4_000));
    let (at, target) = happened[0];
    assert_eq!(target, 2);
    assert!((2_000..=2_300).contains(&at), "{at}");
}

/// A little later than the leader is missed, and before anybody else.
#[test]
fn whoever_goes_first_waits_a_sixteenth_to_five_sixteenths_longer() {
    let spans: Vec<_> = (0..200)
        .map(|seed| {
            let mut node = Solo::seeded(voters([1, 2, 3]), Image::default(), seed);
            let beat = MessageBody::Heartbeat(Heartbeat {
                commit: kontiki_raft::LogIndex(0),
                round: 1,
                horizon: None,
                turn: ElectionTurn::First,
            });
            node.receive(2, 1, beat);
            node.status().timers.election.span
        })
        .collect();
    let (shortest, longest) = (spans.iter().min().unwrap(), spans.iter().max().unwrap());
    let from = ms(1_000) + ms(1_000) / 16;
    assert!((from..from + ms(10)).contains(shortest), "{shortest:?}");
    assert!(
        (from + ms(240)..from + ms(250)).contains(longest),
        "{longest:?}"
    );
}

#[test]
fn an_answer_of_the_leader_is_no_reason_to_hand_over() {
    let standings = [(2, ranked(100)), (3, ranked(100))];
    let mut group = Group::new(voters([1, 2, 3]), standings, &[]);
    assert!(takeovers(&group.run(5_000)).is_empty());
    assert_eq!(
        group
            .node
            .receive(2, 1, say::heartbeat_ack(1))
            .events()
            .len(),
        0
    );
}
