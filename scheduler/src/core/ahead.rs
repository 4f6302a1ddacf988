//! Who goes before a waiting gang.

use crate::core::Core;
use crate::core::gang::Key;
use types::JobId;

impl Core {
    /// The first of those of its queue that go before a waiting gang, at most so many, in order.
    pub fn ahead(&self, job: JobId, count_max: usize) -> Vec<JobId> {
        let found = self.gangs.index_of(job).and_then(|index| Some((index, self.gangs.get(index)?)));
        let found = found.and_then(|(index, gang)| Some((gang, gang.key(index)?)));
        let Some((gang, key)) = found else { return Vec::new() };
        let lines = self.lines.of_queue(gang.queue).filter(|line| line.fits_ever);
        let mut first: Vec<Key> =
            lines.flat_map(|line| line.by_key.range(..key).take(count_max)).map(|(key, _)| *key).collect();
        first.sort_unstable();
        first.into_iter().take(count_max).map(|key| key.job).collect()
    }
}
