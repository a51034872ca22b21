//! The state machine's side of a node: apply, snapshots, reads.

use super::node::{Fetch, Task};
use super::{Happening, World};
use crate::disk::Snapshot;
use crate::oracle::{Answer, Ask, Check, Invariant, Violation, broken};
use kontiki_raft::{ApplyBatch, Entry, Input, LogIndex, NodeId, SnapshotMeta};

impl World {
    pub(super) fn take_batch(&mut self, n: usize, batch: ApplyBatch) -> Check {
        self.nodes[n].tasks.push_back(Task::Apply(batch));
        self.start_task(n);
        Ok(())
    }

    fn start_task(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.working || node.tasks.is_empty() {
            return;
        }
        node.working = true;
        let (incarnation, slow) = (node.incarnation, node.apply_slow);
        let mut at = self.now
            + self
                .random
                .between(self.plan.apply_us.0, self.plan.apply_us.1);
        if slow {
            at += self.random.below(self.plan.fault_us);
        }
        self.queue.push(
            at,
            Happening::TaskDone {
                node: n,
                incarnation,
            },
        );
    }

    pub(super) fn on_task_done(&mut self, n: usize) -> Check {
        let node = &mut self.nodes[n];
        node.working = false;
        if std::mem::take(&mut node.apply_fails) {
            self.counters.apply_failures += 1;
            node.tasks.clear();
            let index = node.machine.index();
            return self.input(n, Input::ApplyFailed { index });
        }
        let incarnation = node.incarnation;
        match node.tasks.pop_front() {
            Some(Task::Apply(batch)) => self.apply(n, &batch)?,
            Some(Task::Load(snapshot)) => self.load(n, snapshot)?,
            None => {}
        }
        if self.nodes[n].incarnation == incarnation {
            self.start_task(n);
        }
        Ok(())
    }

    fn apply(&mut self, n: usize, batch: &ApplyBatch) -> Check {
        // A batch may have been ordered before the core heard of a snapshot that was loaded
        // meanwhile: what that holds is not applied again, and may be gone from the log.
        let first = batch.first.max(self.nodes[n].machine.index().next());
        let loaded = batch.last < first;
        if loaded && batch.waiting.is_empty() {
            return Ok(());
        }
        let read;
        let entries: &[Entry] = if loaded {
            &[]
        } else if batch.entries.is_empty() {
            let disk = &self.nodes[n].disk;
            read = disk.read(first, batch.last, usize::MAX).unwrap_or_default();
            &read
        } else {
            &batch.entries[(first.0 - batch.first.0) as usize..]
        };
        if !loaded && entries.len() as u64 != batch.last.0 + 1 - first.0 {
            return broken(
                Invariant::Contract,
                format!(
                    "node {}: {first} to {} are to be applied, but {} entries are there",
                    self.nodes[n].id,
                    batch.last,
                    entries.len()
                ),
            );
        }
        for entry in entries {
            let machine = &mut self.nodes[n].machine;
            if entry.id.index != machine.index().next() {
                let applied = machine.index();
                return broken(
                    Invariant::Contract,
                    format!(
                        "node {} applies {} after {applied}",
                        self.nodes[n].id, entry.id
                    ),
                );
            }
            machine.apply(entry);
            self.oracle.applied(n, entry, &self.nodes[n].machine)?;
        }
        for (index, token) in &batch.waiting {
            self.counters.writes_acknowledged += 1;
            self.answer(n, token.0, Answer::Applied(*index))?;
        }
        self.serve_reads(n)?;
        let index = self.nodes[n].machine.index();
        self.maybe_save(n);
        self.input(n, Input::Applied { index })
    }

    /// Answers the confirmed reads whose index is applied.
    pub(super) fn serve_reads(&mut self, n: usize) -> Check {
        let applied = self.nodes[n].machine.index();
        while let Some(at) = self.nodes[n]
            .reads
            .iter()
            .position(|(index, _)| *index <= applied)
        {
            let (_, token) = self.nodes[n].reads.swap_remove(at);
            let Some(Ask::Read { key, .. }) = self.oracle.request(token).map(|r| r.ask) else {
                continue;
            };
            if self.oracle.view(n).leads() {
                self.counters.reads_on_leader += 1;
            } else {
                self.counters.reads_on_follower += 1;
            }
            let value = self.nodes[n].machine.registers[usize::from(key)];
            self.answer(n, token, Answer::Served(applied, value))?;
        }
        Ok(())
    }

    fn maybe_save(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let since = node.machine.index().0 - node.snapshot_index.0;
        if node.saving.is_some() || since < self.plan.snapshot_every {
            return;
        }
        let index = node.machine.index();
        let core = node.core.as_ref();
        let Some(configuration) = core.and_then(|core| core.configuration_at(index)) else {
            return;
        };
        let meta = SnapshotMeta {
            last_included: node.machine.applied,
            configuration: configuration.clone(),
        };
        node.snapshot_index = index;
        node.saving = Some(Snapshot {
            meta,
            machine: node.machine,
        });
        let incarnation = node.incarnation;
        let at = self.now + self.random.below(self.plan.snapshot_us + 1);
        self.queue.push(
            at,
            Happening::Saved {
                node: n,
                incarnation,
            },
        );
    }

    pub(super) fn on_saved(&mut self, n: usize) -> Check {
        let Some(snapshot) = self.nodes[n].saving.take() else {
            return Ok(());
        };
        let meta = snapshot.meta.clone();
        let newest = self.nodes[n].disk.newest();
        if newest.is_some_and(|s| s.meta.last_included.index >= meta.last_included.index) {
            return Ok(());
        }
        if self.dies_at_snapshot(n)? {
            return Ok(());
        }
        self.counters.snapshots_saved += 1;
        self.publish(n, snapshot)?;
        if self.dies_at_snapshot(n)? {
            return Ok(());
        }
        self.input(n, Input::SnapshotSaved { snapshot: meta })
    }

    /// Whether the node dies now, on one side or the other of publishing a snapshot.
    fn dies_at_snapshot(&mut self, n: usize) -> Result<bool, Box<Violation>> {
        let dies = self.random.chance(self.plan.crash_at_snapshot_ppm);
        if dies {
            self.counters.snapshot_crash_points += 1;
            self.crash(n)?;
            self.restart_later(n);
        }
        Ok(dies)
    }

    fn publish(&mut self, n: usize, snapshot: Snapshot) -> Check {
        self.oracle
            .published(n, &snapshot.meta, &snapshot.machine)?;
        let node = &mut self.nodes[n];
        node.snapshot_index = node.snapshot_index.max(snapshot.meta.last_included.index);
        node.disk.publish(snapshot);
        Ok(())
    }

    pub(super) fn fetch(&mut self, n: usize, from: NodeId, meta: SnapshotMeta) -> Check {
        self.oracle.fetching(n, &meta)?;
        let node = &mut self.nodes[n];
        node.fetches += 1;
        let number = node.fetches;
        node.fetch = Some(Fetch {
            number,
            from: from.0 as usize - 1,
            meta,
        });
        let incarnation = node.incarnation;
        let at = self.now + self.random.below(self.plan.fetch_us) + 1;
        self.queue.push(
            at,
            Happening::Fetched {
                node: n,
                incarnation,
                number,
            },
        );
        Ok(())
    }

    pub(super) fn on_fetched(&mut self, n: usize, number: u64) -> Check {
        let current = self.nodes[n].fetch.as_ref().map(|fetch| fetch.number);
        if current != Some(number) {
            return Ok(());
        }
        let Some(fetch) = self.nodes[n].fetch.take() else {
            return Ok(());
        };
        let linked = self.network.passes(n, fetch.from) && self.network.passes(fetch.from, n);
        let source = &self.nodes[fetch.from];
        let copied = source.disk.snapshot(fetch.meta.last_included).cloned();
        let failed = !linked || !source.is_up() || self.random.chance(self.plan.fetch_fail_ppm);
        match copied.filter(|_| !failed) {
            Some(snapshot) => {
                self.nodes[n].tasks.push_back(Task::Load(snapshot));
                self.start_task(n);
                Ok(())
            }
            None => {
                self.counters.fetches_failed += 1;
                self.input(
                    n,
                    Input::SnapshotFailed {
                        snapshot: fetch.meta,
                    },
                )
            }
        }
    }

    fn load(&mut self, n: usize, snapshot: Snapshot) -> Check {
        let meta = snapshot.meta.clone();
        let last = meta.last_included;
        if last.index <= self.nodes[n].machine.index() {
            // Overtaken by what was applied meanwhile: a host does not go back.
            return self.input(n, Input::SnapshotFailed { snapshot: meta });
        }
        if self.dies_at_snapshot(n)? {
            return Ok(());
        }
        self.counters.snapshots_installed += 1;
        self.oracle.loaded(n, last)?;
        self.nodes[n].machine = snapshot.machine;
        self.publish(n, snapshot)?;
        if self.dies_at_snapshot(n)? {
            return Ok(());
        }
        self.serve_reads(n)?;
        self.input(n, Input::SnapshotInstalled { snapshot: meta })
    }

    /// Index up to which a node has applied.
    pub(super) fn applied(&self, n: usize) -> LogIndex {
        self.nodes[n].machine.index()
    }
}
