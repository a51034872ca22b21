//! A cluster of replicas under virtual time.

use super::disk::{Disk, Image, Saved};
use super::network::{Envelope, Network};
use super::replica::Replica;
use super::watch::Watch;
use super::{ms, say};
use bytes::Bytes;
use kontiki_raft::{
    ConfigurationChange, Effect, EntryKind, Event, Input, Instant, LogIndex, MemberSet, Message,
    MessageBody, NodeId, PeerStatus, Proposal, ReadMode, RejectReason, Role, Settings,
    SnapshotMeta, Status, StopReason, Term, Token, TransferTarget,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long a scenario waits for something before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pending,
    Done,
    Applied(LogIndex),
    ReadAt(LogIndex),
    Rejected(RejectReason),
}

/// What a cluster is made of.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) members: MemberSet,
    pub(crate) settings: Settings,
}

impl Setup {
    pub(crate) fn voters<const N: usize>(ids: [u64; N]) -> Self {
        Self {
            members: say::voters(ids),
            settings: Settings::default(),
        }
    }

    pub(crate) fn learners(mut self, ids: &[u64]) -> Self {
        self.members.learners = ids.iter().copied().map(NodeId).collect();
        self
    }

    /// Leader leases on, with a drift of `drift_ms`.
    pub(crate) fn leases(mut self, drift_ms: u64) -> Self {
        self.settings.leader_lease = true;
        self.settings.max_clock_drift = ms(drift_ms);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub(crate) fn start(self) -> Cluster {
        let mut cluster = Cluster::empty(self.clone());
        for node in self.members.voters.iter().chain(&self.members.learners) {
            cluster.start_node(node.0, self.members.clone(), Image::default());
        }
        cluster
    }
}

/// Several replicas, their network, and what they answered.
pub(crate) struct Cluster {
    pub(crate) now: Instant,
    pub(crate) network: Network,
    replicas: BTreeMap<NodeId, Replica>,
    setup: Setup,
    watch: Watch,
    outcomes: BTreeMap<Token, Outcome>,
    inputs: VecDeque<(NodeId, Input)>,
    fetched: Vec<(Instant, NodeId)>,
    tokens: u64,
    steps_at_once: u32,
}

// Making and breaking.
impl Cluster {
    /// Nodes `1..=n`, all voters, default settings, nobody leads.
    pub(crate) fn of(n: u64) -> Self {
        let mut setup = Setup::voters([]);
        setup.members = MemberSet::of_voters((1..=n).map(NodeId));
        setup.start()
    }

    /// As [`Self::of`], with node 1 leading and everybody up to date.
    pub(crate) fn led_by_1_of(n: u64) -> Self {
        let mut cluster = Self::of(n);
        cluster.elect(1);
        cluster
    }

    pub(crate) fn empty(setup: Setup) -> Self {
        Self {
            now: Instant(1_000_000),
            network: Network::new(),
            replicas: BTreeMap::new(),
            setup,
            watch: Watch::default(),
            outcomes: BTreeMap::new(),
            inputs: VecDeque::new(),
            fetched: Vec::new(),
            tokens: 0,
            steps_at_once: 0,
        }
    }

    /// Starts a node with this disk; `initial` counts only if the disk knows no membership.
    pub(crate) fn start_node(&mut self, node: u64, initial: MemberSet, image: Image) {
        let id = NodeId(node);
        let settings = self.setup.settings.clone();
        let mut replica = Replica::new(id, settings, initial, Disk::holding(image));
        replica.start(self.now);
        self.replicas.insert(id, replica);
    }

    /// Starts a node that knows nothing and waits to be added.
    pub(crate) fn start_blank(&mut self, node: u64) {
        self.start_node(node, MemberSet::default(), Image::default());
    }

    /// Power is lost: what is not durable is gone.
    pub(crate) fn crash(&mut self, node: u64) {
        let id = NodeId(node);
        self.replica(node).crash();
        self.inputs.retain(|(to, _)| *to != id);
        self.fetched.retain(|(_, to)| *to != id);
    }

    pub(crate) fn restart(&mut self, node: u64) {
        let now = self.now;
        self.replica(node).start(now);
        self.give(node, Input::Tick);
    }

    /// An orderly end; requests are answered, the leader hands over.
    pub(crate) fn shut_down(&mut self, node: u64) {
        self.give(node, Input::Shutdown);
        self.crash(node);
    }

    pub(crate) fn replica(&mut self, node: u64) -> &mut Replica {
        self.replicas.get_mut(&NodeId(node)).expect("a known node")
    }

    pub(crate) fn nodes(&self) -> Vec<u64> {
        self.replicas.keys().map(|id| id.0).collect()
    }

    pub(crate) fn is_up(&self, node: u64) -> bool {
        self.replicas[&NodeId(node)].core.is_some()
    }

    /// Cuts every link of `node`, both ways.
    pub(crate) fn isolate(&mut self, node: u64) {
        for other in self.nodes().into_iter().filter(|&other| other != node) {
            self.cut(node, other);
        }
    }

    /// Cuts the links between two nodes, both ways.
    pub(crate) fn cut(&mut self, a: u64, b: u64) {
        self.network.cut(NodeId(a), NodeId(b));
        self.network.cut(NodeId(b), NodeId(a));
    }

    /// Cuts one direction only.
    pub(crate) fn cut_one_way(&mut self, from: u64, to: u64) {
        self.network.cut(NodeId(from), NodeId(to));
    }

    /// Nodes on different sides do not hear each other.
    pub(crate) fn partition(&mut self, one: &[u64], other: &[u64]) {
        for &a in one {
            for &b in other {
                self.cut(a, b);
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.network.heal();
    }

    /// From now on messages that fit are lost.
    pub(crate) fn drop_messages(&mut self, fits: impl FnMut(&Envelope) -> bool + 'static) {
        self.network.drop_if(Some(Box::new(fits)));
    }

    pub(crate) fn drop_nothing(&mut self) {
        self.network.drop_if(None);
    }

    /// From now on messages that fit are kept back until [`Self::release_messages`].
    pub(crate) fn hold_messages(&mut self, fits: impl FnMut(&Envelope) -> bool + 'static) {
        self.network.hold_if(Some(Box::new(fits)));
    }

    pub(crate) fn release_messages(&mut self) {
        self.network.hold_if(None);
        self.network.release(self.now);
    }

    pub(crate) fn hold_disk(&mut self, node: u64) {
        self.replica(node).disk.is_held = true;
    }

    /// Completes every write under way, and later ones at once.
    pub(crate) fn release_disk(&mut self, node: u64) {
        self.replica(node).disk.is_held = false;
        self.persist_all(node);
    }

    fn persist_all(&mut self, node: u64) {
        while let Some(io) = self.replica(node).disk.persist_one() {
            self.give(node, Input::Persisted { io });
        }
    }

    pub(crate) fn hold_apply(&mut self, node: u64) {
        self.replica(node).apply_is_held = true;
    }

    pub(crate) fn release_apply(&mut self, node: u64) {
        self.replica(node).apply_is_held = false;
        self.apply_waiting(NodeId(node));
        self.drain();
    }

    /// The node's clock runs at this speed from the start of time.
    pub(crate) fn clock_percent(&mut self, node: u64, percent: u64) {
        self.replica(node).clock_percent = percent;
    }
}

// Making things happen.
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

// Time.
impl Cluster {
    /// Lets time pass, with everything that happens in it.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.plus(span);
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until something holds; a scenario that waits too long fails.
    pub(crate) fn wait_for(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = self.now.plus(PATIENCE);
        while !holds(self) {
            assert!(
                self.step(end),
                "waited too long until {what}\n{}",
                self.describe()
            );
        }
    }

    /// The next thing that happens up to `end`; false if nothing does.
    fn step(&mut self, end: Instant) -> bool {
        let deadlines = self.replicas.values().filter_map(Replica::next_deadline);
        let fetches = self.fetched.iter().map(|(at, _)| *at);
        let next = deadlines
            .chain(fetches)
            .chain(self.network.next_due())
            .min();
        let Some(next) = next.filter(|&next| next <= end) else {
            return false;
        };
        self.steps_at_once = if next > self.now {
            0
        } else {
            self.steps_at_once + 1
        };
        assert!(self.steps_at_once < 100_000, "spins\n{}", self.describe());
        self.now = self.now.max(next);
        self.happen();
        true
    }

    fn happen(&mut self) {
        if let Some(envelope) = self.network.take_due(self.now) {
            return self.deliver(envelope);
        }
        if let Some(at) = self.fetched.iter().position(|(due, _)| *due <= self.now) {
            let (_, node) = self.fetched.remove(at);
            return self.finish_fetch(node.0);
        }
        let now = self.now;
        let due = |r: &&Replica| r.next_deadline().is_some_and(|at| at <= now);
        if let Some(node) = self.replicas.values().find(due).map(|r| r.id.0) {
            self.give(node, Input::Tick);
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let is_up = self
            .replicas
            .get(&envelope.to)
            .is_some_and(|r| r.core.is_some());
        if is_up && !self.network.is_cut(&envelope) {
            let Envelope {
                from, to, message, ..
            } = envelope;
            self.give(to.0, Input::Message { from, message });
        }
    }

    fn drain(&mut self) {
        while let Some((node, input)) = self.inputs.pop_front() {
            let Some(replica) = self.replicas.get_mut(&node) else {
                continue;
            };
            let effects = replica.handle(self.now, input);
            for effect in effects {
                self.carry_out(node, effect);
            }
            self.complete_writes(node);
            self.apply_waiting(node);
            self.look(node);
        }
    }

    fn complete_writes(&mut self, node: NodeId) {
        let disk = &mut self.replica(node.0).disk;
        let io = if disk.is_held {
            None
        } else {
            disk.persist_one()
        };
        if let Some(io) = io {
            self.inputs.push_back((node, Input::Persisted { io }));
        }
    }

    fn apply_waiting(&mut self, node: NodeId) {
        while !self.replica(node.0).apply_is_held {
            let Some(batch) = self.replica(node.0).apply_one() else {
                return;
            };
            self.watch.applied(&batch.entries);
            for (index, token) in batch.waiting {
                self.answer(token, Outcome::Applied(index));
            }
            let index = batch.last;
            self.inputs.push_back((node, Input::Applied { index }));
        }
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::Persist(write) => self.replica(node.0).disk.write(write),
            Effect::Send { to, message } => self.network.send(self.now, node, to, message),
            Effect::ReadEntries { .. } => {
                let input = self.replica(node.0).read(&effect);
                self.inputs.extend(input.map(|input| (node, input)));
            }
            Effect::Apply(batch) => self.replica(node.0).to_apply.push_back(batch),
            Effect::FetchSnapshot { from, snapshot } => self.fetch(node, from, snapshot),
            Effect::CompactLog { upto } => self.replica(node.0).disk.compact(upto),
            Effect::Done { token } => self.answer(token, Outcome::Done),
            Effect::Rejected { token, reason } => self.answer(token, Outcome::Rejected(reason)),
            Effect::ReadReady { token, index } => self.answer(token, Outcome::ReadAt(index)),
            Effect::Event(event) => self.replica(node.0).events.push(event),
        }
    }

    fn fetch(&mut self, node: NodeId, from: NodeId, snapshot: SnapshotMeta) {
        self.replica(node.0).fetching = Some((from, snapshot));
        if !self.replica(node.0).fetch_is_held {
            self.fetched.retain(|(_, to)| *to != node);
            self.fetched.push((self.now.plus(ms(20)), node));
        }
    }

    fn answer(&mut self, token: Token, outcome: Outcome) {
        self.watch.answered(token);
        self.outcomes.insert(token, outcome);
    }

    fn look(&mut self, node: NodeId) {
        let replica = &self.replicas[&node];
        let Some(core) = &replica.core else { return };
        self.watch.role(node, core.role(), core.term());
        self.watch.status(&core.status(replica.local(self.now)));
    }
}

// Looking.
impl Cluster {
    pub(crate) fn status(&self, node: u64) -> Status {
        let replica = &self.replicas[&NodeId(node)];
        let core = replica.core.as_ref().expect("a running node");
        core.status(replica.local(self.now))
    }

    pub(crate) fn role(&self, node: u64) -> Role {
        self.status(node).role
    }

    pub(crate) fn term(&self, node: u64) -> u64 {
        self.status(node).term.0
    }

    pub(crate) fn last(&self, node: u64) -> u64 {
        self.status(node).last.index.0
    }

    pub(crate) fn commit_index(&self, node: u64) -> u64 {
        self.status(node).commit_index.0
    }

    pub(crate) fn outcome(&self, token: Token) -> Outcome {
        self.outcomes[&token].clone()
    }

    pub(crate) fn events(&self, node: u64) -> &[Event] {
        &self.replicas[&NodeId(node)].events
    }

    pub(crate) fn commands(&self, node: u64) -> &[String] {
        &self.replicas[&NodeId(node)].commands
    }

    pub(crate) fn image(&self, node: u64) -> &Image {
        &self.replicas[&NodeId(node)].disk.durable
    }

    /// Whether the node leads and has announced it.
    pub(crate) fn leads(&self, node: u64) -> bool {
        let started = |event: &&Event| {
            matches!(
                event,
                Event::LeaderStarted { .. } | Event::LeaderStopped { .. }
            )
        };
        let last = self.events(node).iter().rev().find(started);
        self.is_up(node)
            && self.role(node) == Role::Leader
            && matches!(last, Some(Event::LeaderStarted { .. }))
    }

    /// The announced leader with the highest term of all running nodes.
    pub(crate) fn leader(&self) -> Option<u64> {
        let up = || self.nodes().into_iter().filter(|&node| self.is_up(node));
        let leader = up()
            .filter(|&node| self.leads(node))
            .max_by_key(|&node| self.term(node))?;
        Some(leader)
    }

    pub(crate) fn peer(&self, leader: u64, node: u64) -> PeerStatus {
        let peers = self.status(leader).peers;
        peers
            .into_iter()
            .find(|peer| peer.node == NodeId(node))
            .expect("a peer")
    }

    pub(crate) fn is_member(&self, at: u64, node: u64) -> bool {
        self.status(at).configuration.current.contains(NodeId(node))
    }

    /// Starts and stops of leadership at a node, oldest first.
    pub(crate) fn leaderships(&self, node: u64) -> Vec<(u64, Option<StopReason>)> {
        let one = |event: &Event| match *event {
            Event::LeaderStarted { term, .. } => Some((term.0, None)),
            Event::LeaderStopped { term, reason } => Some((term.0, Some(reason))),
            _ => None,
        };
        self.events(node).iter().filter_map(one).collect()
    }

    /// Waits until these nodes have applied the same, and everything the leader committed.
    pub(crate) fn await_agreement(&mut self, nodes: &[u64]) {
        let leader = self.await_leader();
        let nodes = nodes.to_vec();
        self.wait_for("all hold the same", |c| {
            let target = c.commit_index(leader);
            nodes
                .iter()
                .all(|&n| c.is_up(n) && c.replicas[&NodeId(n)].applied.0 == target)
        });
        for &node in &nodes {
            assert_eq!(self.commands(node), self.commands(leader), "node {node}");
        }
    }

    /// Counts messages sent so far that fit.
    pub(crate) fn sent(&self, fits: impl Fn(&Envelope) -> bool) -> usize {
        self.network
            .sent
            .iter()
            .filter(|envelope| fits(envelope))
            .count()
    }

    pub(crate) fn describe(&self) -> String {
        let up = self.nodes().into_iter().filter(|&node| self.is_up(node));
        let lines = up.map(|node| {
            let s = self.status(node);
            format!(
                "node {node}: {:?} term {} leader {:?} last {} commit {} {}\n",
                s.role, s.term, s.leader, s.last, s.commit_index, s.change_stage
            )
        });
        format!("at {} us\n{}", self.now.0, lines.collect::<String>())
    }
}
