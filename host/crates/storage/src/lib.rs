//! Durable log and state of all Raft groups of a node, over one RocksDB.
