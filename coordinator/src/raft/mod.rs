//! The replicated log between coordinators: openraft, fed by our store and network, behind one handle.
//!
//! ```text
//!  propose ──> propose.rs ──> openraft ──> store (log, vote)        service.rs <── the other coordinators
//!  linearizable ─> reads.rs ─┘    │  └──> network.rs ──────────────────^
//!  members.rs, succession.rs ┘    └──> machine.rs: State::apply, snapshots ──> state(), applied()
//! ```
//!
//! Only this module knows openraft. Promises: an acknowledged proposal is on the disks of a majority; a linearizable read
//! sees every acknowledged proposal; a call from another cluster, for another coordinator or of another protocol is refused.

mod config;
mod error;
mod gather;
mod latency;
mod links;
mod machine;
mod members;
mod network;
mod node;
mod propose;
mod reads;
mod sender;
mod service;
mod status;
mod succession;
#[cfg(test)]
pub(crate) mod tests;
pub mod types;
pub(crate) mod wire;

pub use config::{Config, Timers};
pub use error::{BootstrapError, MemberError, OpenError, ProposeError, ReadError, Retry};
pub use links::Links;
pub(crate) use machine::Replica;
pub use machine::{Applied, Machine};
pub use node::Node;
pub use propose::Committed;
pub use service::Service;
pub use status::{Leadership, Member, Role, Status};
pub use types::Addresses;

use std::time::Duration;

/// Streams of one connection: what one client may keep open at once.
const STREAMS_MAX: u32 = 1_024;
/// A client that answers no ping for so long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Resets that a peer may have pending, and header bytes of one call: above these its connection ends.
const PENDING_RESETS_MAX: usize = 20;
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// A server with the limits that the coordinators' own calls need. To be served with `identity::accept`, which sets
/// `TCP_NODELAY`: `serve_with_incoming` ignores the server's own setting, and an append would wait 40 ms for an acknowledgement.
pub fn tuned_server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(STREAMS_MAX)
}
