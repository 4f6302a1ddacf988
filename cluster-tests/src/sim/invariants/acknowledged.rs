//! I1: every acknowledged submit is there exactly once, and no acknowledged cancel is forgotten.

use crate::sim::{World, locked};
use std::collections::BTreeMap;
use types::JobPhase;

/// What is missing, and what is there twice.
pub fn faults(world: &World) -> Vec<String> {
    let (reference, history) = (locked(&world.reference), locked(&world.history));
    let mut by_name: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for job in reference.state.jobs_before(None) {
        by_name.entry(job.spec.display_name.as_str()).or_default().push(job);
    }
    let mut faults = Vec::new();
    for (name, jobs) in &by_name {
        if jobs.len() > 1 {
            faults.push(format!("I1: {name} was submitted once and is there {} times", jobs.len()));
        }
    }
    for (name, id) in &history.submitted {
        let found = by_name.get(name.as_str()).and_then(|jobs| jobs.first());
        match (found, id) {
            (None, _) => faults.push(format!("I1: the acknowledged submit {name} is lost")),
            (Some(job), Some(id)) if job.id != *id => {
                faults.push(format!("I1: {name} was acknowledged as job {id} and is job {}", job.id));
            }
            _ => {}
        }
    }
    for id in &history.cancelled {
        let phase = reference.state.job(*id).map(|job| job.phase);
        if !phase.is_some_and(|phase| phase.is_final() || phase == JobPhase::CancelRequested) {
            faults.push(format!("I1: the acknowledged cancel of job {id} is lost: {phase:?}"));
        }
    }
    faults
}
