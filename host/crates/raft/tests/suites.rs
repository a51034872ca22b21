//! The systematic suites of the core, over its public interface only: inputs and effects.
//! One binary, so that the support code is compiled once.

mod support;

mod braft_lease;
mod braft_node;
mod configuration_model;
mod documented;
mod lag;
mod lease_settings;
mod paper;
mod paper_safety;
mod priority;
mod quorum_model;
mod settings;
mod small_print;
mod thesis;
mod traps;
