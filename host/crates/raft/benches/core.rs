//! Cost of the core alone: nanoseconds per proposed-and-committed entry, messages delivered at
//! once, writes completed at once. Run with `cargo bench -p kontiki-raft`.

use bytes::Bytes;
use kontiki_raft::{
    Core, Effect, Effects, EntryKind, Input, Instant, MemberSet, NodeId, Proposal, Recovered,
    Settings, Token,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant as Wall};

/// Replicas with a perfect network and disk.
struct Cluster {
    now: Instant,
    cores: Vec<Core>,
    wire: VecDeque<(usize, Input)>,
    applied: u64,
}

impl Cluster {
    fn new(voters: u64) -> Self {
        let members = MemberSet::of_voters((1..=voters).map(NodeId));
        let open = |id| {
            let (settings, members) = (Settings::default(), members.clone());
            Core::new(
                NodeId(id),
                settings,
                members,
                Recovered::default(),
                Instant(0),
                id,
            )
        };
        Self {
            now: Instant(0),
            cores: (1..=voters).map(open).collect(),
            wire: VecDeque::new(),
            applied: 0,
        }
    }

    fn give(&mut self, at: usize, input: Input, effects: &mut Effects) {
        self.wire.push_back((at, input));
        while let Some((at, input)) = self.wire.pop_front() {
            self.cores[at].handle(self.now, input, effects);
            let from = NodeId(at as u64 + 1);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Persist(persist) => {
                        self.wire
                            .push_back((at, Input::Persisted { io: persist.io }));
                    }
                    Effect::Send { to, message } => {
                        let to = to.0 as usize - 1;
                        self.wire.push_back((to, Input::Message { from, message }));
                    }
                    Effect::Apply(batch) => {
                        self.applied += batch.entries.len() as u64;
                        self.wire
                            .push_back((at, Input::Applied { index: batch.last }));
                    }
                    _ => {}
                }
            }
        }
    }

    fn elect(&mut self) -> usize {
        let mut effects = Effects::new();
        loop {
            self.now = self.now.plus(Duration::from_millis(10));
            for at in 0..self.cores.len() {
                self.give(at, Input::Tick, &mut effects);
            }
            let leads = |core: &Core| core.leader().is_some_and(|id| Some(id) == own(core));
            if let Some(at) = self.cores.iter().position(leads) {
                return at;
            }
        }
    }
}

fn own(core: &Core) -> Option<NodeId> {
    matches!(core.role(), kontiki_raft::Role::Leader)
        .then(|| core.leader())
        .flatten()
}

fn measure(voters: u64, batch: usize) -> f64 {
    let mut cluster = Cluster::new(voters);
    let leader = cluster.elect();
    let payload = Bytes::from_static(&[7; 16]);
    let mut effects = Effects::new();
    let rounds = 400_000 / batch / voters as usize;
    let begun = Wall::now();
    for round in 0..rounds {
        let proposals = (0..batch).map(|n| Proposal {
            token: Token((round * batch + n) as u64),
            expected_term: None,
            time_ns: 0,
            kind: EntryKind::Command(payload.clone()),
        });
        let proposals = Input::Propose(proposals.collect());
        cluster.give(leader, proposals, &mut effects);
    }
    let elapsed = begun.elapsed();
    assert!(cluster.applied >= (rounds * batch) as u64 * voters);
    elapsed.as_nanos() as f64 / (rounds * batch) as f64
}

fn main() {
    println!("ns per entry, committed and applied on every member (all members' work together)");
    for voters in [1, 3, 5] {
        for batch in [1, 16, 256] {
            let best = (0..5)
                .map(|_| measure(voters, batch))
                .fold(f64::MAX, f64::min);
            println!("members {voters}  batch {batch:3}  {best:8.0} ns");
        }
    }
}
