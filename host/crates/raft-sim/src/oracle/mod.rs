//! Judges a run: it is told every fact once, keeps its own picture of every replica, and compares
//! only what changed.
//!
//! The picture is made of what the replicas *ordered* (`written`) and of what the simulated disks
//! *hold* (`durable`), never of what a replica says it has.

mod commit;
mod election;
mod events;
mod log;
mod messages;
#[cfg(test)]
mod proofs;
mod requests;
mod termlog;
mod violation;

pub use requests::{Answer, Ask, Request};
pub use termlog::TermLog;
pub use violation::{Check, Invariant, Violation, broken};

use crate::members::{Members, NODES_MAX, bit};
use crate::require;
use kontiki_raft::{Core, HardState, LogId, LogIndex, NodeId, PeerStatus, Recovered, Role, Term};
use log::Registry;

/// What a replica shows after each step, cheap to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// Its commit index.
    pub commit: LogIndex,
}

impl View {
    const CLOSED: Self = Self {
        role: Role::Stopped,
        term: Term(0),
        leader: None,
        commit: LogIndex(0),
    };

    /// What a core shows.
    #[must_use]
    pub fn of(core: &Core) -> Self {
        Self {
            role: core.role(),
            term: core.term(),
            leader: core.leader(),
            commit: core.commit_index(),
        }
    }

    /// Whether the replica leads, be it only to hand over.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leader | Role::Transferring)
    }
}

/// The oracle's picture of one replica.
#[derive(Debug)]
struct Replica {
    node: NodeId,
    /// Counts how often it was opened.
    incarnation: u32,
    view: View,
    written: TermLog,
    /// Configurations along `written`, ascending; the first stands for everything before.
    configurations: Vec<(LogIndex, Members)>,
    initial: Members,
    /// A forced membership overrides the log's up to here.
    forced_upto: LogIndex,
    durable: TermLog,
    durable_state: HardState,
    /// Last entry of the newest published snapshot.
    snapshot: LogId,
    /// Every vote that ever became durable here; survives restarts and is never forgotten.
    votes: Vec<(Term, NodeId)>,
    /// Term and epoch of a `LeaderStarted` without its `LeaderStopped`.
    leading: Option<(Term, u64)>,
    lease_epoch: u64,
    following: Option<(NodeId, Term)>,
    io_sequence: Option<u64>,
    /// Term and vote last ordered to be written.
    written_state: HardState,
    applied: LogIndex,
    /// Before this moment of simulated time it owes a lease to whoever led before it was restarted.
    bound_until: u64,
    /// Its term and vote when it was opened: what it gave then it may repeat.
    opened_state: HardState,
    /// An operator made it read-only.
    read_only: bool,
    /// Members that told it, since it leads, that they are read-only.
    told_read_only: u32,
    /// How long it must wait without a leader before it campaigns unasked, and since when at the
    /// earliest; nothing if it is not drained.
    drained: Option<(u64, u64)>,
    /// When it last knew a leader.
    leader_known_at: u64,
    /// By leader: when it last answered a heartbeat of it, and in which term.
    answered_heartbeat: [(Term, u64); NODES_MAX + 1],
    /// Highest index it acknowledged to the leader of the last term in which it did.
    acknowledged: (Term, LogIndex),
    /// Its last round of pre-votes, and who promised a vote in it.
    promised: (u64, u32),
    /// Term in which it last voted for itself, and whether a quorum had promised to follow.
    campaign: (Term, bool),
}

/// An entry known to be committed.
#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    /// Term of the leader that was the first to commit it.
    by: Term,
    fingerprint: u64,
    /// Hash chain of the state machine after it; zero until somebody applied it.
    chain: u64,
}

/// How often each family of checks ran: a run that checked nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checks {
    /// Elections judged.
    pub elections: u64,
    /// First commits judged by durable copies.
    pub commits: u64,
    /// Entries compared when appended.
    pub entries: u64,
    /// Entries compared when applied.
    pub applied: u64,
    /// Messages judged when sent.
    pub messages: u64,
    /// Configuration changes judged.
    pub configurations: u64,
    /// Joint configurations committed.
    pub joint: u64,
    /// Read indexes judged.
    pub reads: u64,
    /// Answers judged.
    pub answers: u64,
    /// Leases looked at while a leader of a later term led too.
    pub leases: u64,
    /// Times a leader learned that too few of its voters take commands.
    pub read_only: u64,
}

/// Judge of one run.
#[derive(Debug)]
pub struct Oracle {
    replicas: Vec<Replica>,
    registry: Registry,
    /// `committed[i]` is the entry at index `i + 1`.
    committed: Vec<Committed>,
    /// Committed configurations, ascending; starts with the initial one at zero.
    committed_members: Vec<(LogIndex, Members)>,
    /// Whether candidates give up after a vote timeout; else they skip further pre-votes.
    gives_up: bool,
    /// Leader of each term that had one.
    leaders: Vec<Option<NodeId>>,
    requests: Vec<Request>,
    /// Highest index at which any request was completed so far.
    completed: LogIndex,
    /// The present moment, as far as it was told.
    now_us: u64,
    /// How often what was checked.
    pub checks: Checks,
}

impl Oracle {
    /// A judge of a group that begins with these members. `gives_up` is the setting
    /// `step_down_on_vote_timeout`.
    #[must_use]
    pub fn new(initial: Members, gives_up: bool) -> Self {
        Self {
            replicas: Vec::new(),
            registry: Registry::default(),
            committed: Vec::new(),
            committed_members: vec![(LogIndex(0), initial)],
            gives_up,
            leaders: Vec::new(),
            requests: Vec::new(),
            completed: LogIndex(0),
            now_us: 0,
            checks: Checks::default(),
        }
    }

    /// A node appears, with an empty disk and this membership to begin with. Nodes are numbered
    /// in the order of their appearance.
    pub fn add_replica(&mut self, node: NodeId, initial: Members) {
        self.replicas.push(Replica {
            node,
            incarnation: 0,
            view: View::CLOSED,
            written: TermLog::default(),
            configurations: vec![(LogIndex(0), initial)],
            initial,
            forced_upto: LogIndex(0),
            durable: TermLog::default(),
            durable_state: HardState::default(),
            snapshot: LogId::default(),
            votes: Vec::new(),
            leading: None,
            lease_epoch: 0,
            following: None,
            io_sequence: None,
            written_state: HardState::default(),
            applied: LogIndex(0),
            bound_until: 0,
            opened_state: HardState::default(),
            read_only: false,
            told_read_only: 0,
            drained: None,
            leader_known_at: 0,
            answered_heartbeat: [(Term(0), 0); NODES_MAX + 1],
            acknowledged: (Term(0), LogIndex(0)),
            promised: (0, 0),
            campaign: (Term(0), false),
        });
    }

    /// A replica is opened on what its disk holds; `view` is what it shows at once.
    ///
    /// # Errors
    /// It forgot its term.
    pub fn opened(&mut self, n: usize, recovered: &Recovered, view: View) -> Check {
        let replica = &mut self.replicas[n];
        replica.incarnation += 1;
        replica.written = replica.durable.clone();
        replica.configurations = known_configurations(recovered, replica.initial);
        if !replica.written.includes(replica.snapshot)
            || replica.written.last().index < replica.snapshot.index
        {
            // The snapshot is ahead of the log, or contradicts it: the log begins after it.
            replica.written = TermLog::after(replica.snapshot);
            replica
                .configurations
                .retain(|(index, _)| *index <= replica.snapshot.index);
        }
        replica.leading = None;
        replica.lease_epoch = 0;
        replica.following = None;
        replica.io_sequence = None;
        replica.written_state = replica.durable_state;
        replica.opened_state = replica.durable_state;
        replica.applied = recovered.applied;
        replica.read_only = false;
        replica.drained = None;
        replica.view = view;
        require!(
            view.term >= recovered.hard_state.term,
            Monotonic,
            "node {} opened at term {}, but term {} is durable",
            replica.node,
            view.term,
            recovered.hard_state.term
        );
        require!(
            !view.leads(),
            ElectionSafety,
            "node {} leads as soon as it is opened",
            replica.node
        );
        self.committing(n)?;
        self.finish(n)
    }

    /// A replica is gone: crashed, or shut down.
    pub fn closed(&mut self, n: usize) {
        let replica = &mut self.replicas[n];
        replica.incarnation += 1;
        replica.view = View::CLOSED;
        replica.leading = None;
        replica.following = None;
    }

    /// A restarted replica must not vote before this moment of simulated time.
    pub fn bind(&mut self, n: usize, until_us: u64) {
        self.replicas[n].bound_until = until_us;
    }

    /// An operator makes a replica read-only, or writable again.
    pub fn set_read_only(&mut self, n: usize, read_only: bool) {
        self.replicas[n].read_only = read_only;
    }

    /// The moment at which what follows happens, in microseconds.
    pub fn set_now(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// An operator drains a replica, or lets it lead again. While drained it may not ask for votes
    /// unless it was ordered to, or has known no leader for `patience_us`.
    pub fn set_drained(&mut self, n: usize, drained: bool, patience_us: u64) {
        let now_us = self.now_us;
        let before = &mut self.replicas[n].drained;
        *before = drained.then(|| before.unwrap_or((patience_us, now_us)));
    }

    /// Last index known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// The committed configuration.
    #[must_use]
    pub fn members(&self) -> Members {
        self.committed_members
            .last()
            .expect("the initial configuration is always there")
            .1
    }

    /// Committed configuration in force at `index`.
    #[must_use]
    pub fn members_at(&self, index: LogIndex) -> Members {
        let later = self
            .committed_members
            .partition_point(|(at, _)| *at <= index);
        self.committed_members[later - 1].1
    }

    /// Every configuration that may be in force: the committed one and those after it in any log.
    pub fn possible_members(&self) -> impl Iterator<Item = Members> + '_ {
        let committed = self.committed_members.last().expect("never empty");
        let later = self.replicas.iter().flat_map(|replica| {
            let known = replica.configurations.iter();
            known.filter(|(index, _)| *index > committed.0)
        });
        std::iter::once(committed)
            .chain(later)
            .map(|(_, members)| *members)
    }

    /// How many replicas lead, or think so.
    #[must_use]
    pub fn leading_nodes(&self) -> usize {
        self.replicas
            .iter()
            .filter(|replica| replica.view.leads())
            .count()
    }

    /// Whether the replica reported that it started to lead, and not that it stopped.
    #[must_use]
    pub fn has_started(&self, n: usize) -> bool {
        self.replicas[n].leading.is_some()
    }

    /// The configuration in force at the replica's commit index, by its own log.
    #[must_use]
    pub fn committed_members_of(&self, n: usize) -> Members {
        let replica = &self.replicas[n];
        replica.members_at(replica.view.commit)
    }

    /// Hash chain of the state machine after the entry at `index`, if anybody applied it.
    #[must_use]
    pub fn chain_at(&self, index: LogIndex) -> Option<u64> {
        let at = (index.0 as usize).checked_sub(1)?;
        self.committed.get(at).map(|committed| committed.chain)
    }

    /// What the replica showed last.
    #[must_use]
    pub fn view(&self, n: usize) -> View {
        self.replicas[n].view
    }

    /// Last entry of the replica's log, durable or not.
    #[must_use]
    pub fn last_written(&self, n: usize) -> LogId {
        self.replicas[n].written.last()
    }

    /// Last entry on the replica's disk.
    #[must_use]
    pub fn last_durable(&self, n: usize) -> LogId {
        self.replicas[n].durable.last()
    }

    fn replica_of(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// What a leader believes of its followers must be so.
    ///
    /// # Errors
    /// It counts a copy that is not there.
    pub fn matching(&self, n: usize, peers: &[PeerStatus]) -> Check {
        let leader = &self.replicas[n];
        for peer in peers {
            let Some(follower) = self.replica_of(peer.node) else {
                continue;
            };
            let index = peer.match_index;
            let (of, acknowledged) = follower.acknowledged;
            let known = if of == leader.view.term {
                acknowledged
            } else {
                LogIndex(0)
            };
            require!(
                of > leader.view.term || index <= known,
                MatchIndex,
                "leader {} of term {} counts {index} for node {}, which acknowledged {known} in that term",
                leader.node,
                leader.view.term,
                peer.node
            );
            let Some(term) = leader.written.term_at(index) else {
                continue;
            };
            require!(
                follower.durable_state.term != leader.view.term
                    || follower.covers(LogId::new(term, index)),
                MatchIndex,
                "leader {} of term {} counts {index} of term {term} for node {}, which durably has {}",
                leader.node,
                leader.view.term,
                peer.node,
                follower.durable.last()
            );
        }
        Ok(())
    }

    /// Mask of the replicas of which `holds` is true.
    fn mask(&self, holds: impl Fn(&Replica) -> bool) -> u32 {
        let holders = self.replicas.iter().filter(|replica| holds(replica));
        holders.fold(0, |mask, replica| mask | bit(replica.node))
    }
}

/// What a replica must take as its configurations when opened: forced ones override the log's, and
/// the log's those of the snapshot.
fn known_configurations(recovered: &Recovered, initial: Members) -> Vec<(LogIndex, Members)> {
    let mut known = vec![(LogIndex(0), initial)];
    if let Some(snapshot) = &recovered.snapshot {
        let members = Members::of(&snapshot.configuration);
        known = vec![(snapshot.last_included.index, members)];
    }
    if let Some((upto, configuration)) = &recovered.forced_configuration
        && *upto >= known[0].0
    {
        known = vec![(*upto, Members::of(configuration))];
    }
    let after = known[0].0;
    let logged = recovered.configurations.iter();
    known.extend(
        logged
            .filter(|(index, _)| *index > after)
            .map(|(index, configuration)| (*index, Members::of(configuration))),
    );
    known
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) use testing::assert_breaks;
