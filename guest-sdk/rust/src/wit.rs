//! Bindings generated from the WIT package; only for this crate and its macro.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated from the WIT package, where the documentation is"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "kontiki:plugin/plugin",
    export_macro_name: "export_plugin",
    pub_export_macro: true,
    default_bindings_module: "kontiki_guest::wit",
    generate_all,
});
