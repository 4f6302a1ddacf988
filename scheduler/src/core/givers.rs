//! Those that run and may be stopped, by what would be lost. Whoever looks for victims goes along these orders, and looks at
//! those only that it takes, however many run.
//!
//! What is lost by a stop grows for all alike while nobody writes a checkpoint, so that the order among gangs of one kind stays
//! as it is; those that will write one soon and are stopped after it are the cheapest of their kind, and come in the order in
//! which they are due. A walk takes the next of all kinds in turn, by what would be lost for each device that is of use.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::collections::{BTreeMap, BinaryHeap, btree_map, btree_set};
use types::{JobId, Millis, Timestamp};

/// What is the same for all gangs of a kind, whatever they lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub class: u16,
    pub queue: u32,
    pub priority: i32,
    /// It started for its age, or by a promise.
    pub was_special: bool,
    pub members: u32,
    pub members_min: u32,
    /// Devices of a member.
    pub devices: u32,
}

/// Where a gang stands among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub kind: Kind,
    pub job: JobId,
    /// What it did before this time is kept; what saving and restoring take counts as done after it.
    pub kept_until: Timestamp,
    /// When the next checkpoint is due, and what it and restoring from it take.
    pub due: Option<(Timestamp, Millis)>,
}

/// Gangs of one kind, in two orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Orders {
    /// Those that lose least first, with when their next checkpoint is due.
    by_loss: BTreeMap<(Reverse<Timestamp>, JobId, u32), Option<Timestamp>>,
    by_due: BTreeSet<(Timestamp, Millis, JobId, u32)>,
}

impl Orders {
    fn remove(&mut self, gang: u32, old: Standing) {
        self.by_loss.remove(&(Reverse(old.kept_until), old.job, gang));
        if let Some((due, cost)) = old.due {
            self.by_due.remove(&(due, cost, old.job, gang));
        }
    }
}

/// All that may be stopped and are not leaving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Givers {
    kinds: BTreeMap<Kind, Orders>,
}

impl Givers {
    /// A gang stands elsewhere now, or nowhere.
    pub fn move_gang(&mut self, gang: u32, old: Option<Standing>, new: Option<Standing>) {
        if old == new {
            return;
        }
        let is_same_kind = old.zip(new).is_some_and(|(old, new)| old.kind == new.kind);
        if let Some(old) = old.filter(|_| !is_same_kind)
            && let Some(orders) = self.kinds.get_mut(&old.kind)
        {
            orders.remove(gang, old);
            if orders.by_loss.is_empty() {
                self.kinds.remove(&old.kind);
            }
        }
        if let Some(new) = new {
            let orders = self.kinds.entry(new.kind).or_default();
            old.filter(|_| is_same_kind).into_iter().for_each(|old| orders.remove(gang, old));
            orders.by_loss.insert((Reverse(new.kept_until), new.job, gang), new.due.map(|(due, _)| due));
            orders.by_due.extend(new.due.map(|(due, cost)| (due, cost, new.job, gang)));
        }
    }

    /// Kinds of gangs that hold devices of a class.
    pub fn kinds_of(&self, class: u16) -> impl Iterator<Item = &Kind> {
        let is_of_class = move |kind: &&Kind| kind.class == class;
        let first =
            Kind { class, queue: 0, priority: i32::MIN, was_special: false, members: 0, members_min: 0, devices: 0 };
        self.kinds.range(first..).map(|(kind, _)| kind).take_while(is_of_class)
    }

    /// Gangs of these kinds, the cheapest first. Each kind comes with a rank that counts before what is lost, and with what a
    /// millisecond of its gangs' work costs. Those whose checkpoint is due by `soon` are stopped after it.
    pub fn walk<R: Copy + Ord>(
        &self,
        kinds: impl Iterator<Item = (Kind, R, u64)>,
        now: Timestamp,
        soon: Timestamp,
    ) -> Walk<'_, R> {
        let mut walk = Walk { ways: Vec::new(), heads: BinaryHeap::new(), now, soon };
        for (kind, rank, price) in kinds {
            let Some(orders) = self.kinds.get(&kind) else { continue };
            for next in [Way::Due(orders.by_due.iter()), Way::Loss(orders.by_loss.iter())] {
                walk.ways.push((kind, rank, price, next));
                walk.advance(walk.ways.len() - 1);
            }
        }
        walk
    }
}

enum Way<'a> {
    Due(btree_set::Iter<'a, (Timestamp, Millis, JobId, u32)>),
    Loss(btree_map::Iter<'a, (Reverse<Timestamp>, JobId, u32), Option<Timestamp>>),
}

/// Rank, the price of what is lost, job, gang, the number of the way, and what is lost.
type Head<R> = (R, u64, JobId, u32, usize, Millis);

/// From the cheapest to the dearest.
pub(crate) struct Walk<'a, R> {
    ways: Vec<(Kind, R, u64, Way<'a>)>,
    /// The next of each way.
    heads: BinaryHeap<Reverse<Head<R>>>,
    now: Timestamp,
    soon: Timestamp,
}

impl<R: Copy + Ord> Walk<'_, R> {
    fn advance(&mut self, at: usize) {
        let (now, soon) = (self.now, self.soon);
        let Some((_, rank, price, way)) = self.ways.get_mut(at) else { return };
        let next = match way {
            Way::Due(dues) => {
                let next = dues.next().filter(|(due, ..)| *due <= soon);
                next.map(|(_, cost, job, gang)| (cost.0, *job, *gang))
            }
            Way::Loss(losses) => {
                let next = losses.find(|(_, due)| due.is_none_or(|due| due > soon));
                next.map(|((Reverse(kept_until), job, gang), _)| (now.since(*kept_until).0, *job, *gang))
            }
        };
        if let Some((lost, job, gang)) = next {
            self.heads.push(Reverse((*rank, lost.saturating_mul(*price), job, gang, at, Millis(lost))));
        }
    }
}

impl<R: Copy + Ord> Iterator for Walk<'_, R> {
    /// Kind, rank, gang, and what of its time is lost.
    type Item = (Kind, R, u32, Millis);

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((_, _, _, gang, at, lost)) = self.heads.pop()?;
        self.advance(at);
        let (kind, rank, ..) = self.ways.get(at)?;
        Some((*kind, *rank, gang, lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(queue: u32) -> Kind {
        Kind { class: 1, queue, priority: 0, was_special: false, members: 1, members_min: 1, devices: 1 }
    }

    proptest! {
        /// The walk comes to all of the kinds that are asked for, in the order of what is lost, and to no others.
        #[test]
        fn a_walk_goes_from_the_cheapest_to_the_dearest(
            gangs in prop::collection::vec((0..3_u32, 0..1_000_u64, prop::option::of(0..2_000_u64)), 0..60),
            gone in prop::collection::vec(any::<bool>(), 60),
            prices in [1..5_u64, 1..5_u64],
        ) {
            let (now, soon) = (Timestamp(1_000), Timestamp(1_300));
            let mut givers = Givers::default();
            let mut expected = BTreeMap::new();
            for (at, (queue, kept_until, due)) in gangs.iter().enumerate() {
                let due = due.map(|due| (Timestamp(due), Millis(20)));
                let standing = Standing { kind: kind(*queue), job: JobId(at as u64), kept_until: Timestamp(*kept_until), due };
                givers.move_gang(at as u32, None, Some(standing));
                if gone[at] {
                    givers.move_gang(at as u32, Some(standing), None);
                } else if *queue < 2 {
                    let lost = due.filter(|(due, _)| *due <= soon).map_or(1_000 - kept_until, |(_, cost)| cost.0);
                    expected.insert(at as u32, lost * prices[*queue as usize]);
                }
            }
            let kinds = (0..2_u32).map(|queue| (kind(queue), 0, prices[queue as usize]));
            let mut walked: Vec<u32> = givers.walk(kinds, now, soon).map(|(_, _, gang, _)| gang).collect();
            prop_assert!(walked.is_sorted_by_key(|gang| expected.get(gang)));
            walked.sort_unstable();
            prop_assert_eq!(walked, expected.into_keys().collect::<Vec<_>>());
        }
    }
}
