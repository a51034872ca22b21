//! Write a Kontiki plugin in Rust: implement [`Machine`], name it in [`export!`], build it.
//!
//! ```
//! use kontiki_guest::{
//!     Answer, Entry, Error, Machine, Reject, SnapshotReader, SnapshotWriter, answer, shown,
//! };
//! use std::io::{Read, Write};
//!
//! /// Counts the commands it was sent.
//! #[derive(Default)]
//! struct Tally(u64);
//!
//! impl Machine for Tally {
//!     const NAME: &'static str = "tally";
//!     const VERSION: &'static str = "1.0.0";
//!     const STATE_FORMAT: u32 = 1;
//!
//!     fn apply(&mut self, entry: Entry<'_>) -> Result<Answer, Reject> {
//!         match entry.text()? {
//!             "hit" => self.0 += 1,
//!             other => {
//!                 let other = shown(other); // quoted, and not all of what may be megabytes
//!                 return Err(Reject::new(format!("unknown command {other}; say hit")));
//!             }
//!         }
//!         Ok(answer!("{}", self.0))
//!     }
//!
//!     fn query(&self, _request: &[u8]) -> Result<Answer, Reject> {
//!         Ok(answer!("{}", self.0))
//!     }
//!
//!     fn save(&self, snapshot: &SnapshotWriter<'_>) -> Result<(), Error> {
//!         let mut file = snapshot.create_checked("tally", Self::STATE_FORMAT)?;
//!         file.write_all(&self.0.to_le_bytes())?;
//!         Ok(file.finish(b"")?)
//!     }
//!
//!     fn load(snapshot: &SnapshotReader<'_>) -> Result<Self, Error> {
//!         let mut bytes = [0; 8];
//!         let mut file = snapshot.open_checked("tally")?;
//!         file.read_exact(&mut bytes)?;
//!         file.finish()?;
//!         Ok(Tally(u64::from_le_bytes(bytes)))
//!     }
//! }
//!
//! kontiki_guest::export!(Tally);
//!
//! // The same machine runs natively, so its tests need no Wasm.
//! use kontiki_guest::testing::Replica;
//! let mut replica = Replica::<Tally>::new();
//! assert_eq!(replica.apply("hit").unwrap(), "1");
//! assert!(replica.apply("miss").is_err());
//! let restored = Replica::<Tally>::load(&replica.save().unwrap()).unwrap();
//! assert_eq!(restored.query("").unwrap(), "1");
//! # Ok::<(), Error>(())
//! ```
//!
//! # What a machine must keep to
//!
//! Every replica carries out the same commands in the same order and must come to the same state
//! and the same answers, also a replica that was loaded from a snapshot instead of having lived
//! through the log. So:
//!
//! - No clock but [`Entry::time`], no randomness, no threads, no global state beside the machine.
//! - **No `HashMap` or `HashSet` whose order can be seen.** Their seeds differ between replicas; use
//!   `BTreeMap` and `BTreeSet`, or sort before answering and saving.
//! - Nothing may depend on addresses, on capacities, or on how commands were cut into batches.
//! - An answer has at most 1 MiB; the sender of a command gets a reject in place of a longer one. A
//!   reason repeats what was sent by [`shown`] only.
//! - A business "no" is a [`Reject`]; a panic is a bug and stops the group at that entry.
//! - [`Machine::query`] changes nothing.

mod answer;
mod checked;
mod crc32c;
#[doc(hidden)]
pub mod export;
pub mod log;
mod machine;
mod packed;
mod snapshot;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod wit;

pub use answer::{Answer, REASON_LEN_MAX, Reject, shown};
pub use checked::{CheckedReader, CheckedWriter};
pub use machine::{Entry, Error, Machine, text};
pub use snapshot::{
    FileReader, FileWriter, SnapshotFile, SnapshotInfo, SnapshotReader, SnapshotWriter,
};

/// The page for authors; its example compiles and its tests pass.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
