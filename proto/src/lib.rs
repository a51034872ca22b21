//! Wire protocol of Kontiki: generated types, clients and servers of package `kontiki.v1`.
//!
//! The `.proto` files beside this crate are the reference for every field.

/// Package `kontiki.v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        reason = "generated; the .proto files carry the comments"
    )]
    #![allow(
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    tonic::include_proto!("kontiki.v1");
}

/// Every file descriptor of the package, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kontiki.bin"));

/// Domain of every `google.rpc.ErrorInfo` of this protocol.
pub const ERROR_DOMAIN: &str = "kontiki";

/// Version of the peer protocol; nodes that speak another one refuse each other.
pub const PEER_PROTOCOL: u32 = 2;
