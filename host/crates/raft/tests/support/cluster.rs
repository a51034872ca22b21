//! A cluster of replicas under virtual time.

use super::disk::{Disk, Image};
use super::network::{Envelope, Network};
use super::replica::Replica;
use super::watch::Watch;
use super::{ms, say};
use kontiki_raft::{
    Effect, Input, Instant, LogIndex, MemberSet, NodeId, RejectReason, Settings, SnapshotMeta,
    Token,
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
    pub(super) replicas: BTreeMap<NodeId, Replica>,
    setup: Setup,
    pub(super) watch: Watch,
    pub(super) outcomes: BTreeMap<Token, Outcome>,
    pub(super) inputs: VecDeque<(NodeId, Input)>,
    fetched: Vec<(Instant, NodeId)>,
    pub(super) tokens: u64,
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

    pub(super) fn drain(&mut self) {
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
