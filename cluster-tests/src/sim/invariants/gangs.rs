//! I3: no rank of a gang starts before every member of it is prepared (`GANG-1`).

use crate::sim::workers::{RankKey, Witness};

/// Why this rank must not start now.
pub fn fault_of_start(witness: &Witness, key: RankKey, members: usize) -> Option<String> {
    let prepared = witness.prepared.get(&(key.job, key.token)).map_or(0, std::collections::BTreeSet::len);
    (prepared < members).then(|| {
        format!("I3: rank {} of job {} starts when {prepared} of {members} members are prepared", key.rank, key.job)
    })
}
