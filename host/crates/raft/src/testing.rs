//! A small cluster in one thread for unit tests: messages are delivered at once unless a link is
//! cut, writes complete at once unless a disk is held.

use crate::random::Random;
use crate::{
    Configuration, ConfigurationChange, Core, Effect, Effects, Entry, EntryKind, Event, HardState,
    Horizon, Horizons, Input, Instant, IoId, LogId, LogIndex, MemberSet, Message, MessageBody,
    NodeId, Persist, Proposal, ReadMode, Recovered, RejectReason, Role, Settings, SnapshotMeta,
    TermStart, Token,
};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

/// What is on one node's disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskImage {
    pub(crate) hard_state: HardState,
    pub(crate) start: LogId,
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: Option<SnapshotMeta>,
    pub(crate) previous: Option<LogId>,
    pub(crate) forced: Option<(LogIndex, Configuration)>,
    pub(crate) promised_span: Option<Duration>,
}

impl DiskImage {
    fn write(&mut self, persist: &Persist) {
        if let Some(hard_state) = persist.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "terms never fall");
            self.hard_state = hard_state;
        }
        if let Some(span) = persist.promised_span {
            self.promised_span = Some(span);
        }
        if let Some(start) = persist.reset_log {
            self.start = start;
            self.entries.clear();
        }
        if let Some(from) = persist.truncate_from {
            self.entries.retain(|entry| entry.id.index < from);
        }
        for entry in &persist.entries {
            let last = self.entries.last().map_or(self.start, |entry| entry.id);
            assert_eq!(entry.id.index, last.index.next(), "no hole on disk");
            self.entries.push(entry.clone());
        }
        if let Some(forced) = &persist.forced_configuration {
            self.forced = Some(forced.clone());
        }
    }

    pub(crate) fn recovered(&self) -> Recovered {
        let mut terms: Vec<TermStart> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|run| run.term != entry.id.term) {
                terms.push(TermStart {
                    index: entry.id.index,
                    term: entry.id.term,
                });
            }
        }
        let configurations = self.entries.iter().filter_map(|entry| match &entry.kind {
            EntryKind::Configuration(c) => Some((entry.id.index, c.as_ref().clone())),
            _ => None,
        });
        let snapshot_index = self.snapshot.as_ref().map(|s| s.last_included.index);
        Recovered {
            hard_state: self.hard_state,
            log_start: self.start,
            last: self.entries.last().map_or(self.start, |entry| entry.id),
            terms,
            configurations: configurations.collect(),
            snapshot: self.snapshot.clone(),
            previous_snapshot: self.previous,
            forced_configuration: self.forced.clone(),
            promised_span: self.promised_span,
            tail: self.entries.clone(),
            applied: snapshot_index.unwrap_or_default(),
        }
    }
}

/// One replica with its disk and what it reported.
pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) disk: DiskImage,
    writes: VecDeque<Persist>,
    pub(crate) hold_disk: bool,
    pub(crate) hold_apply: bool,
    pub(crate) fail_fetch: bool,
    /// Handles nothing; what comes for it is kept.
    pub(crate) asleep: bool,
    kept: Vec<Input>,
    /// Heartbeats to it are lost.
    pub(crate) deaf_to_heartbeats: bool,
    pub(crate) applied: Vec<Entry>,
    pub(crate) answered: Vec<Token>,
    pub(crate) done: Vec<Token>,
    pub(crate) rejected: Vec<(Token, RejectReason)>,
    pub(crate) reads: Vec<(Token, LogIndex)>,
    pub(crate) events: Vec<Event>,
    pub(crate) fetches: usize,
    pub(crate) horizons: Horizons,
}

pub(crate) struct Cluster {
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) settings: Settings,
    /// One-way links that lose everything.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    wire: VecDeque<(u64, u64, Message)>,
    follow_ups: VecDeque<(u64, Input)>,
    next_token: u64,
    /// Heartbeats sent so far.
    pub(crate) heartbeats: usize,
    /// Entries sent so far, by receiver.
    pub(crate) entries_sent: BTreeMap<u64, usize>,
    /// Receiver and sequence of every append.
    sequences: Vec<(u64, u64)>,
    initial: MemberSet,
    /// Whom a node voted for in a term.
    pub(crate) votes: BTreeMap<(u64, u64), u64>,
    /// Highest index whose proposer was answered, and what it was when a read began.
    answered_upto: LogIndex,
    /// When it rose to what.
    answered_at: Vec<(Instant, LogIndex)>,
    read_floors: BTreeMap<Token, LogIndex>,
    /// Switched on in every node that is opened.
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: Option<crate::PlantedBug>,
}

pub(crate) fn members(ids: impl IntoIterator<Item = u64>) -> MemberSet {
    MemberSet::of_voters(ids.into_iter().map(NodeId))
}

impl Cluster {
    pub(crate) fn new(voters: u64) -> Self {
        Self::with(voters, Settings::default())
    }

    pub(crate) fn with(voters: u64, settings: Settings) -> Self {
        let mut cluster = Self {
            now: Instant(1_000_000),
            nodes: BTreeMap::new(),
            settings,
            cut: BTreeSet::new(),
            wire: VecDeque::new(),
            follow_ups: VecDeque::new(),
            next_token: 0,
            heartbeats: 0,
            entries_sent: BTreeMap::new(),
            sequences: Vec::new(),
            initial: members(1..=voters),
            votes: BTreeMap::new(),
            answered_upto: LogIndex(0),
            answered_at: Vec::new(),
            read_floors: BTreeMap::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        };
        for id in 1..=voters {
            cluster.open(id, DiskImage::default());
        }
        cluster
    }

    /// Opens a node on what is on its disk; a new one that is no member yet knows nobody.
    pub(crate) fn open(&mut self, id: u64, disk: DiskImage) {
        let is_first = self.initial.voters.contains(&NodeId(id));
        let initial = if is_first {
            self.initial.clone()
        } else {
            MemberSet::default()
        };
        let core = Core::new(
            NodeId(id),
            self.settings.clone(),
            initial,
            disk.recovered(),
            self.now,
            id + self.now.0,
        );
        #[cfg(feature = "planted-bugs")]
        let core = {
            let mut core = core;
            self.planted.into_iter().for_each(|bug| core.plant(bug));
            core
        };
        let node = Node {
            core,
            disk,
            writes: VecDeque::new(),
            hold_disk: false,
            hold_apply: false,
            fail_fetch: false,
            asleep: false,
            kept: Vec::new(),
            deaf_to_heartbeats: false,
            applied: Vec::new(),
            answered: Vec::new(),
            done: Vec::new(),
            rejected: Vec::new(),
            reads: Vec::new(),
            events: Vec::new(),
            fetches: 0,
            horizons: Horizons::default(),
        };
        self.nodes.insert(id, node);
    }

    /// Loses what is not durable.
    pub(crate) fn crash(&mut self, id: u64) {
        self.restart(id);
    }

    /// Gives `input` to node `id` without waiting for what follows.
    pub(crate) fn give_later(&mut self, id: u64, input: Input) {
        self.step(id, input);
    }

    /// Delivers the oldest message on the wire, cut or not.
    pub(crate) fn deliver_one(&mut self) {
        let (from, to, message) = self.wire.pop_front().unwrap();
        let from = NodeId(from);
        self.step(to, Input::Message { from, message });
    }

    /// One thing at random: a message, in any order or lost; a write; or time.
    pub(crate) fn random_step(&mut self, random: &mut Random, loss_percent: u64) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let id = ids[random.next() as usize % ids.len()];
        match random.next() % 10 {
            0..=5 if !self.wire.is_empty() => {
                // Mostly in order.
                let spread = if random.next().is_multiple_of(4) {
                    8
                } else {
                    1
                };
                let at = random.next() as usize % self.wire.len().min(spread);
                let (from, to, message) = self.wire.remove(at).unwrap();
                let lost = random.next() % 100 < loss_percent || self.cut.contains(&(from, to));
                if random.next() % 100 < loss_percent / 4 {
                    self.wire.push_back((from, to, message.clone()));
                }
                if !lost {
                    let from = NodeId(from);
                    self.step(to, Input::Message { from, message });
                }
            }
            6..=8 if !self.node(id).hold_disk => {
                self.sync_one(id);
            }
            _ => {
                self.now = self.now.plus(Duration::from_micros(random.next() % 40_000));
                let now = self.now;
                let due = |node: &Node| node.core.next_deadline().is_some_and(|at| at <= now);
                let ids: Vec<u64> = ids.into_iter().filter(|id| due(self.node(*id))).collect();
                for id in ids {
                    self.step(id, Input::Tick);
                }
            }
        }
    }

    /// Takes a snapshot on `id` if there is anything new to put into one.
    pub(crate) fn try_save_snapshot(&mut self, id: u64) {
        let node = self.node(id);
        let status = node.core.status(self.now);
        let newest = node.disk.snapshot.as_ref().map(|s| s.last_included.index);
        let durable = node
            .disk
            .entries
            .iter()
            .any(|e| e.id.index == status.applied_index);
        if durable && status.applied_index > newest.unwrap_or_default() {
            self.save_snapshot(id);
        }
    }

    pub(crate) fn restart(&mut self, id: u64) {
        let disk = self.nodes.remove(&id).unwrap().disk;
        self.open(id, disk);
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(crate) fn isolate(&mut self, id: u64) {
        for other in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Gives `input` to node `id` and carries out everything that follows at this moment.
    pub(crate) fn give(&mut self, id: u64, input: Input) {
        self.step(id, input);
        self.settle();
    }

    /// What effects lead to comes after all of them: writes must not overtake each other.
    fn step(&mut self, id: u64, input: Input) {
        self.handle(id, input);
        while let Some((id, input)) = self.follow_ups.pop_front() {
            self.handle(id, input);
        }
    }

    fn handle(&mut self, id: u64, input: Input) {
        let now = self.now;
        if let Input::ReadIndex { token, .. } = &input {
            self.read_floors.insert(*token, self.answered_upto);
        }
        let mut effects = Effects::new();
        let node = self.node_mut(id);
        let beats = |m: &Message| matches!(m.body, MessageBody::Heartbeat(_));
        if node.deaf_to_heartbeats
            && matches!(&input, Input::Message { message, .. } if beats(message))
        {
            return;
        }
        if node.asleep {
            if matches!(input, Input::Message { .. }) {
                node.kept.push(input);
            }
            return;
        }
        node.core.handle(now, input, &mut effects);
        if let Some(horizon) = node.core.horizon() {
            node.horizons.note(horizon, LogIndex(0));
        }
        for effect in effects {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, id: u64, effect: Effect) {
        match effect {
            Effect::Persist(persist) => self.node_mut(id).writes.push_back(persist),
            Effect::Send { to, message } => {
                self.check_promises(id, to.0, &message);
                self.heartbeats += usize::from(matches!(message.body, MessageBody::Heartbeat(_)));
                if let MessageBody::AppendEntries(append) = &message.body {
                    *self.entries_sent.entry(to.0).or_default() += append.entries.len();
                    self.sequences.push((to.0, append.sequence));
                }
                self.wire.push_back((id, to.0, message));
            }
            Effect::Apply(batch) => {
                let node = self.node_mut(id);
                let first = node.disk.start.index.0 + 1;
                let range = (batch.first.0 - first) as usize..=(batch.last.0 - first) as usize;
                let on_disk = node.disk.entries[range].to_vec();
                if !batch.entries.is_empty() {
                    assert_eq!(batch.entries, on_disk, "memory and disk agree");
                }
                node.applied.extend(on_disk);
                if let Some(&(index, _)) = batch.waiting.last() {
                    self.note_answered(index);
                }
                let node = self.node_mut(id);
                node.answered
                    .extend(batch.waiting.iter().map(|(_, token)| *token));
                if !node.hold_apply {
                    self.follow_ups
                        .push_back((id, Input::Applied { index: batch.last }));
                }
            }
            Effect::ReadEntries {
                read, first, last, ..
            } => {
                let node = self.node(id);
                let wanted = |entry: &&Entry| entry.id.index >= first && entry.id.index <= last;
                let result = Ok(node.disk.entries.iter().filter(wanted).cloned().collect());
                self.follow_ups
                    .push_back((id, Input::EntriesRead { read, result }));
            }
            Effect::FetchSnapshot { snapshot, .. } => {
                let node = self.node_mut(id);
                node.fetches += 1;
                if node.fail_fetch {
                    return self
                        .follow_ups
                        .push_back((id, Input::SnapshotFailed { snapshot }));
                }
                node.disk.previous = node.disk.snapshot.take().map(|s| s.last_included);
                node.disk.snapshot = Some(snapshot.clone());
                self.follow_ups
                    .push_back((id, Input::SnapshotInstalled { snapshot }));
            }
            Effect::CompactLog { upto } => {
                let disk = &mut self.node_mut(id).disk;
                disk.entries.retain(|entry| entry.id.index > upto.index);
                disk.start = upto;
            }
            Effect::Done { token } => self.node_mut(id).done.push(token),
            Effect::Rejected { token, reason } => {
                self.node_mut(id).rejected.push((token, reason));
            }
            Effect::ReadReady { token, index } => {
                let floor = self.read_floors.get(&token).copied().unwrap_or_default();
                assert!(
                    index >= floor,
                    "node {id}: read at {index}, {floor} was answered before"
                );
                self.node_mut(id).reads.push((token, index));
            }
            Effect::Event(event) => self.node_mut(id).events.push(event),
        }
    }

    /// Hands over, without answers, what came for `id` while it was asleep.
    pub(crate) fn deliver_kept(&mut self, id: u64) {
        for input in core::mem::take(&mut self.node_mut(id).kept) {
            self.step(id, input);
        }
        self.settle();
    }

    /// Sequences of the appends to `id`, in order.
    pub(crate) fn sequences_sent(&self, id: u64) -> Vec<u64> {
        let to_it = self.sequences.iter().filter(|(to, _)| *to == id);
        to_it.map(|(_, sequence)| *sequence).collect()
    }

    fn note_answered(&mut self, index: LogIndex) {
        if index > self.answered_upto {
            self.answered_upto = index;
            self.answered_at.push((self.now, index));
        }
    }

    /// Says whether node `id` knows how old its state may be; it must be right then.
    pub(crate) fn check_horizon(&self, id: u64) -> bool {
        let Some(Horizon { as_of, commit }) = self.node(id).core.horizon() else {
            return false;
        };
        let before = self.answered_at.partition_point(|&(at, _)| at < as_of);
        if let Some(at) = before.checked_sub(1) {
            let (when, index) = self.answered_at[at];
            assert!(
                index <= commit,
                "node {id}: {index} was answered at {when:?}, before {as_of:?}, beyond {commit}"
            );
        }
        true
    }

    /// How old the state of node `id` may be at most.
    pub(crate) fn staleness(&self, id: u64) -> Option<Duration> {
        let node = self.node(id);
        let applied = node.core.status(self.now).applied_index;
        Some(self.now.since(node.horizons.as_of(applied)?))
    }

    /// Lets one write of `id` reach the disk.
    pub(crate) fn sync_one(&mut self, id: u64) -> Option<IoId> {
        let node = self.node_mut(id);
        let persist = node.writes.pop_front()?;
        node.disk.write(&persist);
        self.step(id, Input::Persisted { io: persist.io });
        Some(persist.io)
    }

    /// Delivers and writes until nothing is left to do at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200_000 {
            let busy = |node: &Node| !node.hold_disk && !node.writes.is_empty();
            let ready = self
                .nodes
                .iter()
                .find(|(_, node)| busy(node))
                .map(|(id, _)| *id);
            if let Some(id) = ready {
                self.sync_one(id);
            } else if let Some((from, to, message)) = self.wire.pop_front() {
                if !self.cut.contains(&(from, to)) && self.nodes.contains_key(&to) {
                    let from = NodeId(from);
                    self.step(to, Input::Message { from, message });
                }
            } else {
                return;
            }
        }
        panic!("the cluster does not settle");
    }

    /// Lets time pass, ticking every node when it asks for it.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.plus(span);
        loop {
            let next = |(id, node): (&u64, &Node)| node.core.next_deadline().map(|at| (at, *id));
            let awake = self.nodes.iter().filter(|(_, node)| !node.asleep);
            let due = awake.filter_map(next).min();
            match due {
                Some((at, id)) if at <= end => {
                    self.now = self.now.max(at);
                    self.give(id, Input::Tick);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    /// The leader with the highest term, if any.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| matches!(node.core.role(), Role::Leader | Role::Transferring);
        let leaders = self.nodes.iter().filter(|(_, node)| leads(node));
        leaders
            .max_by_key(|(_, node)| node.core.term())
            .map(|(id, _)| *id)
    }

    /// Waits for a leader.
    pub(crate) fn elect(&mut self) -> u64 {
        for _ in 0..200 {
            self.run_ms(100);
            if let Some(leader) = self.leader() {
                let status = self.node(leader).core.status(self.now);
                if status.commit_index == status.last.index {
                    return leader;
                }
            }
        }
        panic!("no leader");
    }

    /// Changes settings of a running replica.
    pub(crate) fn set(&mut self, id: u64, change: impl FnOnce(&mut Settings)) {
        let token = self.token();
        let mut settings = self.node(id).core.settings().clone();
        change(&mut settings);
        let settings = settings.into();
        self.give(id, Input::SetSettings { token, settings });
    }

    pub(crate) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub(crate) fn propose(&mut self, id: u64, payload: &[u8]) -> Token {
        let token = self.token();
        let proposal = Proposal {
            token,
            expected_term: None,
            time_ns: 0,
            kind: EntryKind::Command(Bytes::copy_from_slice(payload)),
        };
        self.give(id, Input::Propose(Vec::from([proposal])));
        token
    }

    pub(crate) fn change(&mut self, id: u64, change: ConfigurationChange) -> Token {
        let token = self.token();
        let expected = None;
        self.give(
            id,
            Input::ChangeConfiguration {
                token,
                change,
                expected,
            },
        );
        token
    }

    pub(crate) fn read(&mut self, id: u64, mode: ReadMode) -> Token {
        let token = self.token();
        self.give(id, Input::ReadIndex { token, mode });
        token
    }

    /// Takes a snapshot of everything applied on `id`.
    pub(crate) fn save_snapshot(&mut self, id: u64) {
        let node = self.node_mut(id);
        let index = node.core.status(Instant(0)).applied_index;
        let term = node
            .disk
            .entries
            .iter()
            .find(|entry| entry.id.index == index)
            .unwrap()
            .id
            .term;
        let snapshot = SnapshotMeta {
            last_included: LogId::new(term, index),
            configuration: node.core.configuration_at(index).unwrap().clone(),
        };
        node.disk.previous = node.disk.snapshot.take().map(|s| s.last_included);
        node.disk.snapshot = Some(snapshot.clone());
        self.step(id, Input::SnapshotSaved { snapshot });
    }

    pub(crate) fn commands(&self, id: u64) -> Vec<Bytes> {
        let payload = |entry: &Entry| match &entry.kind {
            EntryKind::Command(bytes) => Some(bytes.clone()),
            _ => None,
        };
        self.node(id).applied.iter().filter_map(payload).collect()
    }

    pub(crate) fn reason(&self, id: u64, token: Token) -> Option<RejectReason> {
        let found = self
            .node(id)
            .rejected
            .iter()
            .find(|(rejected, _)| *rejected == token);
        found.map(|(_, reason)| reason.clone())
    }
}
