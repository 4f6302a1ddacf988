//! When another coordinator is asked as well: one that takes a call and stands still, or is cut off from the others, would
//! hold its caller up for a whole deadline.
//!
//! Each call asks a second time at most so often as the budget allows: where everything is slow because there is too much to
//! do, asking twice would only make it worse (Dean and Barroso, "The Tail at Scale", CACM 2013, bounds it likewise).

use std::sync::atomic::{AtomicU32, Ordering};

/// What one more try costs, in answers that came.
const COST: u32 = 10;
/// Tries in a row without an answer.
const BURST: u32 = 10;

/// How many more tries there may be: one for every ten answers, and a few from the start.
#[derive(Debug)]
pub(crate) struct Hedges {
    credit: AtomicU32,
}

impl Default for Hedges {
    fn default() -> Self {
        Self { credit: AtomicU32::new(COST * BURST) }
    }
}

impl Hedges {
    /// An answer came.
    pub(crate) fn earn(&self) {
        let more = |credit: u32| (credit < COST * BURST).then_some(credit + 1);
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// May another coordinator be asked?
    pub(crate) fn spend(&self) -> bool {
        let less = |credit: u32| credit.checked_sub(COST);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_a_tenth_of_the_answers_but_for_a_few() {
        let hedges = Hedges::default();
        assert_eq!((0..50).filter(|_| hedges.spend()).count(), 10);
        (0..COST * 3).for_each(|_| hedges.earn());
        assert_eq!((0..50).filter(|_| hedges.spend()).count(), 3);
        (0..100_000).for_each(|_| hedges.earn());
        assert_eq!((0..50).filter(|_| hedges.spend()).count(), 10);
    }
}
