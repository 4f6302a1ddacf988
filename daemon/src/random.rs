//! Randomness from the operating system, for identities and secrets only; nothing that decides uses it.

use types::{AttemptSecret, ClusterId, RequestId, WorkerInstance};

/// `N` unpredictable bytes.
pub fn bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// A new client request.
pub fn request_id() -> std::io::Result<RequestId> {
    bytes().map(RequestId)
}

/// A new cluster.
pub fn cluster_id() -> std::io::Result<ClusterId> {
    bytes().map(ClusterId)
}

/// A new attempt's secret.
pub fn attempt_secret() -> std::io::Result<AttemptSecret> {
    bytes().map(AttemptSecret)
}

/// A new life of a worker's data directory; never 0.
pub fn worker_instance() -> std::io::Result<WorkerInstance> {
    bytes().map(|bytes| WorkerInstance(u64::from_le_bytes(bytes).max(1)))
}

/// A seed for timers that should not beat in step.
pub fn seed() -> std::io::Result<u64> {
    bytes().map(u64::from_le_bytes)
}
