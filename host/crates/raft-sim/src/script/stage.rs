//! The cluster of a script. Nothing happens by itself but what a node does to its own disk and
//! state machine, and that can be held back too.

mod effects;

use super::selector::{Letter, Selector, number};
use super::words;
use crate::disk::Disk;
use crate::machine::Machine;
use crate::members::{Members, Set};
use crate::oracle::{Check, Oracle, View};
use bytes::Bytes;
use kontiki_raft::{
    ApplyBatch, ConfigurationChange, Core, Effect, EntryKind, Input, Instant, LogIndex, MemberSet,
    NodeId, Proposal, ReadMode, Role, Settings, SnapshotMeta, Token, TransferTarget,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Rounds after which `settle` gives up.
const ROUNDS_MAX: usize = 200;

#[derive(Debug)]
struct Actor {
    core: Option<Core>,
    disk: Disk,
    machine: Machine,
    initial: MemberSet,
    now_us: u64,
    hold_writes: bool,
    hold_applies: bool,
    batches: VecDeque<ApplyBatch>,
    fetch: Option<(u64, SnapshotMeta)>,
    view: View,
}

/// A cluster told what to do.
#[derive(Debug, Default)]
pub struct Stage {
    settings: Settings,
    actors: BTreeMap<u64, Actor>,
    letters: Vec<Letter>,
    cut: Vec<(u64, u64)>,
    oracle: Option<Oracle>,
    tokens: u64,
    trace: Vec<String>,
    /// Signs of life are not told.
    silent: bool,
    /// Inputs that nodes give themselves: completed writes and applies.
    next: VecDeque<(u64, Input)>,
}

impl Stage {
    /// Carries out one command and says what happened.
    ///
    /// # Errors
    /// The command is not understood, or an invariant is broken.
    pub fn carry_out(&mut self, command: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (name, rest) = words.split_first().ok_or("no command")?;
        self.dispatch(name, rest)?;
        self.run_own()?;
        Ok(std::mem::take(&mut self.trace))
    }

    fn dispatch(&mut self, name: &str, rest: &[&str]) -> Result<(), String> {
        match name {
            "nodes" => self.set_up(rest),
            "node" => self.add(argument(rest, 0)?, &MemberSet::default()),
            "deliver" => self.deliver(&Selector::parse(rest)?),
            "drop" => self.drop_letters(&Selector::parse(rest)?),
            "settle" => self.settle(),
            "cut" | "isolate" | "heal" => self.rewire(name, rest),
            "hold" | "release" => self.hold(name == "hold", rest),
            "crash" => self.crash(argument(rest, 0)?),
            "restart" => self.open(argument(rest, 0)?),
            "timeout" => self.time_out(argument(rest, 0)?),
            "advance" => self.advance(argument(rest, 0)?, false),
            "run" => self.advance(argument(rest, 0)?, true),
            "elect" => self.elect(argument(rest, 0)?),
            "persist" => self.persist(argument(rest, 0)?, rest.get(1).copied()),
            "apply" => self.apply_all(argument(rest, 0)?),
            "snapshot" => self.save(argument(rest, 0)?),
            "fetch" => self.fetch(argument(rest, 0)?, rest.get(1) == Some(&"fails")),
            "status" => self.tell_status(rest),
            "log" => self.tell_log(argument(rest, 0)?),
            "reset" => self.reset(argument(rest, 0)?, rest.get(1).copied().unwrap_or("")),
            _ => self.order(name, rest),
        }
    }

    /// Commands that are one input of one node.
    fn order(&mut self, name: &str, rest: &[&str]) -> Result<(), String> {
        let second = || rest.get(1).copied().ok_or("something is missing");
        let node = argument(rest, 0).map_err(|why| format!("'{name}': {why}"))?;
        let input = match name {
            "campaign" => Input::Campaign {
                token: self.token(),
            },
            "propose" => self.proposals(&rest[1..]),
            "transfer" => Input::TransferLeadership {
                token: self.token(),
                target: match second()? {
                    "best" => TransferTarget::Best,
                    target => TransferTarget::Node(NodeId(number(target)?)),
                },
            },
            "read" => Input::ReadIndex {
                token: self.token(),
                mode: if second()? == "lease" {
                    ReadMode::Lease
                } else {
                    ReadMode::Quorum
                },
            },
            "change" => Input::ChangeConfiguration {
                token: self.token(),
                change: parse_change(&rest[1..])?,
                expected: None,
            },
            "cancel" => Input::CancelChange {
                token: self.token(),
            },
            "read-only" => {
                let read_only = second()? == "on";
                self.judge()?.set_read_only(node as usize - 1, read_only);
                Input::SetReadOnly(read_only)
            }
            "priority" => self.priority(node, number(second()?)? as u32)?,
            "drain" => {
                let drained = second()? == "on";
                let patience_us = 3 * self.settings.election_timeout.as_micros() as u64;
                let now_us = self.actor(node)?.now_us;
                let judge = self.judge()?;
                judge.set_now(now_us);
                judge.set_drained(node as usize - 1, drained, patience_us);
                Input::SetDrained(drained)
            }
            "unreachable" => Input::PeerUnreachable {
                peer: NodeId(number(second()?)?),
            },
            "timeouts" => Input::SetTimeouts {
                token: self.token(),
                election_timeout: Duration::from_millis(number(second()?)?),
                max_clock_drift: match rest.get(2) {
                    Some(drift) => Some(Duration::from_millis(number(drift)?)),
                    None => None,
                },
            },
            "shutdown" => Input::Shutdown,
            _ => return Err(format!("there is no command '{name}'")),
        };
        self.input(node, input)
    }

    fn priority(&mut self, node: u64, priority: u32) -> Result<Input, String> {
        let token = self.token();
        let core = self.actor(node)?.core.as_ref();
        let core = core.ok_or_else(|| format!("node {node} is down"))?;
        let settings = Settings {
            priority,
            ..core.settings().clone()
        };
        let settings = settings.into();
        Ok(Input::SetSettings { token, settings })
    }

    fn proposals(&mut self, texts: &[&str]) -> Input {
        let proposals = texts.iter().map(|text| {
            self.tokens += 1;
            Proposal {
                token: Token(self.tokens),
                expected_term: None,
                time_ns: 0,
                kind: EntryKind::Command(Bytes::copy_from_slice(text.as_bytes())),
            }
        });
        Input::Propose(proposals.collect())
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn judge(&mut self) -> Result<&mut Oracle, String> {
        self.oracle
            .as_mut()
            .ok_or_else(|| "first say how many nodes there are".to_owned())
    }

    fn actor(&mut self, node: u64) -> Result<&mut Actor, String> {
        self.actors
            .get_mut(&node)
            .ok_or_else(|| format!("there is no node {node}"))
    }

    fn say(&mut self, node: u64, what: impl std::fmt::Display) {
        self.trace.push(format!("{node}: {what}"));
    }

    fn set_up(&mut self, rest: &[&str]) -> Result<(), String> {
        let count: u64 = argument(rest, 0)?;
        let mut members = MemberSet::of_voters((1..=count).map(NodeId));
        self.settings.election_spread_max = Duration::from_millis(1);
        for word in &rest[1..] {
            let (name, value) = word
                .split_once('=')
                .ok_or(format!("'{word}' is no setting"))?;
            if name == "learners" {
                for learner in numbers(value)? {
                    members.voters.remove(&NodeId(learner));
                    members.learners.insert(NodeId(learner));
                }
            } else {
                self.set(name, value)?;
            }
        }
        let initial = Members::stable(Set::of(&members));
        self.oracle = Some(Oracle::new(
            initial,
            self.settings.step_down_on_vote_timeout,
        ));
        (1..=count).try_for_each(|node| self.add(node, &members))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let settings = &mut self.settings;
        match name {
            "lease" => settings.leader_lease = value == "on",
            "takeover" => settings.priority_takeover = value == "on",
            "window" => settings.inflight_messages_max = number(value)? as usize,
            "batch" => settings.append_entries_max = number(value)? as usize,
            "cache" => settings.cache_size_bytes_max = number(value)? as usize,
            "catch-up" => settings.catch_up_timeout = Duration::from_millis(number(value)?),
            "margin" => settings.catch_up_margin_entries = number(value)?,
            "uncommitted" => settings.uncommitted_size_bytes_max = number(value)? as usize,
            _ => return Err(format!("there is no setting '{name}'")),
        }
        Ok(())
    }

    fn add(&mut self, node: u64, initial: &MemberSet) -> Result<(), String> {
        let members = Members::stable(Set::of(initial));
        self.judge()?.add_replica(NodeId(node), members);
        let actor = Actor {
            core: None,
            disk: Disk::default(),
            machine: Machine::new(members),
            initial: initial.clone(),
            now_us: 1_000_000,
            hold_writes: false,
            hold_applies: false,
            batches: VecDeque::new(),
            fetch: None,
            view: View {
                role: Role::Follower,
                term: kontiki_raft::Term(0),
                leader: None,
                commit: LogIndex(0),
            },
        };
        self.actors.insert(node, actor);
        self.open(node)
    }

    fn open(&mut self, node: u64) -> Result<(), String> {
        let settings = self.settings.clone();
        let actor = self.actor(node)?;
        let recovered = actor.disk.recover(usize::MAX);
        let initial = Members::stable(Set::of(&actor.initial));
        actor.machine = actor
            .disk
            .newest()
            .map_or(Machine::new(initial), |s| s.machine);
        let now = Instant(actor.now_us);
        let core = Core::new(
            NodeId(node),
            settings,
            actor.initial.clone(),
            recovered.clone(),
            now,
            node,
        );
        actor.view = View::of(&core);
        let view = actor.view;
        actor.core = Some(core);
        lift(self.judge()?.opened(node as usize - 1, &recovered, view))
    }

    fn crash(&mut self, node: u64) -> Result<(), String> {
        let actor = self.actor(node)?;
        actor.core = None;
        actor.disk.lose_pending();
        actor.batches.clear();
        actor.fetch = None;
        self.next.retain(|(whose, _)| *whose != node);
        self.judge()?.closed(node as usize - 1);
        Ok(())
    }

    /// What nodes do to themselves.
    fn run_own(&mut self) -> Result<(), String> {
        while let Some((node, input)) = self.next.pop_front() {
            self.input(node, input)?;
        }
        Ok(())
    }

    fn input(&mut self, node: u64, input: Input) -> Result<(), String> {
        let actor = self.actor(node)?;
        let Some(core) = &mut actor.core else {
            return Err(format!("node {node} is down"));
        };
        let mut effects = Vec::new();
        let now_us = actor.now_us;
        core.handle(Instant(now_us), input, &mut effects);
        let before = actor.view;
        let view = View::of(core);
        actor.view = view;
        let n = node as usize - 1;
        let judge = self.judge()?;
        judge.set_now(now_us);
        lift(judge.begin(n, view))?;
        for effect in &effects {
            if let Effect::Persist(persist) = effect {
                lift(judge.persisting(n, persist))?;
            }
        }
        lift(judge.committing(n))?;
        self.tell_change(node, before, view);
        for effect in effects {
            self.carry_out_effect(node, effect)?;
        }
        lift(self.judge()?.finish(n))
    }

    fn tell_change(&mut self, node: u64, before: View, after: View) {
        if (before.role, before.term) != (after.role, after.term) {
            let role = match after.role {
                Role::Follower => "is a follower in",
                Role::PreCandidate => "asks for pre-votes in",
                Role::Candidate => "is a candidate in",
                Role::Leader => "leads",
                Role::Transferring => "hands over in",
                Role::Stopped => "has stopped in",
            };
            self.say(node, format!("{role} term {}", after.term));
        }
        if before.commit != after.commit {
            self.say(node, format!("commits {}", after.commit));
        }
    }

    fn send(&mut self, from: u64, to: u64, message: kontiki_raft::Message) -> Result<(), String> {
        let now = self.actor(from)?.now_us;
        lift(
            self.judge()?
                .sending(from as usize - 1, NodeId(to), &message, now),
        )?;
        let lost = self.cut.contains(&(from, to));
        let note = if lost { " (lost)" } else { "" };
        let what = words::message(&message);
        if !self.silent || !what.starts_with("Heartbeat") {
            self.trace.push(format!("{from} -> {to}  {what}{note}"));
        }
        if !lost {
            self.letters.push(Letter { from, to, message });
        }
        Ok(())
    }

    fn deliver(&mut self, selector: &Selector) -> Result<(), String> {
        for letter in selector.take(&mut self.letters) {
            let up = self
                .actors
                .get(&letter.to)
                .is_some_and(|a| a.core.is_some());
            if self.cut.contains(&(letter.from, letter.to)) || !up {
                continue;
            }
            let from = NodeId(letter.from);
            self.input(
                letter.to,
                Input::Message {
                    from,
                    message: letter.message,
                },
            )?;
            self.run_own()?;
        }
        Ok(())
    }

    fn drop_letters(&mut self, selector: &Selector) -> Result<(), String> {
        for letter in selector.take(&mut self.letters) {
            let what = words::message(&letter.message);
            self.trace.push(format!(
                "{} -> {}  {what} (dropped)",
                letter.from, letter.to
            ));
        }
        Ok(())
    }

    /// Delivers and carries out everything until nothing is under way.
    fn settle(&mut self) -> Result<(), String> {
        for node in self.actors.keys().copied().collect::<Vec<_>>() {
            let actor = self.actor(node)?;
            let due = actor.core.as_ref().and_then(Core::next_deadline);
            if due.is_some_and(|at| at.0 <= actor.now_us) {
                self.input(node, Input::Tick)?;
            }
        }
        for _ in 0..ROUNDS_MAX {
            self.run_own()?;
            if self.letters.is_empty() {
                return Ok(());
            }
            self.deliver(&Selector::default())?;
        }
        Err("it does not settle".into())
    }

    fn rewire(&mut self, name: &str, rest: &[&str]) -> Result<(), String> {
        match name {
            "heal" => self.cut.clear(),
            "isolate" => {
                let node = argument(rest, 0)?;
                let others: Vec<u64> = self.actors.keys().copied().collect();
                for other in others.into_iter().filter(|other| *other != node) {
                    self.cut.extend([(node, other), (other, node)]);
                }
            }
            _ => {
                let (from, to) = rest
                    .first()
                    .and_then(|w| w.split_once("->"))
                    .ok_or("cut 1->2")?;
                self.cut.push((number(from)?, number(to)?));
            }
        }
        Ok(())
    }

    fn hold(&mut self, hold: bool, rest: &[&str]) -> Result<(), String> {
        let node = argument(rest, 1)?;
        let what = rest[0];
        let actor = self.actor(node)?;
        match what {
            "writes" => actor.hold_writes = hold,
            "applies" => actor.hold_applies = hold,
            _ => return Err("hold writes or applies".into()),
        }
        match (hold, what) {
            (false, "writes") => self.persist(node, None),
            (false, _) => self.apply_all(node),
            (true, _) => Ok(()),
        }
    }

    /// Lets the node's clock alone run to its next timer.
    fn time_out(&mut self, node: u64) -> Result<(), String> {
        let actor = self.actor(node)?;
        let due = actor.core.as_ref().and_then(Core::next_deadline);
        actor.now_us = actor.now_us.max(due.map_or(0, |at| at.0));
        self.input(node, Input::Tick)
    }

    /// All clocks go on; timers fire in the order of nodes, millisecond by millisecond. With
    /// `delivering`, messages arrive as they come, and signs of life are not told.
    fn advance(&mut self, milliseconds: u64, delivering: bool) -> Result<(), String> {
        self.silent = delivering;
        for _ in 0..milliseconds {
            for node in self.actors.keys().copied().collect::<Vec<_>>() {
                let actor = self.actor(node)?;
                actor.now_us += 1_000;
                let due = actor.core.as_ref().and_then(Core::next_deadline);
                if due.is_some_and(|at| at.0 <= actor.now_us) {
                    self.input(node, Input::Tick)?;
                }
            }
            self.run_own()?;
            if delivering {
                self.deliver(&Selector::default())?;
            }
        }
        self.silent = false;
        Ok(())
    }

    /// An ordered election that goes through; only its outcome is told.
    fn elect(&mut self, node: u64) -> Result<(), String> {
        let told = self.trace.len();
        let token = self.token();
        self.input(node, Input::Campaign { token })?;
        self.settle()?;
        self.trace.truncate(told);
        let view = self.actor(node)?.view;
        if !view.leads() {
            return Err(format!("node {node} was not elected"));
        }
        self.say(
            node,
            format!("leads term {}, has committed {}", view.term, view.commit),
        );
        Ok(())
    }
}

fn lift(check: Check) -> Result<(), String> {
    check.map_err(|violation| violation.to_string())
}

fn argument(rest: &[&str], at: usize) -> Result<u64, String> {
    number(rest.get(at).copied().ok_or("a node is missing")?)
}

fn numbers(list: &str) -> Result<Vec<u64>, String> {
    list.split(',')
        .filter(|word| !word.is_empty())
        .map(number)
        .collect()
}

fn parse_change(words: &[&str]) -> Result<ConfigurationChange, String> {
    let [what, whom] = words else {
        return Err("change NODE add-voter|add-learner|promote|demote|remove|replace …".into());
    };
    match *what {
        "add-voter" => Ok(ConfigurationChange::AddVoter(NodeId(number(whom)?))),
        "add-learner" => Ok(ConfigurationChange::AddLearner(NodeId(number(whom)?))),
        "promote" => Ok(ConfigurationChange::Promote(NodeId(number(whom)?))),
        "demote" => Ok(ConfigurationChange::Demote(NodeId(number(whom)?))),
        "remove" => Ok(ConfigurationChange::Remove(NodeId(number(whom)?))),
        "replace" => {
            let (voters, learners) = whom.split_once('/').unwrap_or((whom, ""));
            Ok(ConfigurationChange::Replace(MemberSet {
                voters: numbers(voters)?.into_iter().map(NodeId).collect(),
                learners: numbers(learners)?.into_iter().map(NodeId).collect(),
            }))
        }
        other => Err(format!("there is no change '{other}'")),
    }
}
