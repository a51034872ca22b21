//! Making things happen in a cluster: proposals, changes, transfers, elections, snapshots.

use super::cluster::{Cluster, Outcome};
use super::disk::Saved;
use super::ms;
use bytes::Bytes;
use kontiki_raft::{
    ConfigurationChange, EntryKind, Input, LogIndex, MemberSet, Message, MessageBody, NodeId,
    Proposal, ReadMode, Settings, SnapshotMeta, Term, Token, TransferTarget,
};
use std::time::Duration;

impl Cluster {
    pub(crate) fn token(&mut self) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.outcomes.insert(token, Outcome::Pending);
        token
    }

    pub(crate) fn give(&mut self, node: u64, input: Input) {
        self.inputs.push_back((NodeId(node), input));
        self.drain();
    }

    /// Changes settings of a running replica.
    pub(crate) fn set(&mut self, node: u64, change: impl FnOnce(&mut Settings)) -> Token {
        let token = self.token();
        let core = self.replica(node).core.as_ref();
        let mut settings = core.expect("it runs").settings().clone();
        change(&mut settings);
        let settings = settings.into();
        self.give(node, Input::SetSettings { token, settings });
        token
    }

    pub(crate) fn propose(&mut self, node: u64, text: &str) -> Token {
        self.propose_expecting(node, text, None)
    }

    pub(crate) fn propose_expecting(
        &mut self,
        node: u64,
        text: &str,
        expected_term: Option<Term>,
    ) -> Token {
        let token = self.token();
        let kind = EntryKind::Command(Bytes::copy_from_slice(text.as_bytes()));
        let proposal = Proposal {
            token,
            expected_term,
            time_ns: 0,
            kind,
        };
        self.give(node, Input::Propose(vec![proposal]));
        token
    }

    /// Proposes on the leader and waits until it is applied there.
    pub(crate) fn commit(&mut self, text: &str) -> LogIndex {
        let leader = self.await_leader();
        let token = self.propose(leader, text);
        self.wait_for("a command is applied", |c| {
            c.outcome(token) != Outcome::Pending
        });
        match self.outcome(token) {
            Outcome::Applied(index) => index,
            other => panic!("{text} was not applied: {other:?}"),
        }
    }

    pub(crate) fn commit_many(&mut self, count: u64) {
        for number in 0..count {
            self.commit(&format!("command {number}"));
        }
    }

    pub(crate) fn change(&mut self, node: u64, change: ConfigurationChange) -> Token {
        self.change_expecting(node, change, None)
    }

    pub(crate) fn change_expecting(
        &mut self,
        node: u64,
        change: ConfigurationChange,
        expected: Option<MemberSet>,
    ) -> Token {
        let token = self.token();
        self.give(
            node,
            Input::ChangeConfiguration {
                token,
                change,
                expected,
            },
        );
        token
    }

    pub(crate) fn cancel_change(&mut self, node: u64) -> Token {
        let token = self.token();
        self.give(node, Input::CancelChange { token });
        token
    }

    /// Changes the membership through the leader and waits for success.
    pub(crate) fn change_members(&mut self, change: ConfigurationChange) {
        let leader = self.await_leader();
        let token = self.change(leader, change);
        self.wait_for("the change ends", |c| c.outcome(token) != Outcome::Pending);
        assert_eq!(self.outcome(token), Outcome::Done);
    }

    pub(crate) fn transfer(&mut self, node: u64, target: u64) -> Token {
        self.transfer_to(node, TransferTarget::Node(NodeId(target)))
    }

    pub(crate) fn transfer_to(&mut self, node: u64, target: TransferTarget) -> Token {
        let token = self.token();
        self.give(node, Input::TransferLeadership { token, target });
        token
    }

    pub(crate) fn campaign(&mut self, node: u64) -> Token {
        let token = self.token();
        self.give(node, Input::Campaign { token });
        token
    }

    pub(crate) fn read(&mut self, node: u64, mode: ReadMode) -> Token {
        let token = self.token();
        self.give(node, Input::ReadIndex { token, mode });
        token
    }

    /// Forces a membership; what was committed may be lost by it.
    pub(crate) fn reset_peers(&mut self, node: u64, members: MemberSet) -> Token {
        let token = self.token();
        self.watch.forgive_lost_entries();
        self.give(node, Input::ResetPeers { token, members });
        token
    }

    pub(crate) fn receive(&mut self, to: u64, from: u64, term: u64, body: MessageBody) {
        let message = Message {
            term: Term(term),
            body,
        };
        self.network
            .inject(self.now, NodeId(from), NodeId(to), message);
        self.run(Duration::ZERO);
    }

    /// Takes a snapshot of the node's state machine and publishes it.
    pub(crate) fn snapshot(&mut self, node: u64) -> SnapshotMeta {
        let saved = self.replica(node).save();
        let snapshot = saved.meta.clone();
        self.replica(node).disk.publish(saved);
        self.give(
            node,
            Input::SnapshotSaved {
                snapshot: snapshot.clone(),
            },
        );
        snapshot
    }

    /// Two snapshots, so that the log up to the first is compacted away.
    pub(crate) fn compact(&mut self, node: u64) {
        self.snapshot(node);
        self.commit("between two snapshots");
        self.snapshot(node);
        let log_start = self.status(node).log_start;
        assert!(log_start.index.0 > 0, "compacted");
    }

    /// Has this node elected, and waits until its leadership is announced.
    pub(crate) fn elect(&mut self, node: u64) -> u64 {
        self.campaign(node);
        self.wait_for("an ordered election is won", |c| c.leads(node));
        self.run(ms(250));
        assert!(self.leads(node));
        self.term(node)
    }

    /// As [`Self::elect`], over as many attempts as it takes.
    pub(crate) fn elect_again(&mut self, node: u64) {
        for _ in 0..20 {
            if self.leads(node) {
                return;
            }
            self.campaign(node);
            self.run(ms(500));
        }
        panic!("node {node} cannot be elected\n{}", self.describe());
    }

    /// Waits until somebody leads, with `LeaderStarted`, in the highest term.
    pub(crate) fn await_leader(&mut self) -> u64 {
        self.wait_for("somebody leads", |c| c.leader().is_some());
        self.leader().expect("just seen")
    }

    pub(crate) fn await_outcome(&mut self, token: Token) -> Outcome {
        self.wait_for("a request is answered", |c| {
            c.outcome(token) != Outcome::Pending
        });
        self.outcome(token)
    }

    /// Fetching a snapshot ends.
    pub(crate) fn finish_fetch(&mut self, node: u64) {
        let Some((from, snapshot)) = self.replica(node).fetching.clone() else {
            return;
        };
        let input = match self.snapshot_of(from, NodeId(node), &snapshot) {
            Some(saved) => self.replica(node).install(saved),
            None => Input::SnapshotFailed { snapshot },
        };
        self.replica(node).fetching = None;
        self.give(node, input);
    }

    /// Fetching a snapshot fails.
    pub(crate) fn fail_fetch(&mut self, node: u64) {
        let (_, snapshot) = self.replica(node).fetching.take().expect("fetching");
        self.give(node, Input::SnapshotFailed { snapshot });
    }

    fn snapshot_of(&self, from: NodeId, to: NodeId, wanted: &SnapshotMeta) -> Option<Saved> {
        let source = self
            .replicas
            .get(&from)
            .filter(|source| source.core.is_some())?;
        let open = self.network.is_open(from, to) && self.network.is_open(to, from);
        let found = source
            .disk
            .snapshots
            .iter()
            .find(|saved| saved.meta == *wanted);
        found.filter(|_| open).cloned()
    }
}
