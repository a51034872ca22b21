//! Runs a machine natively, without Wasm, in the same batches and through the same snapshot code as
//! the component.
//!
//! ```
//! use kontiki_guest::testing::Replica;
//! # use kontiki_guest::{Answer, Entry, Error, Machine, Reject, SnapshotReader, SnapshotWriter, answer};
//! # #[derive(Default)]
//! # struct Echo;
//! # impl Machine for Echo {
//! #     const NAME: &'static str = "echo";
//! #     const VERSION: &'static str = "1.0.0";
//! #     const STATE_FORMAT: u32 = 1;
//! #     fn apply(&mut self, entry: Entry<'_>) -> Result<Answer, Reject> { Ok(entry.payload().into()) }
//! #     fn query(&self, request: &[u8]) -> Result<Answer, Reject> { Ok(request.into()) }
//! #     fn save(&self, _: &SnapshotWriter<'_>) -> Result<(), Error> { Ok(()) }
//! #     fn load(_: &SnapshotReader<'_>) -> Result<Self, Error> { Ok(Echo) }
//! # }
//!
//! let mut replica = Replica::<Echo>::new();
//! assert_eq!(replica.apply("hello").unwrap(), "hello");
//! let answers = replica.apply_batch(&["one", "two"]);
//! assert_eq!(answers[1].as_ref().unwrap(), &"two");
//!
//! // Same answers and same bytes, in one go or with restarts from snapshots in between.
//! kontiki_guest::testing::assert_conformant::<Echo>(&["a", "b", "c"], &["d"]);
//! ```

mod conformance;
mod replica;
mod snapshot;

pub use conformance::assert_conformant;
pub use replica::Replica;
pub use snapshot::Snapshot;
