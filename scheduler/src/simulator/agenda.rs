//! What happens at times of its own, the earliest first.
//!
//! Most of it is checkpoints, each an interval after the one before: planned nearly in order of time. Those that come in order wait in
//! lanes, where it costs nothing to find their place; ends, which are planned far ahead, and the rest go through a heap.

use super::driver::Happening;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Several, so that one that is planned further ahead (after a restart, which takes its time) does not send all that follow to
/// the heap.
const LANES: usize = 3;

type Item = (u64, Happening);

/// `push` in any order, `pop` in the order of time and then of the happenings.
#[derive(Default)]
pub(crate) struct Agenda {
    lanes: [VecDeque<Item>; LANES],
    heap: BinaryHeap<Reverse<Item>>,
}

impl Agenda {
    pub(crate) fn push(&mut self, at: u64, happening: Happening) {
        let item = (at, happening);
        let is_near = matches!(happening, Happening::Saved { .. });
        match self.lanes.iter_mut().find(|lane| is_near && lane.back().is_none_or(|last| *last <= item)) {
            Some(lane) => lane.push_back(item),
            None => self.heap.push(Reverse(item)),
        }
    }

    /// When the first is due.
    pub(crate) fn next(&self) -> Option<u64> {
        let lanes = self.lanes.iter().filter_map(VecDeque::front);
        lanes.chain(self.heap.peek().map(|Reverse(item)| item)).map(|(at, _)| *at).min()
    }

    /// The first, if it is due by now.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<Happening> {
        let lanes = self.lanes.iter().enumerate().filter_map(|(lane, items)| Some((*items.front()?, Some(lane))));
        let heap = self.heap.peek().map(|Reverse(item)| (*item, None));
        let (_, lane) = lanes.chain(heap).min().filter(|((at, _), _)| *at <= now)?;
        let item = match lane {
            Some(lane) => self.lanes[lane].pop_front(),
            None => self.heap.pop().map(|Reverse(item)| item),
        };
        item.map(|(_, happening)| happening)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_the_order_of_plans_they_come_in_the_order_of_time(
            steps in proptest::collection::vec((0_u64..20, 0_u32..3, any::<bool>()), 1..200),
        ) {
            let (mut agenda, mut sorted) = (Agenda::default(), std::collections::BTreeMap::new());
            let mut now = 0;
            for (number, (ahead, job, is_pop)) in steps.into_iter().enumerate() {
                if is_pop {
                    prop_assert_eq!(agenda.next(), sorted.keys().next().map(|(at, _)| *at));
                    let due = sorted.first_entry().filter(|first| first.key().0 <= now).map(std::collections::btree_map::OccupiedEntry::remove);
                    prop_assert_eq!(agenda.pop_due(now), due);
                    now += ahead / 8;
                } else {
                    let attempt = number as u32;
                    let happening =
                        if job == 0 { Happening::End { job, attempt } } else { Happening::Saved { job, attempt } };
                    agenda.push(now + ahead, happening);
                    sorted.insert((now + ahead, happening), happening);
                }
            }
        }
    }
}
