//! The SDK: any coordinator will do, a retry is safe, and a stream goes on where it broke.
//!
//! ```text
//! Client ── pool (addresses, the one that answered last) ── call (deadline, back-off, next coordinator)
//!    ├─ jobs, cluster, access   one request, one answer
//!    ├─ watch, logs, metrics   streams that are taken up again after the last thing received
//!    └─ upload, download   blobs by content hash, checked on both sides
//! ```
//!
//! Messages are those of `muster.v1` (`client::v1`); ids and hashes are `types`.

mod access;
mod audit;
mod backup;
mod call;
mod cluster;
mod download;
mod error;
mod hedge;
mod jobs;
mod lineage;
mod logs;
mod metrics;
mod pool;
mod queues;
mod secrets;
#[cfg(test)]
mod testing;
mod upload;
mod watch;

pub use audit::Audit;
pub use backup::Backup;
pub use call::Patience;
pub use download::Downloaded;
pub use error::{Error, Retry, Tried};
pub use identity::{Credentials, CredentialsError, InvalidSecret, Secret};
pub use lineage::{LineageChecks, LineageRecords};
pub use logs::{LogQuery, Logs, Pattern};
pub use metrics::{MetricQuery, Metrics};
pub use pool::Client;
pub use proto::v1;
pub use upload::{Blob, Place, Progress, Source, Uploaded};
pub use watch::Watch;

/// Version that every call carries as `muster-client-version`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
