//! The test every machine must pass.

use super::Replica;
use crate::{Answer, Machine, Reject};

/// How often a log is replayed with restarts at other places.
const ROUNDS: u64 = 8;

/// Checks that a machine is a function of its log: applies `commands` in one batch, one by one, and
/// in uneven batches with a save and load into a new replica between them, and demands the same
/// answers, the same answers to `queries`, and the same snapshot bytes each time.
///
/// # Panics
/// If anything differs, or a save or load fails.
pub fn assert_conformant<M: Machine>(commands: &[impl AsRef<[u8]>], queries: &[impl AsRef<[u8]>]) {
    let commands: Vec<&[u8]> = commands.iter().map(AsRef::as_ref).collect();
    let mut whole = Replica::<M>::new();
    let expected = whole.apply_batch(&commands);

    let mut single = Replica::<M>::new();
    let answers: Vec<_> = commands
        .iter()
        .map(|command| single.apply(command))
        .collect();
    assert_eq!(
        answers, expected,
        "answers depend on how commands are cut into batches"
    );
    assert_same(&whole, &single, queries);

    for round in 0..ROUNDS {
        let (replica, answers) = run_with_restarts::<M>(&commands, round);
        assert_eq!(
            answers, expected,
            "answers differ after a restart from a snapshot"
        );
        assert_same(&whole, &replica, queries);
    }
}

fn run_with_restarts<M: Machine>(
    commands: &[&[u8]],
    seed: u64,
) -> (Replica<M>, Vec<Result<Answer, Reject>>) {
    let mut random = SplitMix(seed);
    let mut replica = Replica::<M>::new();
    let mut answers = Vec::new();
    let mut rest = commands;
    while !rest.is_empty() {
        let length_max = rest.len().min(1 + commands.len() / 2) as u64;
        let (batch, after) = rest.split_at(1 + (random.next() % length_max) as usize);
        answers.extend(replica.apply_batch(batch));
        rest = after;
        if random.next().is_multiple_of(2) {
            let snapshot = replica.save().expect("save succeeds");
            replica = Replica::load(&snapshot).expect("what was saved loads");
        }
    }
    (replica, answers)
}

fn assert_same<M: Machine>(a: &Replica<M>, b: &Replica<M>, queries: &[impl AsRef<[u8]>]) {
    for query in queries {
        let text = String::from_utf8_lossy(query.as_ref());
        assert_eq!(
            a.query(query),
            b.query(query),
            "answers to the query {text:?} differ"
        );
    }
    let contents = |replica: &Replica<M>| {
        let snapshot = replica.save().expect("save succeeds");
        (
            snapshot.files().clone(),
            snapshot.contents().expect("listed files can be read"),
        )
    };
    assert!(
        contents(a) == contents(b),
        "equal states wrote different snapshots"
    );
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to place restarts, the same on every run.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
