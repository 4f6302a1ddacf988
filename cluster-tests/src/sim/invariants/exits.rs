//! I5, the other half: a job that is called completed had every rank of its last attempt end with code 0.

use crate::sim::workers::RankKey;
use crate::sim::{World, locked};
use types::{JobPhase, RankExit};

/// Jobs whose end is not that of their ranks.
pub fn faults(world: &World) -> Vec<String> {
    let (reference, witness) = (locked(&world.reference), locked(&world.witness));
    let mut faults = Vec::new();
    for job in reference.state.jobs_before(None).filter(|job| job.phase == JobPhase::Completed) {
        let Some(attempt) = job.attempts.last() else {
            faults.push(format!("I5: job {} is completed and was never started", job.id));
            continue;
        };
        for rank in attempt.placement.members.iter().flat_map(|member| &member.ranks) {
            let key = RankKey { job: job.id, token: attempt.token, rank: rank.rank };
            let exit = witness.exits.get(&key);
            if exit != Some(&RankExit::Code(0)) {
                faults.push(format!("I5: job {} is completed, and rank {} ended as {exit:?}", job.id, rank.rank));
            }
        }
    }
    faults
}
