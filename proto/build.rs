//! Compiles the protocol in Rust; no `protoc` is needed.

use prost::Message as _;
use std::path::PathBuf;

const FILES: [&str; 4] = [
    "kontiki/v1/raft.proto",
    "kontiki/v1/peer.proto",
    "kontiki/v1/client.proto",
    "kontiki/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=kontiki");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("kontiki.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
