//! When answers came, and how long none came after a blow: what a failover costs whoever calls.
//!
//! The time is from the blow to the end of the longest silence after it, so that answers already under way do not flatter it.

use crate::wait::{PATIENCE, until};
use anyhow::Context as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A silence that the blow caused begins within this.
const BLOW: Duration = Duration::from_millis(500);

/// When each answer to any of some callers came. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Vec<Instant>>>);

impl Answers {
    /// One came now.
    pub(crate) fn note(&self) {
        if let Ok(mut answers) = self.0.lock() {
            answers.push(Instant::now());
        }
    }

    /// Waits until answers come, for so long.
    pub(crate) async fn flow(&self, span: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        until("a steady load", PATIENCE, async || {
            let answers = self.0.lock().ok()?;
            answers.last().is_some_and(|last| *last > begun + span).then_some(())
        })
        .await
    }

    /// From then to the end of the longest silence after it; looks for so long, and forgets what came before.
    pub(crate) async fn silence_after(&self, at: Instant, span: Duration) -> anyhow::Result<Duration> {
        tokio::time::sleep_until(at + span).await;
        let answers = self.since(at)?;
        anyhow::ensure!(!answers.is_empty(), "nothing was acknowledged for {} s", span.as_secs());
        longest(at, &answers).context("no gap")
    }

    /// The same for as long as it takes: looks at least for so long, and until an answer has come after that.
    pub(crate) async fn silence_until(&self, at: Instant, span: Duration) -> anyhow::Result<Duration> {
        until("an answer after the blow", PATIENCE, async || {
            let answers = self.0.lock().ok()?;
            answers.last().is_some_and(|last| *last > at + span).then_some(())
        })
        .await?;
        longest(at, &self.since(at)?).context("no gap")
    }

    /// In order; what came before is forgotten.
    fn since(&self, at: Instant) -> anyhow::Result<Vec<Instant>> {
        let mut answers = self.0.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        answers.retain(|answer| *answer >= at);
        answers.sort_unstable();
        Ok(answers.clone())
    }
}

/// The end of the longest silence that begins soon after the blow: one that begins later has another cause.
fn longest(at: Instant, sorted: &[Instant]) -> Option<Duration> {
    let pairs = std::iter::once(&at).chain(sorted).zip(sorted);
    let gaps = pairs.filter(|(from, _)| **from < at + BLOW).map(|(from, to)| (*to - *from, *to - at));
    gaps.max_by_key(|(gap, _)| *gap).map(|(_, end)| end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_on_their_way_do_not_shorten_a_silence_and_later_ones_do_not_lengthen_it() {
        let at = Instant::now();
        let came = |ms: &[u64]| ms.iter().map(|ms| at + Duration::from_millis(*ms)).collect::<Vec<_>>();
        assert_eq!(longest(at, &came(&[5, 10, 300, 310])), Some(Duration::from_millis(300)));
        assert_eq!(longest(at, &came(&[5, 10, 300, 700, 2_000])), Some(Duration::from_millis(700)));
        assert_eq!(longest(at, &[]), None);
    }
}
