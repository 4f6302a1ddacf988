//! What is on its way to the log: each fact once at a time, and what came back without it not again before the next tick.

use super::facts::Fact;
use std::collections::BTreeSet;

/// Facts from their proposal to its answer.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    facts: BTreeSet<Fact>,
    /// Of these, the ones that were answered and are not in the log.
    resting: Vec<Fact>,
}

impl InFlight {
    /// False when it is on its way already.
    pub(crate) fn begin(&mut self, fact: &Fact) -> bool {
        self.facts.insert(fact.clone())
    }

    pub(crate) fn contains(&self, fact: &Fact) -> bool {
        self.facts.contains(fact)
    }

    /// The answer. What is not in the log is due again at once, and may fail at once again: it rests, or the loop would do
    /// nothing else.
    pub(crate) fn settle(&mut self, fact: Fact, recorded: bool) {
        if recorded {
            self.facts.remove(&fact);
        } else {
            self.resting.push(fact);
        }
    }

    /// What rests may be proposed again.
    pub(crate) fn tick(&mut self) {
        for fact in self.resting.drain(..) {
            self.facts.remove(&fact);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::JobId;

    #[test]
    fn what_failed_is_not_proposed_again_before_the_tick() {
        let mut in_flight = InFlight::default();
        let (failed, recorded) = (Fact::Start(JobId(1)), Fact::Start(JobId(2)));
        assert!(in_flight.begin(&failed) && in_flight.begin(&recorded));
        assert!(!in_flight.begin(&failed), "once at a time");
        in_flight.settle(failed.clone(), false);
        in_flight.settle(recorded.clone(), true);
        assert!(!in_flight.begin(&failed));
        assert!(in_flight.begin(&recorded), "news of the same kind");
        in_flight.tick();
        assert!(in_flight.begin(&failed));
        assert!(in_flight.contains(&recorded), "a tick ends nothing that is under way");
    }
}
