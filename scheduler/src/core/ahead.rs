//! Who goes before a waiting gang.

use crate::core::Core;
use crate::core::gang::{Key, Phase};
use types::JobId;

impl Core {
    /// The first of those of its queue that go before a waiting gang, at most so many, in order.
    pub fn ahead(&self, job: JobId, count_max: usize) -> Vec<JobId> {
        let gang = self.gangs.index_of(job).and_then(|index| self.gangs.get(index));
        let Some((gang, Phase::Queued(key))) = gang.map(|gang| (gang, &gang.phase)) else { return Vec::new() };
        let lines = self.lines.of_queue(gang.queue).filter(|line| line.fits_ever);
        let mut first: Vec<Key> =
            lines.flat_map(|line| line.by_key.range(..*key).take(count_max)).map(|(key, _)| *key).collect();
        first.sort_unstable();
        first.into_iter().take(count_max).map(|key| key.job).collect()
    }
}
