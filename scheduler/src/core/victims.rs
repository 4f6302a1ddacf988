//! Who could give way to a gang that is entitled to the room they hold: found in one walk over those that run in queues with
//! more than their part, and looked at closely only as far as they are needed.
//!
//! For a gang on one worker the cheapest come first, until some worker has enough. A gang on several workers is served by
//! `clear`.

use crate::core::Core;
use crate::core::gang::Gang;
use crate::core::preempt::Victim;
use crate::core::running::Soft;
use crate::fleet::Need;
use crate::model::Placed;
use crate::place::{Ask, Seats};
use crate::policy::PreemptRules;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use types::{JobId, Timestamp};

/// A victim that frees so many times what a gang needs is one of last resort.
const WIDE: u64 = 8;

/// Whether it is stopped (and not only shrunk), its priority, whether it is one of last resort.
pub(super) type Rank = (bool, i32, bool);

/// A running gang that could give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub rank: Rank,
    /// What is lost by each member that leaves, in device-milliseconds.
    pub lost: u64,
    job: JobId,
    pub gang: u32,
    /// What its queue will use less, of which class, and whose debt that pays; nothing within the beneficiary's own queue.
    debtor: Option<(u32, u16)>,
    amount: u64,
    members: u32,
    first: Placed,
    pub holds: (u32, u64),
}

/// What queues use beyond their parts, as far as it was asked for. A queue gives back no more than that.
pub(super) type Debts = BTreeMap<(u32, u16), u64>;

impl Core {
    /// Who makes room for a gang that is entitled to it, and where the gang then goes. `ripe_at` comes to be when the next one
    /// has run for long enough to be stopped, if that is sooner.
    pub(super) fn victims_for(
        &self,
        gang: &Gang,
        need: &Need,
        ask: &Ask<'_>,
        rules: PreemptRules,
        ripe_at: &mut Option<Timestamp>,
    ) -> Option<(Vec<Victim>, Seats)> {
        let candidates = self.candidates(gang, need, rules, self.policy.is_elastic, ripe_at);
        let may_shrink = candidates.iter().any(Candidate::shrinks);
        let found = self.choose_among(need, ask, rules, candidates);
        if found.is_some() || !may_shrink {
            return found;
        }
        self.choose_among(need, ask, rules, self.candidates(gang, need, rules, false, ripe_at))
    }

    fn choose_among(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        rules: PreemptRules,
        mut candidates: Vec<Candidate>,
    ) -> Option<(Vec<Victim>, Seats)> {
        if ask.members > 1 {
            candidates.sort_unstable();
            return self.clear(need, ask, rules, &candidates);
        }
        // A few of thousands are enough most of the time: they are not sorted to the end.
        let mut heap: BinaryHeap<Reverse<Candidate>> = candidates.into_iter().map(Reverse).collect();
        let mut debts = Debts::new();
        let cheapest = std::iter::from_fn(|| heap.pop().map(|Reverse(candidate)| candidate));
        let able = cheapest.filter(|candidate| self.pay_debt(candidate, &mut debts));
        self.choose_on_one(need, ask, able.filter_map(|candidate| self.victim_of(&candidate, rules)))
    }

    /// Only queues that have more than their part are looked at, and the gang's own.
    fn candidates(
        &self,
        gang: &Gang,
        need: &Need,
        rules: PreemptRules,
        may_shrink: bool,
        ripe_at: &mut Option<Timestamp>,
    ) -> Vec<Candidate> {
        let usage = self.gangs.info(gang).usage(need);
        let amount = usage.per_member * u64::from(self.gangs.info(gang).shape.members.min);
        let mut candidates = Vec::new();
        for queue in 0..self.tree.queues.len() as u32 {
            let fork = self.tree.fork(gang.queue, queue);
            let is_entitled = |(mine, theirs): (u32, u32)| {
                self.tree.is_own(mine, usage.class, amount) && !self.tree.is_own(theirs, usage.class, 0)
            };
            if !fork.is_none_or(is_entitled) {
                continue;
            }
            let debtor = fork.map(|(_, theirs)| theirs);
            let range = (queue, Reverse(u64::MAX), 0)..=(queue, Reverse(0), u32::MAX);
            for ((_, _, index), soft) in self.by_service.range(range) {
                let is_below = debtor.is_some() || gang.priority > soft.priority;
                if !is_below || !soft.could_stop(need.class, self.now, rules) {
                    continue;
                }
                let ripe = rules.ripe_at(soft.since);
                if ripe <= self.now {
                    candidates.push(self.candidate(gang, (*index, soft), debtor, rules, may_shrink));
                } else {
                    *ripe_at = Some(ripe_at.map_or(ripe, |other| other.min(ripe)));
                }
            }
        }
        candidates
    }

    fn candidate(
        &self,
        gang: &Gang,
        (index, soft): (u32, &Soft),
        debtor: Option<u32>,
        rules: PreemptRules,
        may_shrink: bool,
    ) -> Candidate {
        let (members, min) = (soft.members(), soft.members_min);
        let shrinks = may_shrink && members > min;
        let frees = u64::from(if shrinks { members - min } else { members });
        let (_, lost) = soft.loss(self.now, rules);
        let width = u64::from(members) * u64::from(soft.devices);
        Candidate {
            rank: (!shrinks, soft.priority, self.is_wide(gang, frees, soft.devices)),
            lost: lost.0.saturating_mul(width) / frees.max(1),
            job: soft.job,
            gang: index,
            debtor: debtor.map(|debtor| (debtor, soft.usage.class)),
            amount: soft.usage.per_member * frees,
            members,
            first: soft.first,
            holds: soft.holds,
        }
    }

    /// Would far more be free than the gang needs? Then others are better victims, if there are any.
    pub(super) fn is_wide(&self, gang: &Gang, frees: u64, devices: u32) -> bool {
        let shape = &self.gangs.info(gang).shape;
        frees * u64::from(devices) > WIDE * u64::from(shape.devices.max(1)) * u64::from(shape.members.min)
    }

    /// Counts what a candidate gives back. False when its queue owes nothing any more.
    pub(super) fn pay_debt(&self, candidate: &Candidate, debts: &mut Debts) -> bool {
        let Some((debtor, class)) = candidate.debtor else { return true };
        let Some(queue) = self.tree.queues.get(debtor as usize) else { return false };
        let at = usize::from(class);
        let debt =
            debts.entry((debtor, class)).or_insert_with(|| queue.used(at).saturating_sub(queue.quota(at).guaranteed));
        let owes = *debt > 0;
        *debt = debt.saturating_sub(candidate.amount);
        owes
    }

    /// The members that would leave.
    pub(super) fn leavers<'a>(&'a self, candidate: &'a Candidate) -> &'a [Placed] {
        if candidate.members == 1 {
            return std::slice::from_ref(&candidate.first);
        }
        let gang = self.gangs.get(candidate.gang);
        let Some((gang, running)) = gang.and_then(|gang| Some((gang, gang.running()?))) else { return &[] };
        let kept = if candidate.shrinks() { self.gangs.info(gang).shape.members.min as usize } else { 0 };
        running.members.get(kept..).unwrap_or(&[])
    }

    pub(super) fn victim_of(&self, candidate: &Candidate, rules: PreemptRules) -> Option<Victim> {
        let other = self.gangs.get(candidate.gang)?;
        Some(self.victim(candidate.gang, other, other.running()?, rules, candidate.shrinks()))
    }
}

impl Candidate {
    /// It becomes smaller, and is not stopped.
    pub fn shrinks(&self) -> bool {
        !self.rank.0
    }
}
