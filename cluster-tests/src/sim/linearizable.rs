//! Is there an order of these reads and writes of one register that explains every answer and keeps real time?
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing for
//! linearizability", 2017): a set of operations already put in order, with the value that they leave, is looked at once.

use std::collections::{BTreeMap, BTreeSet};

/// What was asked and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Each write of a register has a value of its own.
    Write(u64),
    /// None: nothing was written yet.
    Read(Option<u64>),
}

/// One operation, by the clock of the simulation in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What.
    pub action: Action,
    /// When it was asked.
    pub called: u64,
    /// When it was answered. None of a write whose outcome nobody knows: it may take effect at any time, or never.
    pub returned: Option<u64>,
}

/// True when some order explains them. A read without an answer says nothing: leave it out.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    let read: BTreeSet<u64> = operations.iter().filter_map(|operation| read_value(operation.action)).collect();
    // A write of unknown outcome that nobody ever saw changes no answer.
    let is_seen = |action| matches!(action, Action::Write(value) if read.contains(&value));
    let mut sorted: Vec<Operation> = operations
        .iter()
        .filter(|operation| operation.returned.is_some() || is_seen(operation.action))
        .copied()
        .collect();
    sorted.sort_by_key(|operation| operation.called);
    Search::over(&sorted).run()
}

fn read_value(action: Action) -> Option<u64> {
    match action {
        Action::Read(value) => value,
        Action::Write(_) => None,
    }
}

/// A set of operations that are in order: all below `first`, and these after it.
type Done = (usize, Vec<usize>);

struct Search<'a> {
    operations: &'a [Operation],
    /// What was looked at, with the values that it left.
    seen: BTreeMap<Done, BTreeSet<Option<u64>>>,
}

impl<'a> Search<'a> {
    fn over(operations: &'a [Operation]) -> Self {
        Self { operations, seen: BTreeMap::new() }
    }

    fn run(&mut self) -> bool {
        let mut open: Vec<(Done, Option<u64>)> = vec![((0, Vec::new()), None)];
        while let Some((done, value)) = open.pop() {
            let next = self.candidates(&done);
            if next.iter().all(|at| self.operations[*at].returned.is_none()) {
                return true;
            }
            for at in next.into_iter().rev() {
                let Ok(left) = after(self.operations[at].action, value) else { continue };
                let with = Self::with(&done, at);
                if self.seen.entry(with.clone()).or_default().insert(left) {
                    open.push((with, left));
                }
            }
        }
        false
    }

    /// Operations that may come next: no other one was answered before they were asked.
    fn candidates(&self, (first, beyond): &Done) -> Vec<usize> {
        let mut answered = u64::MAX;
        let mut candidates: Vec<usize> = Vec::new();
        for (at, operation) in self.operations.iter().enumerate().skip(*first) {
            if operation.called > answered {
                break;
            }
            if !beyond.contains(&at) {
                candidates.push(at);
                answered = answered.min(operation.returned.unwrap_or(u64::MAX));
            }
        }
        candidates.retain(|at| self.operations[*at].called <= answered);
        candidates
    }

    fn with((first, beyond): &Done, at: usize) -> Done {
        let (mut first, mut beyond) = (*first, beyond.clone());
        let place = beyond.partition_point(|other| *other < at);
        beyond.insert(place, at);
        while beyond.first() == Some(&first) {
            beyond.remove(0);
            first += 1;
        }
        (first, beyond)
    }
}

/// It cannot answer so.
struct Impossible;

/// The value after it.
fn after(action: Action, value: Option<u64>) -> Result<Option<u64>, Impossible> {
    match action {
        Action::Write(written) => Ok(Some(written)),
        Action::Read(read) if read == value => Ok(value),
        Action::Read(_) => Err(Impossible),
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Read, Write};
    use super::*;

    fn history(of: &[(Action, u64, Option<u64>)]) -> Vec<Operation> {
        of.iter()
            .map(|(action, called, returned)| Operation { action: *action, called: *called, returned: *returned })
            .collect()
    }

    #[test]
    fn one_after_the_other_is_explained_only_by_its_own_order() {
        assert!(is_linearizable(&[]));
        let good = [(Read(None), 0, Some(1)), (Write(1), 2, Some(3)), (Read(Some(1)), 4, Some(5))];
        assert!(is_linearizable(&history(&good)));
        let stale = [(Write(1), 0, Some(1)), (Write(2), 2, Some(3)), (Read(Some(1)), 4, Some(5))];
        assert!(!is_linearizable(&history(&stale)));
        let forgotten = [(Write(1), 0, Some(1)), (Read(None), 2, Some(3))];
        assert!(!is_linearizable(&history(&forgotten)));
        let invented = [(Write(1), 0, Some(1)), (Read(Some(9)), 2, Some(3))];
        assert!(!is_linearizable(&history(&invented)));
    }

    #[test]
    fn reads_during_a_write_may_see_either_but_not_go_back() {
        let forth = [(Write(1), 0, Some(9)), (Read(None), 1, Some(2)), (Read(Some(1)), 3, Some(4))];
        assert!(is_linearizable(&history(&forth)));
        let back = [(Write(1), 0, Some(9)), (Read(Some(1)), 1, Some(2)), (Read(None), 3, Some(4))];
        assert!(!is_linearizable(&history(&back)));
    }

    #[test]
    fn a_write_of_unknown_outcome_happens_late_or_never_but_once() {
        let late =
            [(Write(1), 0, None), (Write(2), 1, Some(2)), (Read(Some(2)), 3, Some(4)), (Read(Some(1)), 5, Some(6))];
        assert!(is_linearizable(&history(&late)));
        let never = [(Write(1), 0, None), (Read(None), 1, Some(2))];
        assert!(is_linearizable(&history(&never)));
        let mut twice = late.to_vec();
        twice.extend([(Write(3), 7, Some(8)), (Read(Some(1)), 9, Some(10))]);
        assert!(!is_linearizable(&history(&twice)));
        let early = [(Read(Some(1)), 0, Some(1)), (Write(1), 2, None)];
        assert!(!is_linearizable(&history(&early)));
    }

    #[test]
    fn a_bad_end_of_a_long_and_busy_history_is_found_soon() {
        let mut long = Vec::new();
        for round in 0..100_u64 {
            let at = round * 10;
            for writer in 0..4 {
                long.push((Write(round * 4 + writer), at, Some(at + 9)));
            }
            long.push((Read(Some(round * 4 + round % 4)), at + 1, Some(at + 8)));
        }
        assert!(is_linearizable(&history(&long)));
        long.push((Read(Some(3)), 2_000, Some(2_001)));
        assert!(!is_linearizable(&history(&long)));
    }
}
