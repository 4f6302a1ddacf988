//! Waiting for a state, not for a time.

use anyhow::Context as _;
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for a state that a test expects: far more than it takes, also on a machine that builds at the same time.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Short, so that what is measured with it is measured well; long enough not to be the load itself.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is something to see. The error names what was awaited.
pub async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let end = Instant::now() + patience;
    loop {
        let seen = tokio::time::timeout_at(end, look());
        if let Some(found) = seen.await.with_context(|| format!("{what}: not within {} s", patience.as_secs()))? {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < end, "{what}: not within {} s", patience.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
