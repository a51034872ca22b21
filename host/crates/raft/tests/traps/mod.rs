//! Forty-three ways in which real Raft systems were wrong, each with the tests that name it. The
//! table in `host/docs/raft-traps.md` says what each is, and where those of other layers are.

mod elections;
mod leases;
mod log;
mod membership;
mod operation;
mod reads;
mod snapshots;
