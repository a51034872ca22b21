//! Deploy a .wasm, get a replicated state machine: the node and its command line.
