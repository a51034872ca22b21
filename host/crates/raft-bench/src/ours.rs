//! Kontiki's core.

use crate::{Group, PAYLOAD};
use bytes::Bytes;
use kontiki_raft::{
    Core, Effect, Effects, Entry, EntryKind, HardState, Input, Instant, LogId, MemberSet, NodeId,
    Proposal, Recovered, Role, Settings, SnapshotMeta, Token,
};
use std::collections::VecDeque;

/// A member with its storage in memory.
struct Member {
    core: Core,
    log: Vec<Entry>,
    hard_state: HardState,
    applied: u64,
    last_applied: LogId,
}

/// A group of Kontiki cores.
pub struct Ours {
    members: Vec<Member>,
    inputs: VecDeque<(usize, Input)>,
    effects: Effects,
    now: Instant,
    payload: Bytes,
    tokens: u64,
}

impl Ours {
    fn deliver(&mut self) {
        while let Some((at, input)) = self.inputs.pop_front() {
            let mut effects = std::mem::take(&mut self.effects);
            self.members[at].core.handle(self.now, input, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(at, effect);
            }
            self.effects = effects;
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let member = &mut self.members[at];
        match effect {
            Effect::Persist(write) => {
                if let Some(hard_state) = write.hard_state {
                    member.hard_state = hard_state;
                }
                member.log.extend(write.entries);
                self.inputs
                    .push_back((at, Input::Persisted { io: write.io }));
            }
            Effect::Send { to, message } => {
                let from = NodeId(at as u64 + 1);
                let to = usize::try_from(to.0 - 1).expect("few members");
                self.inputs
                    .push_back((to, Input::Message { from, message }));
            }
            Effect::Apply(batch) => {
                for entry in &batch.entries {
                    if let EntryKind::Command(payload) = &entry.kind {
                        assert_eq!(payload.len(), PAYLOAD.len());
                        member.applied += 1;
                    }
                    member.last_applied = entry.id;
                }
                self.inputs
                    .push_back((at, Input::Applied { index: batch.last }));
            }
            _ => {}
        }
    }
}

impl Group for Ours {
    fn start(members: u64) -> Self {
        let set = MemberSet::of_voters((1..=members).map(NodeId));
        let settings = Settings::default();
        let now = Instant(1_000_000);
        let member = |node| Member {
            core: Core::new(
                NodeId(node),
                settings.clone(),
                set.clone(),
                Recovered::default(),
                now,
                node,
            ),
            log: Vec::new(),
            hard_state: HardState::default(),
            applied: 0,
            last_applied: LogId::default(),
        };
        let mut group = Self {
            members: (1..=members).map(member).collect(),
            inputs: VecDeque::new(),
            effects: Effects::new(),
            now,
            payload: Bytes::from_static(PAYLOAD),
            tokens: 0,
        };
        group
            .inputs
            .push_back((0, Input::Campaign { token: Token(0) }));
        group.deliver();
        assert_eq!(group.members[0].core.role(), Role::Leader);
        group
    }

    fn round(&mut self, batch: usize) {
        let proposals = (0..batch).map(|_| {
            self.tokens += 1;
            Proposal {
                token: Token(self.tokens),
                expected_term: None,
                time_ns: 0,
                kind: EntryKind::Command(self.payload.clone()),
            }
        });
        let input = Input::Propose(proposals.collect());
        self.inputs.push_back((0, input));
        self.deliver();
    }

    fn applied(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.applied).collect()
    }

    fn trim(&mut self) {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            member.log.clear();
            let last_included = member.last_applied;
            let configuration = member.core.configuration_at(last_included.index);
            let configuration = configuration.expect("of what is applied").clone();
            let snapshot = SnapshotMeta {
                last_included,
                configuration,
            };
            self.inputs
                .push_back((at, Input::SnapshotSaved { snapshot }));
        }
        self.deliver();
    }
}
