//! When the faults are over the cluster works again, by itself: somebody leads, submits are acknowledged, jobs run to their end.

use crate::sim::{World, locked};
use std::sync::Arc;
use std::time::Duration;

/// For a leader and an acknowledgement; elections, reconnects and a client's own pauses are seconds.
const ANSWERED_MAX: Duration = Duration::from_secs(20);
/// For jobs to end: lost workers are given up, back-offs pass.
const RUN_MAX: Duration = Duration::from_mins(3);

/// Waits for new acknowledgements, then for all jobs of before to have ended.
pub(crate) async fn check(world: &Arc<World>) -> Result<(), String> {
    let before = locked(&world.history).submitted.len();
    until(ANSWERED_MAX, || locked(&world.history).submitted.len() > before + 3)
        .await
        .ok_or("liveness: no submit was acknowledged within 20 s of the end of the faults")?;
    locked(&world.history).closed = true;
    let unfinished = || {
        let reference = locked(&world.reference);
        let left: Vec<String> = reference
            .state
            .jobs_before(None)
            .filter(|job| !job.phase.is_final())
            .map(|job| format!("{} is {}", job.id, job.phase))
            .collect();
        left
    };
    let done = until(RUN_MAX, || unfinished().is_empty()).await;
    done.ok_or_else(|| format!("liveness: jobs do not end after the faults: {}", unfinished().join(", ")))
}

async fn until(most: Duration, mut is_so: impl FnMut() -> bool) -> Option<()> {
    let looked = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(most, looked).await.ok()
}
