//! W6: who watches all jobs sees each change once, in order, and nothing after a job's end.

use super::super::history::History;
use client::Client;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::JobPhase;

/// Watches until it is ended. What a watcher saw wrong goes into the history; so does a watch that breaks for good.
pub(super) async fn watch(client: Client, history: Arc<History>, number: u64) {
    let mut watch = client.watch(None, 0);
    let mut seen: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    loop {
        let event = match watch.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return history.fault(format!("I11: the watch of watcher {number} ended by itself")),
            Err(error) => return history.fault(format!("I11: watcher {number}: {error:#}")),
        };
        let Some(job) = event.job else { continue };
        let before = seen.insert(job.id, (event.index, job.phase.clone()));
        let Some((index, phase)) = before else { continue };
        if event.index <= index {
            history
                .fault(format!("I11: watcher {number} was told of job {} at {index}, then at {}", job.id, event.index));
        }
        let was_final = JobPhase::from_name(&phase).is_some_and(JobPhase::is_final);
        if was_final && phase != job.phase {
            history.fault(format!("I5: job {} was {phase} and is {} at {}", job.id, job.phase, event.index));
        }
    }
}
