//! One simulated cluster: its nodes, its network, its clients, and the events to come.

mod apply;
mod calm;
mod clients;
mod digest;
mod effects;
mod faults;
mod ghosts;
mod life;
mod limits;
mod node;
mod orders;
#[cfg(test)]
pub(crate) mod tests;

use crate::counters::Counters;
use crate::members::{Members, NODES_MAX, Set};
use crate::network::Network;
use crate::oracle::{Check, Invariant, Oracle, View, broken};
use crate::plan::{Mode, Plan};
use crate::queue::Queue;
use crate::random::{Random, mix};
use crate::require;
use crate::trace::{At, Trace, Words};
use clients::Client;
use ghosts::Kept;
use kontiki_raft::{
    Effects, Entry, Input, Instant, IoId, Message, MessageBody, NodeId, PlantedBug, ReadError,
    ReadId,
};
use limits::Limits;
use node::Node;
use orders::Order;
use std::collections::BTreeMap;

/// Priorities that nodes have; more than one may have the highest.
const PRIORITIES: [u32; 4] = [50, 100, 100, 200];

/// Nodes that may ever exist in a run, wiped ones included.
const SLOTS: usize = 16;

/// What is going to happen.
#[derive(Debug)]
pub(super) enum Happening {
    Deliver {
        from: usize,
        to: usize,
        message: Message,
    },
    Synced {
        node: usize,
        incarnation: u32,
    },
    Persisted {
        node: usize,
        incarnation: u32,
        io: IoId,
    },
    PersistFailed {
        node: usize,
        incarnation: u32,
        io: IoId,
    },
    EntriesRead {
        node: usize,
        incarnation: u32,
        read: ReadId,
        result: Result<Vec<Entry>, ReadError>,
    },
    TaskDone {
        node: usize,
        incarnation: u32,
    },
    Saved {
        node: usize,
        incarnation: u32,
    },
    Fetched {
        node: usize,
        incarnation: u32,
        number: u64,
    },
    Restart {
        node: usize,
    },
    Resume {
        node: usize,
    },
    Turn {
        client: usize,
    },
    Patience {
        client: usize,
        turn: u32,
    },
    Strike,
    Mend,
    Flap {
        a: usize,
        b: usize,
        left: u32,
    },
}

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Draws everything.
    pub seed: u64,
    /// Steps before the faults stop and the liveness phase begins.
    pub steps: u64,
    /// What is to be proven.
    pub mode: Mode,
    /// A fault planted in every core.
    pub bug: Option<PlantedBug>,
}

/// A cluster.
#[derive(Debug)]
pub struct World {
    setup: Setup,
    plan: Plan,
    random: Random,
    now: u64,
    nodes: Vec<Node>,
    /// When each node's core wants to be woken, in simulated time.
    wakes: Vec<u64>,
    queue: Queue<Happening>,
    network: Network,
    /// Judges everything.
    pub oracle: Oracle,
    /// What happened.
    pub counters: Counters,
    clients: Vec<Client>,
    /// Who asked: (client, turn) by token minus one; operators are `usize::MAX`.
    askers: Vec<(usize, u32)>,
    orders: BTreeMap<u64, Order>,
    effects: Effects,
    /// What happened, as a hash and perhaps in words.
    pub trace: Trace,
    calm: bool,
    /// Nodes that take part in the liveness phase, by number.
    core_nodes: u32,
    clients_on: bool,
    /// Takeovers before the liveness phase.
    takeovers_before: u64,
    late_wakes: u32,
    /// Some messages of the past, to be delivered again.
    kept: Vec<Kept>,
    /// Messages of destroyed nodes do not arrive any more: before a membership is forced, an
    /// operator makes sure that the dead are dead.
    fenced: bool,
}

impl World {
    /// Draws a cluster and opens its first nodes.
    ///
    /// # Errors
    /// A node is wrong as soon as it is opened.
    pub fn new(setup: Setup, words: Words) -> Result<Self, Box<crate::oracle::Violation>> {
        let mut random = Random::new(mix(setup.seed));
        let plan = Plan::draw(&mut random, setup.mode);
        let voters = (1..=plan.voters).fold(0, |mask, n| mask | 1 << n);
        let initial = Set {
            voters,
            learners: 0,
        };
        let mut world = Self {
            setup,
            now: 0,
            nodes: Vec::with_capacity(SLOTS),
            wakes: Vec::with_capacity(SLOTS),
            queue: Queue::default(),
            network: Network::new(SLOTS),
            oracle: Oracle::new(
                Members::stable(initial),
                plan.settings.step_down_on_vote_timeout,
            ),
            counters: Counters::default(),
            clients: vec![Client::default(); plan.clients],
            askers: Vec::new(),
            orders: BTreeMap::new(),
            effects: Effects::new(),
            trace: Trace::new(words),
            calm: false,
            core_nodes: 0,
            clients_on: true,
            takeovers_before: 0,
            late_wakes: 0,
            kept: Vec::new(),
            fenced: false,
            plan,
            random,
        };
        for n in 0..world.plan.voters + world.plan.spares {
            let known = if n < world.plan.voters {
                initial
            } else {
                Set::default()
            };
            world.add_node(known)?;
        }
        for client in 0..world.clients.len() {
            let at = world.random.below(world.plan.think_us + 1);
            world.queue.push(at, Happening::Turn { client });
        }
        if world.plan.weights.iter().any(|weight| *weight > 0) {
            let first = world.plan.strike_every_us;
            world.queue.push(first, Happening::Strike);
        }
        Ok(world)
    }

    fn add_node(&mut self, initial: Set) -> Check {
        debug_assert!(self.nodes.len() < SLOTS && SLOTS <= NODES_MAX);
        let id = NodeId(self.nodes.len() as u64 + 1);
        let clock = self.draw_clock();
        let timeout_us = self.plan.settings.election_timeout.as_micros() as u64;
        let mut node = Node::new(id, clock, initial.to_member_set(), timeout_us);
        if self.plan.ranked {
            node.priority = self.random.pick(&PRIORITIES);
        }
        self.nodes.push(node);
        self.wakes.push(u64::MAX);
        self.oracle.add_replica(id, Members::stable(initial));
        self.open(self.nodes.len() - 1)
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.counters.steps
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let checks = self.oracle.checks;
        Counters {
            elections: checks.elections,
            commits: checks.commits,
            applied: checks.applied,
            changes_joint: checks.joint,
            checks_entries: checks.entries,
            checks_messages: checks.messages,
            checks_answers: checks.answers,
            checks_reads: checks.reads,
            checks_configurations: checks.configurations,
            checks_read_only: checks.read_only,
            lease_comparisons: checks.leases,
            ..self.counters
        }
    }

    /// Runs the faults, then the liveness phase, then judges the history as a whole.
    ///
    /// # Errors
    /// The first violation.
    pub fn run(&mut self) -> Check {
        while self.counters.steps < self.setup.steps {
            self.step()?;
        }
        self.judge_history()?;
        if self.setup.mode == Mode::Usual {
            self.run_calm()?;
        }
        Ok(())
    }

    /// Lets the next thing happen.
    fn step(&mut self) -> Check {
        let (node, wake) = self.next_wake();
        if wake < self.queue.next_at() {
            return self.wake(node, wake);
        }
        let Some((at, happening)) = self.queue.pop() else {
            return broken(Invariant::Liveness, "nothing will ever happen again");
        };
        debug_assert!(at >= self.now);
        self.now = at;
        self.happen(happening)
    }

    fn next_wake(&self) -> (usize, u64) {
        let wakes = self.wakes.iter().copied().enumerate();
        wakes.min_by_key(|(_, at)| *at).unwrap_or((0, u64::MAX))
    }

    fn wake(&mut self, node: usize, at: u64) -> Check {
        self.late_wakes = if at <= self.now {
            self.late_wakes + 1
        } else {
            0
        };
        require!(
            self.late_wakes < 1_000,
            Contract,
            "node {} wants to be woken at {at} again and again",
            self.nodes[node].id
        );
        self.now = self.now.max(at);
        self.input(node, Input::Tick)
    }

    fn happen(&mut self, happening: Happening) -> Check {
        match happening {
            Happening::Synced { node, incarnation } => return self.on_synced(node, incarnation),
            Happening::Restart { node } => return self.on_restart(node),
            Happening::Resume { node } => return self.resume(node),
            Happening::Turn { client } => return self.take_turn(client),
            Happening::Patience { client, turn } => {
                self.lose_patience(client, turn);
                return Ok(());
            }
            Happening::Strike => return self.strike(),
            Happening::Mend => {
                if !self.calm {
                    self.network.heal();
                }
                return Ok(());
            }
            Happening::Flap { a, b, left } => {
                self.flap(a, b, left);
                return Ok(());
            }
            _ => {}
        }
        self.happen_to_node(happening)
    }

    /// Things that wait while their node is paused, and are void when it was opened anew.
    fn happen_to_node(&mut self, happening: Happening) -> Check {
        let (n, incarnation) = match &happening {
            Happening::Deliver { to, .. } => (*to, self.nodes[*to].incarnation),
            Happening::Persisted {
                node, incarnation, ..
            }
            | Happening::PersistFailed {
                node, incarnation, ..
            }
            | Happening::EntriesRead {
                node, incarnation, ..
            }
            | Happening::TaskDone { node, incarnation }
            | Happening::Saved { node, incarnation }
            | Happening::Fetched {
                node, incarnation, ..
            } => (*node, *incarnation),
            _ => return Ok(()),
        };
        if let Happening::Deliver { from, .. } = &happening
            && self.fenced
            && self.nodes[*from].wiped
        {
            return Ok(());
        }
        let node = &mut self.nodes[n];
        if !node.is_up() || node.incarnation != incarnation {
            return Ok(());
        }
        if node.paused {
            node.held.push(happening);
            return Ok(());
        }
        match happening {
            Happening::Deliver { from, message, .. } => {
                let from = self.nodes[from].id;
                self.input(n, Input::Message { from, message })
            }
            Happening::Persisted { io, .. } => self.input(n, Input::Persisted { io }),
            Happening::PersistFailed { io, .. } => self.input(n, Input::PersistFailed { io }),
            Happening::EntriesRead { read, result, .. } => {
                self.input(n, Input::EntriesRead { read, result })
            }
            Happening::TaskDone { .. } => self.on_task_done(n),
            Happening::Saved { .. } => self.on_saved(n),
            Happening::Fetched { number, .. } => self.on_fetched(n, number),
            _ => Ok(()),
        }
    }

    /// One step: a core takes an input, its effects are carried out, everything is judged.
    fn input(&mut self, n: usize, input: Input) -> Check {
        self.counters.steps += 1;
        let now = self.now;
        let node = &mut self.nodes[n];
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let local = Instant(node.clock.local(now));
        self.trace
            .note(now ^ (n as u64) << 56, digest::of_input(&input));
        match &input {
            Input::Message { from, message } => {
                let asks = matches!(message.body, MessageBody::ReadIndexRequest(_));
                node.reads_open += u64::from(asks);
                self.oracle.delivered(n, *from, message);
            }
            Input::ReadIndex { .. } => node.reads_open += 1,
            _ => {}
        }
        let id = node.id;
        self.trace
            .line(|| format!("{} node {id} <- {input:?}", At(now)));
        let mut effects = std::mem::take(&mut self.effects);
        core.handle(local, input, &mut effects);
        let view = View::of(core);
        self.wakes[n] = core
            .next_deadline()
            .map_or(u64::MAX, |at| node.clock.when(at.0));
        self.trace
            .note(effects.len() as u64, view.commit.0 << 20 ^ view.term.0);
        let result = self.after_input(n, view, &mut effects);
        effects.clear();
        self.effects = effects;
        result
    }

    fn after_input(&mut self, n: usize, view: View, effects: &mut Effects) -> Check {
        self.oracle.set_now(self.now);
        self.oracle.begin(n, view)?;
        let survived = self.carry_out(n, effects)?;
        if survived {
            self.oracle.finish(n)?;
            self.compare_leases()?;
        }
        self.check_limits(n)
    }

    /// At one simulated moment only the newest leader may hold a lease. Paused leaders included.
    fn compare_leases(&mut self) -> Check {
        if self.oracle.leading_nodes() < 2 {
            return Ok(());
        }
        let Some(newest) = self.leader() else {
            return Ok(());
        };
        for n in (0..self.nodes.len()).filter(|n| *n != newest) {
            let node = &self.nodes[n];
            let Some(core) = node.core.as_ref().filter(|_| self.oracle.view(n).leads()) else {
                continue;
            };
            let lease = core.lease_status(Instant(node.clock.local(self.now)));
            self.oracle.older_lease(n, newest, lease)?;
        }
        Ok(())
    }

    /// What is bounded must be bounded, and what a leader counts must be there.
    fn check_limits(&mut self, n: usize) -> Check {
        let node = &self.nodes[n];
        let Some(core) = &node.core else {
            return Ok(());
        };
        self.counters.samples += 1;
        let status = core.status(Instant(node.clock.local(self.now)));
        self.oracle.matching(n, &status.peers)?;
        let volatile = || self.oracle.size_bytes_after(n, status.durable_index);
        Limits::of(&self.plan).check(&status, volatile, node.reads_open)?;
        require!(
            status.term == core.term()
                && status.last == self.oracle.last_written(n)
                && status.commit_index == core.commit_index(),
            Contract,
            "node {}: its status disagrees with what it does: {status:?}",
            node.id
        );
        Ok(())
    }
}

/// Numbers of the nodes of a mask.
fn numbers(mask: u32) -> impl Iterator<Item = usize> {
    (0..SLOTS).filter(move |n| mask & (1 << n) != 0)
}

/// Node numbers of a mask of ids: node `n` has id `n + 1`.
fn slots_of(ids: u32) -> u32 {
    ids >> 1
}
