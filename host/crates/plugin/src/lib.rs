//! Loads, checks and calls state machine plugins (WebAssembly components).
