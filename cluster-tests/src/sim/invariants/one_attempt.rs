//! I2: of a rank at most one process lives, whatever attempt it is of; and of a device (`LEASE-1`, `GANG-2`, `SLOT-1`).

use crate::sim::workers::{RankKey, Witness};

/// Why this rank must not start now.
pub fn fault_of_start(witness: &Witness, key: RankKey, worker: &str, devices: &[u32]) -> Option<String> {
    let twin = witness.living.iter().find(|(living, _)| living.job == key.job && living.rank == key.rank);
    if let Some((living, at)) = twin {
        let (old, new) = (living.token, key.token);
        return Some(format!(
            "I2: rank {} of job {} starts on {worker} with token {new} while it lives on {} with token {old}",
            key.rank, key.job, at.worker
        ));
    }
    let holder =
        witness.living.iter().find(|(_, at)| at.worker == worker && at.devices.iter().any(|d| devices.contains(d)));
    holder.map(|(living, _)| {
        format!("I2: a rank of job {} starts on devices of {worker} that job {} still uses", key.job, living.job)
    })
}
