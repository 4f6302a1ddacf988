//! Who is behind in an operation over NCCL that does not end: the ranks tell each other through the guard, and only then.
//!
//! NCCL says neither for whom it waits nor what others called. So a rank that has waited for half a second asks all others how far
//! they are, and their watchdogs answer, whatever the rest of them does. From the answers come the stall that is told, and the
//! mismatch that NCCL would wait in for ever (COLL-5). To compare every call before it is launched would cost each operation a
//! round trip, twice as long as a small sum takes on the device; here an operation that ends in time costs nothing.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::watch::{UnderWay, Watch};
use crate::stall::{Behind, Stall};

/// An operation that takes longer is asked about; what is told sooner, at half of that time.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// Between two questions about one operation.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Who has not answered for so long counts as one that does not.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// One operation, as far as it was looked at.
#[derive(Default)]
pub(super) struct Lookout {
    /// 0 for none.
    sequence: u64,
    asked: Option<Instant>,
    told: Vec<Behind>,
    waited: Duration,
}

impl Lookout {
    /// Looks at the operation under way.
    pub(super) fn look(&mut self, watch: &Watch) {
        let now = watch.under_way();
        if now.is_none_or(|now| now.sequence != self.sequence) {
            self.over(watch);
            self.sequence = now.map_or(0, |now| now.sequence);
        }
        let Some(now) = now else { return };
        self.waited = now.waited;
        let Some(others) = watch.others() else { return };
        let after = watch.stalls.get().map(|stalls| stalls.after);
        if now.waited < after.map_or(ASK_AFTER, |after| ASK_AFTER.min(after / 2)) {
            return;
        }
        if self.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            others.ask();
            self.asked = Some(Instant::now());
        }
        // Not before all had time to answer, so that the right one is blamed.
        if others.is_owed() && self.asked.is_some_and(|asked| asked.elapsed() < ANSWER_MAX) {
            return;
        }
        if let Err(error) = others.compare((now.sequence, now.call)) {
            watch.end(error);
        } else if after.is_some_and(|after| now.waited >= after) {
            self.tell(watch, &now, others.behind(now.sequence, watch.met.load(Ordering::SeqCst)));
        }
    }

    fn tell(&mut self, watch: &Watch, now: &UnderWay, behind: Vec<Behind>) {
        if behind == self.told {
            return;
        }
        if let Some(first) = behind.first() {
            watch.waits_for(now.sequence, first.rank);
        }
        if let (Some(stalls), Some(operation)) = (watch.stalls.get(), watch.recorder.entry(now.sequence)) {
            self.told.clone_from(&behind);
            (stalls.tell)(&Stall { operation, behind, waited: now.waited });
        }
    }

    /// Tells that it goes on, where the contrary was told, and forgets it.
    pub(super) fn over(&mut self, watch: &Watch) {
        let Lookout { sequence, told, waited, .. } = std::mem::take(self);
        if told.is_empty() {
            return;
        }
        if let (Some(stalls), Some(operation)) = (watch.stalls.get(), watch.recorder.entry(sequence)) {
            (stalls.tell)(&Stall { operation, behind: Vec::new(), waited });
        }
    }
}
