//! raft-rs.

use crate::{Group, PAYLOAD};
use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use std::collections::VecDeque;

/// A member with raft-rs's own storage in memory.
struct Member {
    node: RawNode<MemStorage>,
    storage: MemStorage,
    applied: u64,
    last_applied: u64,
}

impl Member {
    fn new(id: u64, voters: &[u64]) -> Self {
        let storage = MemStorage::new_with_conf_state((voters.to_vec(), vec![]));
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            max_size_per_msg: 512 << 10,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, storage.clone(), &logger).expect("a valid configuration");
        Self {
            node,
            storage,
            applied: 0,
            last_applied: 0,
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.last_applied = entry.index;
            if !entry.data.is_empty() {
                assert_eq!(entry.data.len(), PAYLOAD.len());
                self.applied += 1;
            }
        }
    }

    /// Carries out everything that is ready, in the order its documentation prescribes; writes are
    /// durable at once, as ours are.
    fn carry_out(&mut self, out: &mut VecDeque<Message>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            out.extend(ready.take_messages());
            let committed = ready.take_committed_entries();
            self.apply(committed);
            let entries = ready.take_entries();
            self.storage.wl().append(&entries).expect("in memory");
            if let Some(hard_state) = ready.hs() {
                self.storage.wl().set_hardstate(hard_state.clone());
            }
            out.extend(ready.take_persisted_messages());
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.storage.wl().mut_hard_state().set_commit(commit);
            }
            out.extend(light.take_messages());
            let committed = light.take_committed_entries();
            self.apply(committed);
            self.node.advance_apply();
        }
    }
}

/// A group of raft-rs nodes.
pub struct Theirs {
    members: Vec<Member>,
    messages: VecDeque<Message>,
    payload: Bytes,
}

impl Theirs {
    fn deliver(&mut self) {
        while let Some(message) = self.messages.pop_front() {
            let to = usize::try_from(message.to - 1).expect("few members");
            let member = &mut self.members[to];
            member.node.step(message).expect("a message of a member");
            member.carry_out(&mut self.messages);
        }
    }
}

impl Group for Theirs {
    fn start(members: u64) -> Self {
        let voters: Vec<u64> = (1..=members).collect();
        let mut group = Self {
            members: voters.iter().map(|&id| Member::new(id, &voters)).collect(),
            messages: VecDeque::new(),
            payload: Bytes::from_static(PAYLOAD),
        };
        group.members[0].node.campaign().expect("may campaign");
        group.members[0].carry_out(&mut group.messages);
        group.deliver();
        assert_eq!(group.members[0].node.raft.state, StateRole::Leader);
        group
    }

    fn round(&mut self, batch: usize) {
        // One message with all entries, which is its cheapest way to propose several.
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = 1;
        let entry = |_| Entry {
            data: self.payload.clone(),
            ..Entry::default()
        };
        message.set_entries((0..batch).map(entry).collect::<Vec<_>>().into());
        self.members[0]
            .node
            .raft
            .step(message)
            .expect("a leader takes proposals");
        self.members[0].carry_out(&mut self.messages);
        self.deliver();
    }

    fn applied(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.applied).collect()
    }

    fn trim(&mut self) {
        for member in &mut self.members {
            member
                .storage
                .wl()
                .compact(member.last_applied)
                .expect("applied");
        }
    }
}
