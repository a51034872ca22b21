//! Checked files of a snapshot: what is written comes back, and nothing else does.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use kontiki_guest::testing::{Replica, Snapshot};
use kontiki_guest::{Answer, Entry, Error, Machine, Reject, SnapshotReader, SnapshotWriter};
use proptest::prelude::*;
use std::fs;
use std::io::{Read, Write};

/// Keeps the bytes of its last command.
#[derive(Debug, Default, PartialEq)]
struct Blob(Vec<u8>);

impl Machine for Blob {
    const NAME: &'static str = "blob";
    const VERSION: &'static str = "1.0.0";
    const STATE_FORMAT: u32 = 7;

    fn apply(&mut self, entry: Entry<'_>) -> Result<Answer, Reject> {
        self.0 = entry.payload().to_vec();
        Ok(Answer::empty())
    }

    fn query(&self, _request: &[u8]) -> Result<Answer, Reject> {
        Ok(Answer::from(self.0.as_slice()))
    }

    fn save(&self, snapshot: &SnapshotWriter<'_>) -> Result<(), Error> {
        let mut file = snapshot.create_checked("parts/blob", Self::STATE_FORMAT)?;
        // In uneven pieces, so that pieces and frames do not agree.
        for piece in self.0.chunks(1013) {
            file.write_all(piece)?;
        }
        file.finish(&(self.0.len() as u64).to_le_bytes())?;
        Ok(())
    }

    fn load(snapshot: &SnapshotReader<'_>) -> Result<Self, Error> {
        let mut file = snapshot.open_checked("parts/blob")?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if file.format() != Self::STATE_FORMAT {
            return Err(Error::new("unknown format"));
        }
        file.finish()?;
        Ok(Blob(bytes))
    }
}

fn saved(bytes: &[u8]) -> (Replica<Blob>, Snapshot) {
    let mut replica = Replica::<Blob>::new();
    replica.apply(bytes).unwrap();
    let snapshot = replica.save().unwrap();
    (replica, snapshot)
}

fn file(snapshot: &Snapshot) -> std::path::PathBuf {
    snapshot.directory().join("parts/blob")
}

/// What loading says after the file was replaced by these bytes.
fn load_error(snapshot: &Snapshot, bytes: &[u8]) -> String {
    fs::write(file(snapshot), bytes).unwrap();
    Replica::<Blob>::load(snapshot).unwrap_err().to_string()
}

/// Bytes that repeat nowhere near the length of a frame.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

/// Length of a frame's head: its length and its checksum.
const HEAD: usize = 8;
/// Length of the file's head: magic and format.
const START: usize = 12;
const FRAME: usize = 64 * 1024;

#[test]
fn lengths_around_a_frame_and_a_chunk_come_back() {
    for length in [0, 1, FRAME - 1, FRAME, FRAME + 1, 4 * FRAME, 5 * FRAME + 17] {
        let (replica, snapshot) = saved(&pattern(length));
        let loaded = Replica::<Blob>::load(&snapshot).unwrap();
        assert!(
            loaded.machine() == replica.machine(),
            "{length} bytes did not come back"
        );
        assert_eq!(
            snapshot.files()["parts/blob"],
            (length as u64).to_le_bytes()
        );
    }
}

#[test]
fn frames_cannot_be_swapped_dropped_or_repeated() {
    let (_, snapshot) = saved(&pattern(3 * FRAME));
    let good = fs::read(file(&snapshot)).unwrap();
    let (head, frames) = good.split_at(START);
    let frame = |i: usize| &frames[i * (HEAD + FRAME)..(i + 1) * (HEAD + FRAME)];
    let end = &frames[3 * (HEAD + FRAME)..];
    assert_eq!(end.len(), HEAD, "an empty frame ends the file");
    let mismatch = |parts: &[&[u8]], number: u32| {
        let error = load_error(&snapshot, &parts.concat());
        assert_eq!(error, format!("checksum of frame {number} does not match"));
    };
    mismatch(&[head, frame(1), frame(0), frame(2), end], 0);
    mismatch(&[head, frame(0), frame(2), end], 1);
    mismatch(&[head, frame(0), frame(1), frame(1), frame(2), end], 2);
    mismatch(&[head, frame(0), frame(1), end], 2);
    let without_end = [head, frame(0), frame(1), frame(2)].concat();
    assert_eq!(load_error(&snapshot, &without_end), "cut short");
    let twice_ended = [&good[..], end].concat();
    assert_eq!(load_error(&snapshot, &twice_ended), "bytes after the end");
}

#[test]
fn a_changed_format_number_breaks_the_first_checksum() {
    let (_, snapshot) = saved(b"state");
    let mut bytes = fs::read(file(&snapshot)).unwrap();
    bytes[START - 4] += 1;
    assert_eq!(
        load_error(&snapshot, &bytes),
        "checksum of frame 0 does not match"
    );
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let (_, snapshot) = saved(b"state");
    let error = load_error(&snapshot, b"not such a file at all");
    assert_eq!(
        error,
        "parts/blob: does not begin as a checked file of a snapshot"
    );
    assert_eq!(load_error(&snapshot, b"KTK"), "parts/blob: cut short");
}

#[test]
fn an_absurd_length_costs_no_memory() {
    let (_, snapshot) = saved(b"state");
    let mut bytes = fs::read(file(&snapshot)).unwrap();
    bytes[START..START + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        load_error(&snapshot, &bytes),
        "frame 0 is too long: 4294967295 bytes"
    );
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let (replica, snapshot) = saved(&bytes);
        prop_assert!(Replica::<Blob>::load(&snapshot).unwrap().machine() == replica.machine());
    }

    #[test]
    fn any_flipped_bit_is_noticed(
        bytes in prop::collection::vec(any::<u8>(), 0..512),
        position in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let (_, snapshot) = saved(&bytes);
        let mut file_bytes = fs::read(file(&snapshot)).unwrap();
        let at = position.index(file_bytes.len());
        file_bytes[at] ^= 1 << bit;
        load_error(&snapshot, &file_bytes);
    }
}
