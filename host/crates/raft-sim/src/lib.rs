//! Seeded simulation of whole Raft clusters, with invariants checked after every step.
