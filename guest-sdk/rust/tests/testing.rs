//! The native harness: it does what the host does, and the conformance test finds broken machines.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use kontiki_guest::testing::{Replica, Snapshot, assert_conformant};
use kontiki_guest::{
    Answer, Entry, Error, Machine, Reject, SnapshotReader, SnapshotWriter, answer,
};
use std::cell::Cell;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::panic::catch_unwind;

/// How a machine is broken.
trait Fault: Default + 'static {
    const FORGETS_ON_SAVE: bool = false;
    const QUERY_CHANGES_STATE: bool = false;
    const SAVES_ITS_AGE: bool = false;
}

#[derive(Debug, Default)]
struct Sound;
#[derive(Debug, Default)]
struct Forgetful;
#[derive(Debug, Default)]
struct Meddling;
#[derive(Debug, Default)]
struct Aging;

impl Fault for Sound {}
impl Fault for Forgetful {
    const FORGETS_ON_SAVE: bool = true;
}
impl Fault for Meddling {
    const QUERY_CHANGES_STATE: bool = true;
}
impl Fault for Aging {
    const SAVES_ITS_AGE: bool = true;
}

/// Sums what it is sent.
#[derive(Debug, Default)]
struct Sum<F> {
    sum: Cell<u64>,
    /// Entries carried out since this replica was made or loaded: not part of the state.
    age: u64,
    fault: PhantomData<F>,
}

impl<F: Fault> Machine for Sum<F> {
    const NAME: &'static str = "sum";
    const VERSION: &'static str = "1.0.0";
    const STATE_FORMAT: u32 = 1;

    fn apply(&mut self, entry: Entry<'_>) -> Result<Answer, Reject> {
        let amount: u64 = entry
            .text()?
            .parse()
            .map_err(|_| Reject::new("no number"))?;
        self.age += 1;
        self.sum.set(self.sum.get() + amount);
        Ok(answer!(
            "{} at {} {}",
            self.sum.get(),
            entry.index(),
            entry.time()
        ))
    }

    fn query(&self, _request: &[u8]) -> Result<Answer, Reject> {
        if F::QUERY_CHANGES_STATE {
            self.sum.set(self.sum.get() + self.age);
        }
        Ok(answer!("{}", self.sum.get()))
    }

    fn save(&self, snapshot: &SnapshotWriter<'_>) -> Result<(), Error> {
        let mut file = snapshot.create("sum")?;
        let sum = if F::FORGETS_ON_SAVE {
            0
        } else {
            self.sum.get()
        };
        file.write_all(&sum.to_le_bytes())?;
        let age = if F::SAVES_ITS_AGE { self.age } else { 0 };
        file.finish(&age.to_le_bytes())?;
        Ok(())
    }

    fn load(snapshot: &SnapshotReader<'_>) -> Result<Self, Error> {
        let mut sum = [0; 8];
        snapshot.open("sum")?.read_exact(&mut sum)?;
        let sum = Cell::new(u64::from_le_bytes(sum));
        Ok(Sum {
            sum,
            age: 0,
            fault: PhantomData,
        })
    }
}

const COMMANDS: [&str; 9] = ["1", "2", "x", "4", "8", "16", "", "32", "64"];

fn conforms<F: Fault>() -> bool {
    catch_unwind(|| assert_conformant::<Sum<F>>(&COMMANDS, &["now"])).is_ok()
}

#[test]
fn conformance_accepts_a_sound_machine_and_finds_broken_ones() {
    assert!(conforms::<Sound>());
    assert!(
        !conforms::<Forgetful>(),
        "a state that is not saved is found"
    );
    assert!(
        !conforms::<Meddling>(),
        "a query that changes the state is found"
    );
    assert!(
        !conforms::<Aging>(),
        "a snapshot that tells the replica's history is found"
    );
}

#[test]
fn entries_have_ascending_places_and_times_across_a_restart() {
    let mut replica = Replica::<Sum<Sound>>::new();
    let answers = replica.apply_batch(&["1", "1"]);
    assert_eq!(answers[0].as_ref().unwrap(), &"1 at 1 1000000");
    assert_eq!(answers[1].as_ref().unwrap(), &"2 at 2 2000000");
    let mut replica = Replica::<Sum<Sound>>::load(&replica.save().unwrap()).unwrap();
    assert_eq!(replica.apply("1").unwrap(), "3 at 3 3000000");
    replica.advance(5);
    assert_eq!(replica.apply("1").unwrap(), "4 at 4 4000005");
}

#[test]
fn a_reject_stands_at_its_entry() {
    let mut replica = Replica::<Sum<Sound>>::new();
    let answers = replica.apply_batch(&COMMANDS);
    let rejected: Vec<bool> = answers.iter().map(Result::is_err).collect();
    assert_eq!(
        rejected,
        COMMANDS.map(|command| command.parse::<u64>().is_err())
    );
    assert_eq!(answers[2].as_ref().unwrap_err().reason(), "no number");
}

#[test]
fn a_file_that_is_not_finished_is_not_part_of_the_snapshot() {
    #[derive(Default)]
    struct TwoFiles;
    impl Machine for TwoFiles {
        const NAME: &'static str = "two-files";
        const VERSION: &'static str = "1.0.0";
        const STATE_FORMAT: u32 = 1;

        fn apply(&mut self, _: Entry<'_>) -> Result<Answer, Reject> {
            Ok(Answer::empty())
        }
        fn query(&self, _: &[u8]) -> Result<Answer, Reject> {
            Ok(Answer::empty())
        }
        fn save(&self, snapshot: &SnapshotWriter<'_>) -> Result<(), Error> {
            snapshot.create("kept")?.finish(b"note")?;
            snapshot.create("dropped")?.write_all(b"half")?;
            snapshot.create("removed")?.finish(b"")?;
            assert!(snapshot.remove("removed") && !snapshot.remove("removed"));
            assert!(snapshot.create("kept").is_err(), "no file is written twice");
            assert!(snapshot.create("../outside").is_err());
            assert_eq!(snapshot.info().format, 1);
            Ok(())
        }
        fn load(snapshot: &SnapshotReader<'_>) -> Result<Self, Error> {
            assert_eq!(snapshot.files().len(), 1);
            assert_eq!(snapshot.meta("kept").as_deref(), Some(&b"note"[..]));
            assert_eq!(snapshot.meta("dropped"), None);
            assert!(snapshot.open("../kept").is_err());
            Ok(TwoFiles)
        }
    }
    let snapshot = Replica::<TwoFiles>::new().save().unwrap();
    assert_eq!(snapshot.files().keys().collect::<Vec<_>>(), ["kept"]);
    Replica::<TwoFiles>::load(&snapshot).unwrap();
}

#[test]
fn a_temporary_snapshot_goes_and_a_named_one_stays() {
    let replica = Replica::<Sum<Sound>>::new();
    let temporary = replica.save().unwrap();
    let path = temporary.directory().to_owned();
    assert!(path.exists());
    drop(temporary);
    assert!(!path.exists());

    std::fs::create_dir(&path).unwrap();
    let named: Snapshot = replica.save_in(&path).unwrap();
    drop(named);
    assert!(path.join("sum").exists());
    std::fs::remove_dir_all(path).unwrap();
}
