//! Who could give way to a gang that is entitled to the room they hold: those that run in queues with more than their part, and
//! in its own queue those that matter less, the cheapest first.

use crate::core::Core;
use crate::core::gang::{Gang, Running};
use crate::core::givers::Kind;
use crate::core::preempt::Victim;
use crate::core::running::is_tired;
use crate::fleet::Need;
use crate::model::Placed;
use crate::place::{Ask, Seats};
use crate::policy::PreemptRules;
use std::collections::BTreeMap;
use types::{Millis, Timestamp};

/// A victim that frees so many times what a gang needs is one of last resort.
const WIDE: u64 = 8;

/// Whether it is stopped (and not only shrunk), its priority, whether it is one of last resort.
pub(super) type Rank = (bool, i32, bool);

/// A running gang that could give way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub rank: Rank,
    /// What is lost for each member that is of use, in device-milliseconds.
    pub lost: u64,
    pub gang: u32,
    /// What its queue will use less, of which class, and whose debt that pays; nothing within the beneficiary's own queue.
    debtor: Option<(u32, u16)>,
    amount: u64,
    /// Those that leave.
    pub leavers: &'a [Placed],
    /// What a member holds besides devices: CPU slots and bytes of memory.
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
        let found = self.clear(need, ask, rules, self.candidates(gang, need, rules, self.policy.is_elastic, ripe_at));
        if found.is_some() || !self.policy.is_elastic || self.elastic.is_empty() {
            return found;
        }
        self.clear(need, ask, rules, self.candidates(gang, need, rules, false, ripe_at))
    }

    /// The cheapest first. Only queues that have more than their part are looked at, and the gang's own.
    fn candidates<'a>(
        &'a self,
        gang: &'a Gang,
        need: &Need,
        rules: PreemptRules,
        may_shrink: bool,
        ripe_at: &'a mut Option<Timestamp>,
    ) -> impl Iterator<Item = Candidate<'a>> {
        let info = self.gangs.info(gang);
        let usage = info.usage(need);
        let amount = usage.per_member * u64::from(info.shape.members.min);
        let wanted = u64::from(need.devices.max(1)) * u64::from(info.shape.members.min);
        let mut debtors: BTreeMap<u32, Option<Option<u32>>> = BTreeMap::new();
        let mut debtor_of = |queue: u32| {
            *debtors.entry(queue).or_insert_with(|| {
                let Some((mine, theirs)) = self.tree.fork(gang.queue, queue) else { return Some(None) };
                let is_entitled =
                    self.tree.is_own(mine, usage.class, amount) && !self.tree.is_own(theirs, usage.class, 0);
                is_entitled.then_some(Some(theirs))
            })
        };
        let kinds = self.givers.kinds_of(need.class).filter_map(|kind| {
            let debtor = debtor_of(kind.queue)?;
            let is_below = debtor.is_some() || gang.priority > kind.priority;
            is_below.then(|| {
                let (rank, price) = worth(kind, wanted, may_shrink);
                (*kind, (rank, debtor), price)
            })
        });
        let soon = self.now.plus(rules.checkpoint_wait_max);
        let walk = self.givers.walk(kinds, self.now, soon);
        walk.filter_map(move |(kind, (rank, debtor), index, lost)| {
            let gang = self.gangs.get(index)?;
            let running = gang.running()?;
            if is_tired((gang.past().stops, gang.past().stops_since), self.now, rules) {
                return None;
            }
            let ripe = rules.ripe_at(running.since);
            if ripe > self.now {
                *ripe_at = Some(ripe_at.map_or(ripe, |other| other.min(ripe)));
                return None;
            }
            self.candidate(&kind, (index, gang, running), (rank, debtor), lost, info.shape.members.min)
        })
    }

    fn candidate<'a>(
        &self,
        kind: &Kind,
        (index, gang, running): (u32, &Gang, &'a Running),
        (rank, debtor): (Rank, Option<u32>),
        lost: Millis,
        members: u32,
    ) -> Option<Candidate<'a>> {
        let kept = if rank.0 { 0 } else { kind.members_min as usize };
        let leavers = running.members.get(kept..)?;
        let info = self.gangs.info(gang);
        let (_, need) = info.choice(running.choice)?;
        let usage = info.usage(need);
        let width = u64::from(kind.members) * u64::from(kind.devices);
        let useful = (leavers.len() as u64).min(members.into()).max(1);
        Some(Candidate {
            rank,
            lost: lost.0.saturating_mul(width) / useful,
            gang: index,
            debtor: debtor.map(|debtor| (debtor, usage.class)),
            amount: usage.per_member * leavers.len() as u64,
            leavers,
            holds: (need.cpus, need.memory_bytes),
        })
    }

    /// Would far more be free than the gang needs? Then others are better victims, if there are any.
    pub(super) fn is_wide(&self, gang: &Gang, frees: u64, devices: u32) -> bool {
        let shape = &self.gangs.info(gang).shape;
        is_far_wider(frees * u64::from(devices), u64::from(shape.devices.max(1)) * u64::from(shape.members.min))
    }

    /// Counts what a candidate gives back. False when its queue owes nothing any more.
    pub(super) fn pay_debt(&self, candidate: &Candidate<'_>, debts: &mut Debts) -> bool {
        let Some((debtor, class)) = candidate.debtor else { return true };
        let Some(queue) = self.tree.queues.get(debtor as usize) else { return false };
        let at = usize::from(class);
        let debt =
            debts.entry((debtor, class)).or_insert_with(|| queue.used(at).saturating_sub(queue.quota(at).guaranteed));
        let owes = *debt > 0;
        *debt = debt.saturating_sub(candidate.amount);
        owes
    }

    pub(super) fn victim_of(&self, candidate: &Candidate<'_>, rules: PreemptRules) -> Option<Victim> {
        let other = self.gangs.get(candidate.gang)?;
        Some(self.victim(candidate.gang, other, other.running()?, rules, !candidate.rank.0))
    }
}

/// How early gangs of a kind come, and what a millisecond of their work costs for each thousand devices that are of use to a
/// gang that wants so many.
fn worth(kind: &Kind, wanted: u64, may_shrink: bool) -> (Rank, u64) {
    let shrinks = may_shrink && kind.members > kind.members_min;
    let frees =
        u64::from(if shrinks { kind.members - kind.members_min } else { kind.members }) * u64::from(kind.devices);
    let width = u64::from(kind.members) * u64::from(kind.devices);
    let price = width.saturating_mul(1_000) / frees.min(wanted).max(1);
    ((!shrinks, kind.priority, is_far_wider(frees, wanted)), price)
}

fn is_far_wider(frees: u64, wanted: u64) -> bool {
    frees > WIDE * wanted
}
