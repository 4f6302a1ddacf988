//! The wire: generated messages and services, and conversions to `types`. Wire types stop here.

pub mod convert;
pub mod needs;

use std::fmt::Write as _;

/// `muster.v1`: what clients of any language may use. See `docs/grpc.md`.
#[allow(missing_docs, clippy::pedantic, clippy::all)]
pub mod v1 {
    tonic::include_proto!("muster.v1");
}

/// `muster.internal.v1`: between daemons of one version only.
#[allow(missing_docs, clippy::pedantic, clippy::all)]
pub mod internal {
    tonic::include_proto!("muster.internal.v1");
}

/// Descriptors of `muster.v1` for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/muster.bin"));

/// Version of the internal protocol; both sides of a worker session must have the same.
pub const PROTOCOL: u32 = 15;

/// What is signed of a head of the audit trail.
pub fn audit_head_text(head: &v1::SignedAuditHead) -> String {
    let hash = head.hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let v1::SignedAuditHead { cluster, number, time_ms, .. } = head;
    format!("muster audit head 1\ncluster {cluster}\nrecord {number}\nhash {hash}\ntime {time_ms}\n")
}

/// In an answer that refuses: when the call may be tried again by itself, as gRPC has it (gRFC A6).
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Never: whoever asked is to be told.
pub const PUSHBACK_NEVER: &str = "-1";
