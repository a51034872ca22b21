//! Writes under way, and what waits for them.
//!
//! Everything one input causes goes into one staged write, issued when the input is handled. The
//! writes of a group form one ordered stream; a completion stands for every earlier write too.

use crate::{Effect, Effects, HardState, Instant, IoId, LogIndex, MessageBody, Persist, Term};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// Effects held back before messages are dropped.
const HELD_MAX: usize = 16_384;

/// Writes that are staged or under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// Sequence number of the last write issued.
    issued: u64,
    /// Sequence number of the last write known to be durable.
    done: u64,
    staged: Persist,
    has_staged: bool,
    pending: VecDeque<Write>,
    /// Effects that wait until a write is durable, in the order in which they were pushed.
    held: Vec<(u64, Effect)>,
    /// The write that holds the present term, vote and longest promise.
    hard_state: u64,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    io: IoId,
    /// The log as it stands in memory is durable up to here when this write is. A later truncation
    /// lowers it, so a late completion cannot vouch for what was written anew (trap 22).
    valid_upto: LogIndex,
    issued: Instant,
}

impl Disk {
    /// The write being gathered, which will be issued under [`Self::staged_sequence`].
    pub(crate) fn stage(&mut self) -> &mut Persist {
        self.has_staged = true;
        &mut self.staged
    }

    pub(crate) fn stage_hard_state(&mut self, hard_state: HardState) {
        self.stage().hard_state = Some(hard_state);
        self.hard_state = self.staged_sequence();
    }

    /// Records the longest span promised; what promises it waits as for term and vote.
    pub(crate) fn stage_promise(&mut self, span: Duration) {
        self.stage().promised_span = Some(span);
        self.hard_state = self.staged_sequence();
    }

    pub(crate) fn has_staged(&self) -> bool {
        self.has_staged
    }

    /// A write cuts the log before it appends, so entries staged before a cut would come back. No
    /// input does both in that order.
    pub(crate) fn assert_no_staged_entries(&self) {
        debug_assert!(self.staged.entries.is_empty(), "cut after an append");
    }

    pub(crate) fn staged_sequence(&self) -> u64 {
        self.issued + 1
    }

    /// Issues the staged write. `last` is the last index in memory.
    pub(crate) fn flush(
        &mut self,
        now: Instant,
        leader_term: Term,
        last: LogIndex,
        out: &mut Effects,
    ) {
        if !self.has_staged {
            return;
        }
        self.has_staged = false;
        self.issued += 1;
        let io = IoId {
            sequence: self.issued,
            leader_term,
            last_index: last,
        };
        let mut persist = core::mem::take(&mut self.staged);
        persist.io = io;
        self.pending.push_back(Write {
            io,
            valid_upto: last,
            issued: now,
        });
        out.push(Effect::Persist(persist));
    }

    /// Takes note of a completion and says up to where the log is durable by it. Nothing for a
    /// write that was never issued or is settled already.
    pub(crate) fn complete(&mut self, io: IoId) -> Option<LogIndex> {
        let at = self.pending.iter().position(|write| write.io == io)?;
        let mut durable = LogIndex(0);
        for write in self.pending.drain(..=at) {
            durable = durable.max(write.valid_upto);
        }
        self.done = io.sequence;
        Some(durable)
    }

    /// The log was cut: writes under way vouch for nothing from `from` on.
    pub(crate) fn truncated(&mut self, from: LogIndex) {
        for write in &mut self.pending {
            write.valid_upto = write.valid_upto.min(from.prev());
        }
    }

    /// Holds `effect` back until write `sequence` is durable. While a disk hangs, messages beyond
    /// a bound are lost instead, as on a network.
    pub(crate) fn hold(&mut self, sequence: u64, effect: Effect, out: &mut Effects) {
        if sequence <= self.done {
            out.push(effect);
        } else if self.held.len() < HELD_MAX || !matches!(effect, Effect::Send { .. }) {
            self.held.push((sequence, effect));
        }
    }

    /// Releases what waited for the writes that are durable now.
    pub(crate) fn release(&mut self, out: &mut Effects) {
        if self.held.is_empty() {
            return;
        }
        let done = self.done;
        let due = self.held.extract_if(.., |(sequence, _)| *sequence <= done);
        out.extend(due.map(|(_, effect)| effect));
    }

    /// Forgets held messages: they speak for a term, or a log, that is over.
    pub(crate) fn drop_held_messages(&mut self) {
        self.held
            .retain(|(_, effect)| !matches!(effect, Effect::Send { .. }));
    }

    /// As [`Self::drop_held_messages`], but only requests for votes that nobody ordered.
    pub(crate) fn drop_held_vote_requests(&mut self) {
        let is_request = |effect: &Effect| match effect {
            Effect::Send { message, .. } => {
                matches!(&message.body, MessageBody::RequestVote(request) if !request.forced)
            }
            _ => false,
        };
        self.held.retain(|(_, effect)| !is_request(effect));
    }

    /// Hands out everything held but messages, for a replica that stops. Answers to others are kept
    /// if `keep_answers`; nothing is asked any more.
    pub(crate) fn take_held(&mut self, keep_answers: bool) -> Vec<Effect> {
        let is_answer = |effect: &Effect| match effect {
            Effect::Send { message, .. } => !matches!(message.body, MessageBody::RequestVote(_)),
            _ => false,
        };
        let held = core::mem::take(&mut self.held);
        let (kept, rest): (Vec<_>, Vec<_>) = held
            .into_iter()
            .partition(|(_, effect)| keep_answers && is_answer(effect));
        self.held = kept;
        rest.into_iter().map(|(_, effect)| effect).collect()
    }

    /// The write that makes the log durable up to `index`; `index` is in memory but not durable.
    pub(crate) fn write_covering(&self, index: LogIndex) -> u64 {
        self.pending
            .iter()
            .find(|write| write.valid_upto >= index)
            .map_or(self.staged_sequence(), |write| write.io.sequence)
    }

    /// The write that holds the present term, vote and longest promise.
    pub(crate) fn hard_state_sequence(&self) -> u64 {
        self.hard_state
    }

    /// Whether messages wait for a write.
    pub(crate) fn holds_messages(&self) -> bool {
        let is_message = |(_, effect): &(u64, Effect)| matches!(effect, Effect::Send { .. });
        self.held.iter().any(is_message)
    }

    /// For a planted fault: nothing waits for term and vote any more.
    pub(crate) fn forget_hard_state_wait(&mut self) {
        self.hard_state = 0;
    }

    pub(crate) fn is_durable(&self, sequence: u64) -> bool {
        sequence <= self.done
    }

    /// Writes under way.
    pub(crate) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// When the oldest write under way was issued.
    pub(crate) fn oldest_issued(&self) -> Option<Instant> {
        self.pending.front().map(|write| write.issued)
    }

    /// Whether write `io` was issued and is not settled.
    pub(crate) fn is_pending(&self, io: IoId) -> bool {
        self.pending.iter().any(|write| write.io == io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogId, Message, NodeId, RequestVote, TimeoutNow, Token};

    fn write(disk: &mut Disk, last: u64) -> IoId {
        let mut out = Effects::new();
        disk.stage();
        disk.flush(Instant(0), Term(1), LogIndex(last), &mut out);
        match out.pop() {
            Some(Effect::Persist(persist)) => persist.io,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_completion_stands_for_every_earlier_write() {
        let mut disk = Disk::default();
        let first = write(&mut disk, 3);
        let second = write(&mut disk, 5);
        let mut out = Effects::new();
        disk.hold(first.sequence, Effect::Done { token: Token(1) }, &mut out);
        assert!(out.is_empty());
        assert_eq!(disk.complete(second), Some(LogIndex(5)));
        disk.release(&mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(disk.complete(first), None);
    }

    #[test]
    fn a_late_completion_does_not_vouch_for_what_was_cut() {
        let mut disk = Disk::default();
        let first = write(&mut disk, 9);
        disk.truncated(LogIndex(4));
        let second = write(&mut disk, 9);
        assert_eq!(disk.complete(first), Some(LogIndex(3)));
        assert_eq!(disk.complete(second), Some(LogIndex(9)));
    }

    #[test]
    fn an_unknown_completion_is_ignored() {
        let mut disk = Disk::default();
        let mut io = write(&mut disk, 9);
        io.leader_term = Term(7);
        assert_eq!(disk.complete(io), None);
    }

    fn message(body: MessageBody) -> Effect {
        Effect::Send {
            to: NodeId(2),
            message: Message {
                term: Term(1),
                body,
            },
        }
    }

    fn vote_request(forced: bool) -> Effect {
        message(MessageBody::RequestVote(RequestVote {
            pre_vote: false,
            last: LogId::default(),
            round: 1,
            forced,
            disrupted_leader: None,
            priority: 100,
            applied: None,
        }))
    }

    fn order() -> Effect {
        message(MessageBody::TimeoutNow(TimeoutNow {
            leader_stepped_down: false,
        }))
    }

    fn held(disk: &mut Disk, effects: impl IntoIterator<Item = Effect>) -> IoId {
        let io = write(disk, 1);
        let mut out = Effects::new();
        for effect in effects {
            disk.hold(io.sequence, effect, &mut out);
        }
        assert!(out.is_empty());
        io
    }

    fn released(disk: &mut Disk, io: IoId) -> Effects {
        let mut out = Effects::new();
        disk.complete(io);
        disk.release(&mut out);
        out
    }

    #[test]
    fn a_hanging_disk_holds_boundedly_many_messages_but_loses_no_answer() {
        let mut disk = Disk::default();
        let many = core::iter::repeat_with(order).take(HELD_MAX + 3);
        let io = held(&mut disk, many);
        let mut out = Effects::new();
        disk.hold(io.sequence, Effect::Done { token: Token(1) }, &mut out);
        let out = released(&mut disk, io);
        assert_eq!(out.len(), HELD_MAX + 1);
        assert_eq!(out.last(), Some(&Effect::Done { token: Token(1) }));
    }

    #[test]
    fn only_requests_for_votes_that_nobody_ordered_are_forgotten() {
        let mut disk = Disk::default();
        let done = Effect::Done { token: Token(1) };
        let effects = [vote_request(false), vote_request(true), order(), done];
        let io = held(&mut disk, effects.clone());
        disk.drop_held_vote_requests();
        assert_eq!(released(&mut disk, io), effects[1..]);
    }

    #[test]
    fn messages_that_wait_are_told_from_other_effects() {
        let mut disk = Disk::default();
        assert!(!disk.holds_messages());
        held(&mut disk, [Effect::Done { token: Token(1) }]);
        assert!(!disk.holds_messages());
        held(&mut disk, [order()]);
        assert!(disk.holds_messages());
    }
}
