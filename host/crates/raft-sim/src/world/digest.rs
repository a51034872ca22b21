//! Inputs and effects as words, for the hash of the trace: two runs with one hash did the same in
//! the same order, whatever it was.

use kontiki_raft::{
    AppendEntries, Effect, Event, HardState, HorizonNews, Input, IoId, LeasePromise, LogId,
    Message, MessageBody, NodeId, Persist, RequestVote, RequestVoteReply,
};
use std::time::Duration;

/// Folds a word into a hash: cheap, and sensitive to order. The trace mixes the result.
fn fold(words: &[u64]) -> u64 {
    words.iter().fold(0, |hash: u64, word| {
        (hash.rotate_left(9) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    })
}

fn id(id: LogId) -> u64 {
    id.index.0 ^ id.term.0 << 40
}

fn node(node: Option<NodeId>) -> u64 {
    node.map_or(0, |node| node.0 + 1)
}

fn io(io: IoId) -> u64 {
    io.sequence << 32 ^ io.last_index.0 ^ io.leader_term.0 << 48
}

/// The word of an input.
pub(super) fn of_input(input: &Input) -> u64 {
    match input {
        Input::Message { from, message } => fold(&[1, from.0, of_message(message)]),
        Input::Tick => 2,
        Input::Persisted { io: of } => fold(&[3, io(*of)]),
        Input::PersistFailed { io: of } => fold(&[4, io(*of)]),
        Input::Applied { index } => fold(&[5, index.0]),
        Input::ApplyFailed { index } => fold(&[6, index.0]),
        Input::Propose(proposals) => {
            let token = proposals.first().map_or(0, |proposal| proposal.token.0);
            fold(&[7, token, proposals.len() as u64])
        }
        Input::ReadIndex { token, .. } => fold(&[8, token.0]),
        Input::EntriesRead { read, result } => {
            let entries = result
                .as_ref()
                .map_or(0, |entries| entries.len() as u64 + 1);
            fold(&[9, read.0, entries])
        }
        Input::SnapshotSaved { snapshot } => fold(&[10, id(snapshot.last_included)]),
        Input::SnapshotInstalled { snapshot } => fold(&[11, id(snapshot.last_included)]),
        Input::SnapshotFailed { snapshot } => fold(&[12, id(snapshot.last_included)]),
        Input::SetReadOnly(read_only) => fold(&[14, u64::from(*read_only)]),
        Input::PeerUnreachable { peer } => fold(&[15, peer.0]),
        Input::Shutdown => 16,
        Input::SetDrained(drained) => fold(&[18, u64::from(*drained)]),
        // Operators' orders are named by their tokens.
        Input::ChangeConfiguration { token, .. }
        | Input::ResetPeers { token, .. }
        | Input::ForgetPeers { token }
        | Input::TransferLeadership { token, .. }
        | Input::Campaign { token }
        | Input::SetTimeouts { token, .. }
        | Input::SetSettings { token, .. }
        | Input::CancelChange { token, .. } => fold(&[17, token.0]),
    }
}

/// The word of an effect.
pub(super) fn of_effect(effect: &Effect) -> u64 {
    match effect {
        Effect::Persist(persist) => fold(&[1, of_persist(persist)]),
        Effect::Send { to, message } => fold(&[2, to.0, of_message(message)]),
        Effect::ReadEntries {
            read, first, last, ..
        } => fold(&[3, read.0, first.0, last.0]),
        Effect::Apply(batch) => {
            let sizes = (batch.entries.len() as u64) << 32 | batch.waiting.len() as u64;
            fold(&[4, batch.first.0, batch.last.0, sizes])
        }
        Effect::FetchSnapshot { from, snapshot } => fold(&[5, from.0, id(snapshot.last_included)]),
        Effect::CompactLog { upto } => fold(&[6, id(*upto)]),
        Effect::Done { token } => fold(&[7, token.0]),
        Effect::Rejected { token, .. } => fold(&[8, token.0]),
        Effect::ReadReady { token, index } => fold(&[9, token.0, index.0]),
        Effect::Event(event) => fold(&[10, of_event(event)]),
    }
}

fn of_hard_state(state: HardState) -> u64 {
    fold(&[state.term.0, node(state.voted_for)])
}

fn of_persist(persist: &Persist) -> u64 {
    let last = persist.entries.last();
    fold(&[
        io(persist.io),
        persist.hard_state.map_or(0, of_hard_state),
        persist.reset_log.map_or(0, id),
        persist.truncate_from.map_or(0, |from| from.0),
        persist.entries.len() as u64,
        last.map_or(0, |entry| id(entry.id) ^ entry.time_ns.rotate_left(20)),
    ])
}

fn of_message(message: &Message) -> u64 {
    let body = match &message.body {
        MessageBody::RequestVote(request) => of_request(request),
        MessageBody::RequestVoteReply(reply) => of_vote(reply),
        MessageBody::AppendEntries(append) => of_append(append),
        MessageBody::AppendEntriesReply(reply) => {
            let conflict = reply.conflict.map_or(0, |hint| id(hint) + 1);
            let read_only = u64::from(reply.read_only);
            let promise = of_promise(reply.promise);
            fold(&[
                4,
                reply.sequence,
                reply.index.0,
                conflict,
                read_only,
                promise,
            ])
        }
        MessageBody::Heartbeat(heartbeat) => {
            let horizon = heartbeat.horizon.map_or(0, of_horizon);
            let turn = heartbeat.turn as u64;
            fold(&[5, heartbeat.round, heartbeat.commit.0, horizon, turn])
        }
        MessageBody::HeartbeatReply(reply) => {
            let echo = reply.echo.map_or(0, |echo| echo.incarnation ^ echo.at.0);
            let read_only = u64::from(reply.read_only);
            let standing =
                u64::from(reply.standing.priority) << 1 | u64::from(reply.standing.drained);
            let promise = of_promise(reply.promise);
            fold(&[6, reply.round, read_only, echo, promise, standing])
        }
        MessageBody::InstallSnapshot(install) => fold(&[7, id(install.snapshot.last_included)]),
        MessageBody::InstallSnapshotReply(reply) => {
            fold(&[8, id(reply.last_included), u64::from(reply.installed)])
        }
        MessageBody::TimeoutNow(order) => fold(&[9, u64::from(order.leader_stepped_down)]),
        MessageBody::ReadIndexRequest(request) => fold(&[10, request.token.0]),
        MessageBody::ReadIndexReply(reply) => {
            let index = reply.index.map_or(0, |index| index.0 + 1);
            fold(&[11, reply.token.0, index])
        }
    };
    fold(&[message.term.0, body])
}

fn of_promise(promise: Option<LeasePromise>) -> u64 {
    let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    promise.map_or(0, |promise| {
        fold(&[micros(promise.span), micros(promise.drift)])
    })
}

fn of_horizon(news: HorizonNews) -> u64 {
    let age = u64::try_from(news.age.as_micros()).unwrap_or(u64::MAX);
    fold(&[news.commit.0, age, news.echo.incarnation ^ news.echo.at.0])
}

fn of_request(request: &RequestVote) -> u64 {
    let kind = u64::from(request.pre_vote) << 8 | u64::from(request.forced);
    fold(&[1, kind, request.round, id(request.last)])
}

fn of_vote(reply: &RequestVoteReply) -> u64 {
    let kind = u64::from(reply.pre_vote) << 8 | u64::from(reply.rejected_by_lease);
    fold(&[2, kind, reply.round, u64::from(reply.granted)])
}

fn of_append(append: &AppendEntries) -> u64 {
    let last = append.entries.last().map_or(append.prev, |entry| entry.id);
    fold(&[
        3,
        id(append.prev),
        id(last),
        append.commit.0,
        append.sequence,
    ])
}

fn of_event(event: &Event) -> u64 {
    match event {
        Event::LeaderStarted { term, lease_epoch } => fold(&[1, term.0, *lease_epoch]),
        Event::LeaderStopped { term, reason } => fold(&[2, term.0, *reason as u64]),
        Event::StartedFollowing { leader, term } => fold(&[3, leader.0, term.0]),
        Event::StoppedFollowing { leader, term, .. } => fold(&[4, leader.0, term.0]),
        Event::ConfigurationCommitted { index, .. } => fold(&[5, index.0]),
        Event::SecondLeader { other, term } => fold(&[6, other.0, term.0]),
        Event::Conflict { from, index } => fold(&[7, from.0, index.0]),
        Event::Removed => 8,
        Event::Failed { .. } => 9,
        Event::TakeoverStarted { target, term } => fold(&[10, target.0, term.0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_raft::{HeartbeatReply, LogIndex, Standing, Term};

    fn reply(term: u64, round: u64) -> Effect {
        let body = MessageBody::HeartbeatReply(HeartbeatReply {
            round,
            read_only: false,
            echo: None,
            promise: None,
            standing: Standing::default(),
        });
        let term = Term(term);
        Effect::Send {
            to: NodeId(2),
            message: Message { term, body },
        }
    }

    #[test]
    fn what_differs_in_content_differs_in_its_word() {
        assert_eq!(of_effect(&reply(1, 1)), of_effect(&reply(1, 1)));
        assert_ne!(of_effect(&reply(1, 1)), of_effect(&reply(1, 2)));
        assert_ne!(of_effect(&reply(1, 2)), of_effect(&reply(2, 1)));
    }

    #[test]
    fn writes_differ_by_number_and_by_what_they_cut() {
        let write = |sequence, from: Option<u64>| {
            let io = IoId {
                sequence,
                leader_term: Term(1),
                last_index: LogIndex(4),
            };
            of_effect(&Effect::Persist(Persist {
                io,
                truncate_from: from.map(LogIndex),
                ..Persist::default()
            }))
        };
        assert_ne!(write(1, None), write(2, None));
        assert_ne!(write(1, None), write(1, Some(3)));
    }
}
