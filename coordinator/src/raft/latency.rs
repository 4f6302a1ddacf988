//! How long proposals and flushes take, for the metrics of this coordinator.

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::future::Future;
use tokio::time::Instant;

/// Seconds. Clones count into the same histograms.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// From a proposal's call to its outcome, as callers here see it: with the wait for others to share its entry, and the way
    /// to the leader and back.
    pub(crate) commits: Histogram,
    /// From the first write of a group until it is on this coordinator's disk.
    pub(crate) flushes: Histogram,
}

impl Latencies {
    pub(super) fn new(flushes: Histogram) -> Self {
        // From 0.25 ms to 8 s: longer ones have failed.
        Self { commits: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)), flushes }
    }

    /// Counts what was committed; a refusal by an unreachable group is in `muster_proposals_total`.
    pub(super) async fn commit<T, E>(&self, proposing: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let outcome = proposing.await;
        if outcome.is_ok() {
            self.commits.observe(begun.elapsed().as_secs_f64());
        }
        outcome
    }
}
