//! Client of a Kontiki cluster: finds the leader, retries what is safe, tells what is not.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use kontiki_client::{Client, Options, Verdict};
//!
//! let endpoints = vec!["127.0.0.1:7470".parse()?, "127.0.0.1:7480".parse()?];
//! let client = Client::connect(endpoints, Options::default());
//! match client.apply("counter", "add 5").await?.verdict {
//!     Verdict::Answer(before) => println!("{}", String::from_utf8_lossy(&before)),
//!     Verdict::Rejected(why) => println!("refused: {why}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is retried
//!
//! Every call has one deadline, retries included. A **command** is sent again only if it is certain
//! that it was not applied: no connection was made, it went away before the command was sent, the
//! server that shuts down said that it did not take it, or a node answered UNAVAILABLE or
//! RESOURCE_EXHAUSTED and said so (`outcome=not_applied` in its `ErrorInfo`). A command whose reply
//! was lost is **not** sent again; its error says [`Outcome::Unknown`]. A **query** or other call
//! without effect is also sent again when a connection breaks. Pauses between rounds grow from 10 ms
//! to 1 s, with jitter.
//!
//! # Where it is sent
//!
//! To the group's leader once it is known. Replies and refusals tell who that is; a hint is followed
//! only if it is not older (by term) than what is known and names an endpoint the user gave or the
//! address a member advertises.

mod address;
mod admin;
mod alive;
mod call;
mod client;
mod error;
mod failure;
mod plugins;
mod pool;
mod reply;
mod route;
mod stream;
mod unsent;

pub use address::{Address, AddressError};
pub use admin::{Admin, Progress};
pub use alive::{Alive, connect, ping};
pub use client::{Client, Member, Options};
pub use error::{Attempt, Error, Leader, Outcome, Phase, Reason, Result};
pub use kontiki_proto::v1 as proto;
pub use plugins::publication_limit;
pub use reply::{Consistency, Reply, Staleness, Verdict};
pub use stream::Replies;
pub use tonic::Code;
pub use tonic::transport::{Certificate, ClientTlsConfig, Identity};
pub use unsent::is_unsent;
