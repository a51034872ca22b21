//! Bindings generated from `wit/plugin.wit`, the contract.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated code"
)]

/// World `plugin`, and all shared types.
pub(crate) mod machine {
    wasmtime::component::bindgen!({
        path: "../../../wit",
        world: "plugin",
        with: {
            "wasi": wasmtime_wasi::p2::bindings::sync,
            "kontiki:plugin/snapshots.writer": crate::host::Writer,
            "kontiki:plugin/snapshots.reader": crate::host::Reader,
        },
        imports: { default: trappable },
        ownership: Borrowing { duplicate_if_necessary: true },
        require_store_data_send: true,
    });
}

/// World `simple-plugin`.
pub(crate) mod simple_machine {
    wasmtime::component::bindgen!({
        path: "../../../wit",
        world: "simple-plugin",
        with: {
            "wasi": wasmtime_wasi::p2::bindings::sync,
            "kontiki:plugin/types": crate::bindings::machine::kontiki::plugin::types,
            "kontiki:plugin/snapshots": crate::bindings::machine::kontiki::plugin::snapshots,
            "kontiki:plugin/host": crate::bindings::machine::kontiki::plugin::host,
        },
        imports: { default: trappable },
        ownership: Borrowing { duplicate_if_necessary: true },
        require_store_data_send: true,
    });
}
