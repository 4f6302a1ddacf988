//! I4: what live attempts hold on a worker stays within what it has, and no device has two holders (`SLOT-1`). Counted from
//! the placements themselves, not from the sums that the tables keep.

use cluster_state::State;
use std::collections::BTreeMap;
use types::WorkerId;

/// What is held beyond what is there.
pub fn faults(state: &State) -> Vec<String> {
    let mut cpus: BTreeMap<&WorkerId, u64> = BTreeMap::new();
    let mut devices: BTreeMap<(&WorkerId, u32), u32> = BTreeMap::new();
    for job in state.live() {
        let Some(attempt) = job.live_attempt() else { continue };
        for (member, end) in attempt.placement.members.iter().zip(&attempt.ends) {
            if end.is_some() {
                continue;
            }
            let ranks = member.ranks.len() as u64;
            *cpus.entry(&member.worker).or_default() += ranks * u64::from(job.spec.gang.per_rank.cpus);
            for index in member.ranks.iter().flat_map(|rank| &rank.devices) {
                *devices.entry((&member.worker, *index)).or_default() += 1;
            }
        }
    }
    let has = |worker: &WorkerId| state.worker(worker).map_or(0, |known| u64::from(known.registration.inventory.cpus));
    let too_many = cpus.into_iter().filter(|(worker, held)| *held > has(worker));
    let shared = devices.into_iter().filter(|(_, holders)| *holders > 1);
    too_many
        .map(|(worker, held)| format!("I4: {held} CPU slots are held on worker {worker}, which has {}", has(worker)))
        .chain(
            shared.map(|((worker, index), holders)| {
                format!("I4: device {index} of worker {worker} has {holders} holders")
            }),
        )
        .collect()
}
