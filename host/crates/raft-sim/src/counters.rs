//! What happened in a run, and whether it was enough to prove anything.

use serde_json::{Map, Value};

macro_rules! counters {
    ($($name:ident $floor:literal $text:literal,)*) => {
        /// Counts of what happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $text] pub $name: u64,)*
        }

        impl Counters {
            /// Adds another run's counts.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Name, count, and how many there must be in a million steps of a mixed batch.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, u64, u64)> {
                vec![$((stringify!($name), self.$name, $floor),)*]
            }
        }
    };
}

counters! {
    steps 0 "Inputs handled by any core.",
    crashes 100 "Nodes that died at a random moment.",
    crash_points 20 "Nodes that died between the effects of one input.",
    snapshot_crash_points 20 "Nodes that died just before or after a snapshot was published.",
    power_cuts 10 "Times all nodes died at once.",
    writes_lost 100 "Writes lost in a crash.",
    writes_failed 10 "Writes that failed.",
    completions_lost 200 "Completions that came late or only with the next write.",
    disk_stalls 20 "Disks that stood still.",
    pauses 50 "Nodes that stood still.",
    partitions 50 "Partitions into sides, bridges included.",
    one_way_cuts 20 "Cuts in one direction.",
    flaps 20 "Links going up and down.",
    messages_sent 50_000 "Messages sent.",
    messages_lost 1_000 "Messages lost to chance or to a cut.",
    messages_doubled 1_000 "Messages that arrived twice.",
    clock_changes 20 "Clocks that changed their rate.",
    elections 200 "Leaders that came to power.",
    commits 1_000 "Advances of the commit index.",
    applied 5_000 "Entries applied by any replica.",
    snapshots_saved 100 "Snapshots saved.",
    snapshots_installed 20 "Snapshots installed from another node.",
    fetches_failed 10 "Snapshots that could not be fetched.",
    compactions 100 "Logs compacted.",
    read_back 100 "Entries read back from disk for a slow follower.",
    changes_done 20 "Membership changes done.",
    changes_joint 5 "Joint configurations committed.",
    changes_refused 20 "Membership changes refused.",
    transfers_done 10 "Leaderships handed over.",
    transfers_refused 10 "Transfers refused or timed out.",
    campaigns 20 "Elections ordered.",
    read_only_switches 10 "Switches into or out of read-only mode.",
    timeouts_changed 10 "Changes of timers.",
    priorities_changed 10 "Changes of priority.",
    drains 10 "Nodes drained or released.",
    takeovers 10 "Leaders that handed over to a member of higher priority.",
    wipes 3 "Disks destroyed.",
    resets 1 "Memberships forced on a survivor.",
    ghosts 50 "Messages of long ago that arrived again.",
    ghosts_judged 20 "Those of them that had to change nothing.",
    shutdowns 10 "Orderly shutdowns.",
    apply_failures 10 "State machines that failed.",
    unreachable_hints 10 "Hints that a peer is unreachable.",
    writes_acknowledged 1_000 "Writes acknowledged to clients.",
    writes_refused 100 "Writes refused.",
    writes_unknown 10 "Writes whose outcome is unknown.",
    reads_on_leader 200 "Linearizable reads served by the leader.",
    reads_on_follower 100 "Linearizable reads served by a follower.",
    reads_refused 20 "Reads refused.",
    lease_comparisons 20 "Leases looked at while a leader of a later term led too.",
    checks_entries 10_000 "Appended entries compared.",
    checks_messages 50_000 "Messages judged.",
    checks_answers 2_000 "Answers judged.",
    checks_reads 500 "Read indexes judged.",
    checks_configurations 100 "Configurations appended and judged.",
    checks_read_only 5 "Leaders that learned that too few of their voters take commands.",
    samples 500_000 "Replicas whose limits and counted copies were checked.",
    liveness_phases 10 "Runs whose liveness phase ended well.",
    histories 10 "Client histories judged without indexes.",
}

impl Counters {
    /// What is below its floor. A batch of few steps is judged by its share, but everything must
    /// have happened at least once in it.
    #[must_use]
    pub fn too_few(&self) -> Vec<(&'static str, u64, u64)> {
        let rows = self.rows().into_iter().filter(|(_, _, floor)| *floor > 0);
        rows.map(|(name, count, floor)| (name, count, (floor * self.steps / 1_000_000).max(1)))
            .filter(|(_, count, least)| count < least)
            .collect()
    }

    /// As a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rows = self.rows().into_iter();
        Value::Object(
            rows.map(|(name, count, _)| (name.into(), count.into()))
                .collect::<Map<_, _>>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_events_fails_the_gate() {
        let idle = Counters {
            steps: 1_000_000,
            ..Counters::default()
        };
        let too_few = idle.too_few();
        assert!(
            too_few
                .iter()
                .any(|(name, _, least)| *name == "elections" && *least == 200)
        );
        assert_eq!(too_few.len(), idle.rows().len() - 1, "all but the steps");
    }

    #[test]
    fn floors_scale_with_the_steps() {
        let half = Counters {
            steps: 500_000,
            elections: 100,
            ..Counters::default()
        };
        assert!(
            half.too_few()
                .iter()
                .all(|(name, _, _)| *name != "elections")
        );
    }
}
