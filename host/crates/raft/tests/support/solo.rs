//! One replica whose peers are played by the test.

use super::disk::{Disk, Image, Saved};
use super::{Seen, ms, planted, say, voters};
use bytes::Bytes;
use kontiki_raft::{
    ConfigurationChange, Core, Effect, Effects, EntryKind, Input, Instant, LogIndex, MemberSet,
    Message, MessageBody, NodeId, Proposal, ReadMode, RequestVote, Role, Settings, Status, Term,
    Token,
};
use std::time::Duration;

/// Node 1 of a group; everybody else is the test.
pub(crate) struct Solo {
    pub(crate) core: Core,
    pub(crate) now: Instant,
    disk: Disk,
    peers: Vec<u64>,
    tokens: u64,
}

impl Solo {
    /// Node 1 of `voters` with nothing on disk.
    pub(crate) fn new(members: MemberSet) -> Self {
        Self::open(members, Image::default())
    }

    pub(crate) fn open(members: MemberSet, image: Image) -> Self {
        Self::with(Settings::default(), members, image)
    }

    pub(crate) fn with(settings: Settings, members: MemberSet, image: Image) -> Self {
        Self::restored(settings, members, image, &[])
    }

    /// With another source of randomness.
    pub(crate) fn seeded(members: MemberSet, image: Image, seed: u64) -> Self {
        let mut solo = Self::open(members.clone(), image.clone());
        let recovered = image.recovered(&[]);
        let settings = Settings::default();
        solo.core = planted(Core::new(
            NodeId(1),
            settings,
            members,
            recovered,
            solo.now,
            seed,
        ));
        solo
    }

    /// As [`Self::with`], with snapshots on disk, oldest first.
    pub(crate) fn restored(
        settings: Settings,
        members: MemberSet,
        image: Image,
        snapshots: &[Saved],
    ) -> Self {
        let peers = members
            .voters
            .iter()
            .map(|node| node.0)
            .filter(|&n| n != 1)
            .collect();
        let recovered = image.recovered(snapshots);
        let now = Instant(10_000_000);
        Self {
            core: planted(Core::new(NodeId(1), settings, members, recovered, now, 7)),
            now,
            disk: Disk::holding(image),
            peers,
            tokens: 0,
        }
    }

    /// A leader at `term` whose log holds commands of these terms before its first own entry;
    /// nobody has acknowledged anything yet.
    pub(crate) fn leader(members: MemberSet, term: u64, log: &[u64]) -> Self {
        Self::leader_with(Settings::default(), members, term, log)
    }

    pub(crate) fn leader_with(
        settings: Settings,
        members: MemberSet,
        term: u64,
        log: &[u64],
    ) -> Self {
        let mut solo = Self::with(settings, members, say::image(term - 1, log));
        solo.win();
        assert_eq!((solo.role(), solo.term()), (Role::Leader, term));
        solo
    }

    /// A leader of three at term 1 to which nodes 2 and 3 have acknowledged everything.
    pub(crate) fn settled(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let mut solo = Self::leader_with(settings, voters([1, 2, 3]), 1, &[]);
        solo.settle();
        solo
    }

    /// Orders an election and lets everybody grant it.
    pub(crate) fn win(&mut self) -> Effects {
        let token = self.token();
        let asked = self.give(Input::Campaign { token });
        self.grant_all(&asked)
    }

    /// Every peer that was asked for a vote or pre-vote gives it.
    pub(crate) fn grant_all(&mut self, asked: &[Effect]) -> Effects {
        let mut out = Effects::new();
        let requests: Vec<(u64, RequestVote)> = asked
            .vote_requests()
            .into_iter()
            .map(|(to, r)| (to, r.clone()))
            .collect();
        for (voter, request) in requests {
            if !self.is_leader() {
                let term = self.term();
                out.extend(self.receive(voter, term, say::vote_reply(&request, true)));
            }
        }
        out
    }

    /// Everybody acknowledges the leader's whole log.
    pub(crate) fn ack_all(&mut self) -> Effects {
        let mut out = Effects::new();
        for peer in self.peers.clone() {
            out.extend(self.ack(peer, self.last()));
        }
        out
    }

    /// A peer acknowledges up to `index`, in answer to the leader's probe or stream.
    pub(crate) fn ack(&mut self, peer: u64, index: u64) -> Effects {
        let term = self.term();
        self.receive(peer, term, say::append_ack(1, index))
    }

    pub(crate) fn give(&mut self, input: Input) -> Effects {
        let mut all = Effects::new();
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut effects = Effects::new();
            self.core.handle(self.now, input, &mut effects);
            for effect in &effects {
                self.carry_out(effect);
            }
            all.extend(effects);
            if !self.disk.is_held {
                inputs.extend(self.disk.persist_one().map(|io| Input::Persisted { io }));
            }
        }
        all
    }

    fn carry_out(&mut self, effect: &Effect) {
        match effect {
            Effect::Persist(write) => self.disk.write(write.clone()),
            Effect::CompactLog { upto } => self.disk.compact(*upto),
            _ => {}
        }
    }

    /// From now on writes wait for [`Self::persist`].
    pub(crate) fn hold_disk(&mut self) {
        self.disk.is_held = true;
    }

    /// Completes the oldest write.
    pub(crate) fn persist(&mut self) -> Effects {
        let io = self.disk.persist_one().expect("a write is under way");
        self.give(Input::Persisted { io })
    }

    pub(crate) fn writes_under_way(&self) -> usize {
        self.disk.pending()
    }

    pub(crate) fn receive(&mut self, from: u64, term: u64, body: MessageBody) -> Effects {
        let (from, term) = (NodeId(from), Term(term));
        let message = Message { term, body };
        self.give(Input::Message { from, message })
    }

    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    pub(crate) fn propose(&mut self, text: &'static str) -> (Token, Effects) {
        let token = self.token();
        let kind = EntryKind::Command(Bytes::from_static(text.as_bytes()));
        let proposal = Proposal {
            token,
            expected_term: None,
            time_ns: 0,
            kind,
        };
        let effects = self.give(Input::Propose(vec![proposal]));
        (token, effects)
    }

    /// Orders a change of membership.
    pub(crate) fn change(&mut self, change: ConfigurationChange) -> (Token, Effects) {
        let token = self.token();
        let order = Input::ChangeConfiguration {
            token,
            change,
            expected: None,
        };
        (token, self.give(order))
    }

    pub(crate) fn read(&mut self, mode: ReadMode) -> (Token, Effects) {
        let token = self.token();
        let effects = self.give(Input::ReadIndex { token, mode });
        (token, effects)
    }

    /// Time passes up to the next deadline at most `limit` away; the replica ticks once.
    pub(crate) fn tick_within(&mut self, limit: Duration) -> Option<Effects> {
        let due = self.core.next_deadline()?;
        if due > self.now.plus(limit) {
            self.now = self.now.plus(limit);
            return None;
        }
        self.now = self.now.max(due);
        Some(self.give(Input::Tick))
    }

    /// Time passes, with every tick that is due.
    pub(crate) fn wait(&mut self, span: Duration) -> Effects {
        let end = self.now.plus(span);
        let mut out = Effects::new();
        while let Some(effects) = self.tick_within(end.since(self.now)) {
            out.extend(effects);
        }
        self.now = end;
        out
    }

    /// Waits for the election timeout, and hands over the pre-vote requests.
    pub(crate) fn wait_for_election(&mut self) -> Effects {
        for _ in 0..100 {
            let is_running = self.role() == Role::PreCandidate;
            if let Some(effects) = self.tick_within(ms(10_000))
                && !is_running
                && self.role() == Role::PreCandidate
            {
                return effects;
            }
        }
        panic!("no election within a long time");
    }

    /// Waits for the election timeout and wins the pre-vote: a candidate now.
    pub(crate) fn become_candidate(&mut self) -> Effects {
        let asked = self.wait_for_election();
        assert_eq!(self.role(), Role::PreCandidate);
        let mut out = Effects::new();
        for (voter, request) in asked.vote_requests() {
            if self.role() == Role::PreCandidate {
                let term = self.term();
                out.extend(self.receive(voter, term, say::vote_reply(request, true)));
            }
        }
        assert_eq!(self.role(), Role::Candidate);
        out
    }

    pub(crate) fn status(&self) -> Status {
        self.core.status(self.now)
    }

    pub(crate) fn role(&self) -> Role {
        self.core.role()
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role(), Role::Leader | Role::Transferring)
    }

    pub(crate) fn term(&self) -> u64 {
        self.core.term().0
    }

    pub(crate) fn last(&self) -> u64 {
        self.core.last_log_id().index.0
    }

    pub(crate) fn commit(&self) -> u64 {
        self.core.commit_index().0
    }

    /// Terms of the log as it stands.
    pub(crate) fn log(&self) -> Vec<u64> {
        self.disk.written.terms()
    }

    /// What a crash would leave.
    pub(crate) fn durable(&self) -> &Image {
        &self.disk.durable
    }

    /// The whole group, this node included, has been told of and holds everything.
    pub(crate) fn settle(&mut self) -> Effects {
        let effects = self.ack_all();
        assert_eq!(self.core.commit_index(), LogIndex(self.last()));
        effects
    }

    /// Hears a leader: node `leader` at `term`, whose log ends where this one does.
    pub(crate) fn follow(&mut self, leader: u64, term: u64) -> Effects {
        let last = self.core.last_log_id();
        self.receive(leader, term, say::append(last, &[], 0))
    }

    pub(crate) fn last_id(&self) -> kontiki_raft::LogId {
        self.core.last_log_id()
    }
}
