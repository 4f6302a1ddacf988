//! I11: what each watcher heard of, over failovers and restarts, is in the order of the log, is what the log says, and leaves no
//! job out.

use crate::sim::watchers::Seen;
use crate::sim::{World, locked};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// For a watcher to reach the end of the log once all is quiet: it goes elsewhere several times meanwhile.
const REACHED_MAX: Duration = Duration::from_secs(30);

/// Waits until all have heard of the last change of all jobs, then compares what they heard with the log.
pub(crate) async fn check(world: &Arc<World>) -> Vec<String> {
    let reached = async {
        while !locked(&world.seen).iter().all(|seen| missing(world, seen).is_none()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // If it is not reached, what is missing is told below.
    let _ = tokio::time::timeout(REACHED_MAX, reached).await;
    let seen = locked(&world.seen).clone();
    world.count(|counts| counts.events += seen.iter().map(|of| of.len() as u64).sum::<u64>());
    let faults = seen.iter().enumerate().flat_map(|(number, of)| {
        let faults = untrue(world, of).into_iter().chain(missing(world, of));
        faults.map(move |fault| format!("I11: watcher {number} {fault}"))
    });
    faults.collect()
}

/// The first event that the log does not have.
fn untrue(world: &World, seen: &[Seen]) -> Option<String> {
    let reference = locked(&world.reference);
    let lie = seen.iter().find(|event| reference.phase_after(event.index, event.job) != Some(event.phase.as_str()));
    lie.map(|lie| {
        let truth = reference.phase_after(lie.index, lie.job);
        format!("heard {lie:?}, and the log has {truth:?}")
    })
}

/// A job whose last change was not heard of.
fn missing(world: &World, seen: &[Seen]) -> Option<String> {
    let last: BTreeMap<u64, u64> = seen.iter().map(|event| (event.job, event.index)).collect();
    let reference = locked(&world.reference);
    let mut jobs = reference.state.jobs_before(None);
    let left_out = jobs.find(|job| last.get(&job.id.0) != Some(&job.changed.0))?;
    Some(format!("did not hear of entry {}, where job {} became {}", left_out.changed, left_out.id, left_out.phase))
}
