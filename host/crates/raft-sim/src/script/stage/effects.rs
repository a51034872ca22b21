//! What nodes want done, and what their disks and state machines do.

use super::{Stage, argument, lift, number, numbers};
use crate::disk::Snapshot;
use crate::members::{Members, Set};
use crate::script::words;
use kontiki_raft::{Effect, Input, Instant, MemberSet, NodeId, SnapshotMeta};

impl Stage {
    pub(super) fn carry_out_effect(&mut self, node: u64, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Persist(persist) => {
                self.say(node, format!("writes {}", words::persist(&persist)));
                let actor = self.actor(node)?;
                actor.disk.write(persist);
                if !actor.hold_writes {
                    self.persist(node, None)?;
                }
            }
            Effect::Send { to, message } => self.send(node, to.0, message)?,
            Effect::Apply(batch) => {
                let actor = self.actor(node)?;
                actor.batches.push_back(batch);
                if !actor.hold_applies {
                    self.apply_all(node)?;
                }
            }
            Effect::ReadEntries {
                read,
                first,
                last,
                size_bytes_max,
            } => {
                self.say(node, format!("reads {first} to {last} back from disk"));
                let result = self.actor(node)?.disk.read(first, last, size_bytes_max);
                let result = Ok(result.ok_or("the entries are not on disk")?);
                self.next
                    .push_back((node, Input::EntriesRead { read, result }));
            }
            Effect::FetchSnapshot { from, snapshot } => {
                self.say(
                    node,
                    format!("fetches snapshot {} from {from}", snapshot.last_included),
                );
                lift(self.judge()?.fetching(node as usize - 1, &snapshot))?;
                self.actor(node)?.fetch = Some((from.0, snapshot));
            }
            Effect::CompactLog { upto } => {
                self.say(node, format!("compacts its log up to {upto}"));
                self.actor(node)?.disk.compact(upto);
            }
            Effect::Done { token } => self.say(node, format!("request {token} is done")),
            Effect::Rejected { token, reason } => {
                self.say(node, format!("request {token} is refused: {reason}"));
            }
            Effect::ReadReady { token, index } => {
                self.say(node, format!("read {token} may be served at {index}"));
            }
            Effect::Event(event) => {
                self.say(node, words::event(&event));
                lift(self.judge()?.event(node as usize - 1, &event))?;
            }
        }
        Ok(())
    }

    /// Makes writes durable: all that wait, or the first few.
    pub(super) fn persist(&mut self, node: u64, count: Option<&str>) -> Result<(), String> {
        let count = count.map_or(Ok(u64::MAX), number)?;
        let mut last = None;
        for _ in 0..count {
            let Some(write) = self.actor(node)?.disk.sync_one() else {
                break;
            };
            lift(self.judge()?.synced(node as usize - 1, &write))?;
            last = Some(write.io);
        }
        if let Some(io) = last {
            self.next.push_back((node, Input::Persisted { io }));
        }
        Ok(())
    }

    pub(super) fn apply_all(&mut self, node: u64) -> Result<(), String> {
        while let Some(batch) = self.actor(node)?.batches.pop_front() {
            let actor = self.actor(node)?;
            let entries = if batch.entries.is_empty() {
                actor
                    .disk
                    .read(batch.first, batch.last, usize::MAX)
                    .unwrap_or_default()
            } else {
                batch.entries
            };
            self.say(node, format!("applies {}", words::entries(&entries)));
            for entry in &entries {
                let actor = self.actor(node)?;
                actor.machine.apply(entry);
                let machine = actor.machine;
                lift(self.judge()?.applied(node as usize - 1, entry, &machine))?;
            }
            for (index, token) in batch.waiting {
                self.say(node, format!("request {token} is applied at {index}"));
            }
            self.next
                .push_back((node, Input::Applied { index: batch.last }));
        }
        Ok(())
    }

    pub(super) fn save(&mut self, node: u64) -> Result<(), String> {
        let actor = self.actor(node)?;
        let snapshot = SnapshotMeta {
            last_included: actor.machine.applied,
            configuration: actor.machine.members.to_configuration(),
        };
        let machine = actor.machine;
        actor.disk.publish(Snapshot {
            meta: snapshot.clone(),
            machine,
        });
        lift(
            self.judge()?
                .published(node as usize - 1, &snapshot, &machine),
        )?;
        self.say(node, format!("saved snapshot {}", snapshot.last_included));
        self.input(node, Input::SnapshotSaved { snapshot })
    }

    /// The snapshot being fetched has come, or not.
    pub(super) fn fetch(&mut self, node: u64, fails: bool) -> Result<(), String> {
        let (from, meta) = self
            .actor(node)?
            .fetch
            .take()
            .ok_or("nothing is being fetched")?;
        let copied = self.actor(from)?.disk.snapshot(meta.last_included).cloned();
        let Some(snapshot) = copied.filter(|_| !fails) else {
            return self.input(node, Input::SnapshotFailed { snapshot: meta });
        };
        let n = node as usize - 1;
        lift(self.judge()?.loaded(n, meta.last_included))?;
        lift(self.judge()?.published(n, &meta, &snapshot.machine))?;
        let actor = self.actor(node)?;
        actor.machine = snapshot.machine;
        actor.disk.publish(snapshot);
        self.say(node, format!("loaded snapshot {}", meta.last_included));
        self.input(node, Input::SnapshotInstalled { snapshot: meta })
    }

    /// Forces a membership on a survivor.
    pub(super) fn reset(&mut self, node: u64, members: &str) -> Result<(), String> {
        let members = MemberSet::of_voters(numbers(members)?.into_iter().map(NodeId));
        let judge = self.judge()?;
        judge.forgive(node as usize - 1);
        judge.force_members(Members::stable(Set::of(&members)));
        let token = self.token();
        self.input(node, Input::ResetPeers { token, members })
    }

    pub(super) fn tell_status(&mut self, rest: &[&str]) -> Result<(), String> {
        let node: u64 = argument(rest, 0)?;
        let actor = self.actor(node)?;
        let now = Instant(actor.now_us);
        let core = actor.core.as_ref().ok_or(format!("node {node} is down"))?;
        let status = core.status(now);
        let leader = status
            .leader
            .map_or("none".into(), |leader| leader.to_string());
        self.say(
            node,
            format!(
                "{:?} of term {}, leader {leader}, last {}, durable {}, commit {}, applied {}, members {}, lease {:?}",
                status.role, status.term, status.last, status.durable_index, status.commit_index,
                status.applied_index, words::configuration(&status.configuration), status.lease
            ),
        );
        for peer in &status.peers {
            self.say(
                node,
                format!(
                    "  peer {} {:?} match {} next {} in flight {}",
                    peer.node,
                    peer.state,
                    peer.match_index,
                    peer.next_index,
                    peer.inflight_messages
                ),
            );
        }
        Ok(())
    }

    pub(super) fn tell_log(&mut self, node: u64) -> Result<(), String> {
        let disk = &self.actor(node)?.disk;
        let start = disk.recover(0).log_start;
        let first = start.index.next();
        let read = disk
            .read(first, disk.last().index, usize::MAX)
            .unwrap_or_default();
        self.say(
            node,
            format!("on disk after {start}: {}", words::entries(&read)),
        );
        Ok(())
    }
}
