//! Borrowing while quotas change: nobody gets beyond his bounds, and what was lent comes back.

use super::world::*;
use crate::model::*;
use crate::policy::Policy;
use proptest::prelude::*;
use std::collections::BTreeMap;
use types::{JobId, Timestamp};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const DEVICES: u64 = 32;

/// Four workers of 8 devices, and the quotas of four queues as they are now.
struct Lenders {
    world: World,
    quotas: BTreeMap<String, Quota>,
}

impl Lenders {
    fn new() -> Self {
        let mut policy = Policy::default();
        // Stops of one gang in a day are bounded elsewhere: here a queue may ask for its part as often as its quota changes.
        if let Some(rules) = &mut policy.preempt {
            rules.per_day_max = u32::MAX;
        }
        let mut world = World::new(policy);
        for at in 0..4 {
            world.join(worker(&format!("w{at}"), "r0", "gpu", 8, 64));
        }
        let mut lenders = Self { world, quotas: BTreeMap::new() };
        for name in NAMES {
            lenders.set(name, Quota { guaranteed: 8, ..Quota::default() });
        }
        lenders
    }

    fn set(&mut self, name: &str, quota: Quota) {
        self.world.tell(queue(name, 1, "gpu", quota));
        self.quotas.insert(name.to_owned(), quota);
    }

    fn size(&self, job: JobId) -> u64 {
        let shape = &self.world.gangs[&job].shape;
        u64::from(shape.devices) * u64::from(shape.members.min)
    }

    fn used(&self) -> BTreeMap<String, u64> {
        let mut used: BTreeMap<String, u64> = NAMES.iter().map(|name| ((*name).to_owned(), 0)).collect();
        for job in self.world.running.keys() {
            *used.get_mut(&self.world.gangs[job].queue).unwrap() += self.size(*job);
        }
        used
    }

    /// Decides, and follows the starts one by one.
    fn decide(&mut self) -> Vec<Decision> {
        let mut used = self.used();
        let decisions = self.world.decide();
        for decision in &decisions {
            let Decision::Start { job, .. } = decision else { continue };
            let (name, size) = (self.world.gangs[job].queue.clone(), self.size(*job));
            let kept = self
                .quotas
                .iter()
                .filter(|(other, _)| **other != name)
                .map(|(other, quota)| quota.guaranteed.saturating_sub(quota.lend).saturating_sub(used[other]));
            let kept: u64 = kept.sum();
            *used.get_mut(&name).unwrap() += size;
            let (own, all) = (used[&name], used.values().sum::<u64>());
            assert!(own <= self.quotas[&name].ceiling, "{name} has {own}, over its ceiling");
            let is_own = own <= self.quotas[&name].guaranteed;
            assert!(is_own || all + kept <= DEVICES, "{name} borrows what is not lent: {all} used, {kept} kept back");
        }
        decisions
    }

    fn step(&mut self, what: u8, n: u32, size_max: u32) {
        let name = NAMES[n as usize % NAMES.len()];
        match what % 8 {
            0..=2 => {
                let devices = 1 << (n >> 2 & 3).min(size_max);
                let gang = GangRequest { queue: name.to_owned(), ..request(self.world.next_job, 1, devices) };
                self.world.submit(gang);
            }
            3 => {
                let at = n as usize % self.world.running.len().max(1);
                if let Some(job) = self.world.running.keys().nth(at).copied() {
                    self.world.end(job);
                }
            }
            4 | 5 => {
                let guaranteed = u64::from(n >> 4 & 0xf).min(8);
                let ceiling = if n >> 8 & 1 == 1 { u64::MAX } else { guaranteed + u64::from(n >> 9 & 0xf) };
                let lend = if n >> 13 & 1 == 1 { u64::MAX } else { u64::from(n >> 14 & 7) };
                self.set(name, Quota { guaranteed, ceiling, lend });
            }
            6 => self.world.let_go(),
            _ => self.world.now += u64::from(n >> 3 & 7) * MINUTE,
        }
        self.decide();
    }

    /// Time goes on, those that are told to stop do. How many were told in the last rounds.
    fn settle(&mut self) -> usize {
        let mut stops = Vec::new();
        for _ in 0..400 {
            let wake = self.world.core.next_wake(Timestamp(self.world.now)).map(|wake| wake.0);
            self.world.now = wake.unwrap_or(self.world.now + MINUTE).min(self.world.now + MINUTE);
            let mut decisions = self.decide();
            self.world.let_go();
            decisions.extend(self.decide());
            stops.push(decisions.iter().filter(|decision| matches!(decision, Decision::Preempt { .. })).count());
        }
        stops.iter().rev().take(50).sum()
    }
}

proptest! {
    #![proptest_config(super::invariants::cases(4_000))]

    #[test]
    fn no_start_goes_beyond_a_quota_of_its_time(steps in prop::collection::vec((any::<u8>(), any::<u32>()), 1..120)) {
        let mut lenders = Lenders::new();
        for (what, n) in steps {
            lenders.step(what, n, 3);
        }
    }

    #[test]
    fn what_was_lent_comes_back_when_quotas_have_changed(steps in prop::collection::vec((any::<u8>(), any::<u32>()), 1..120)) {
        let mut lenders = Lenders::new();
        for (what, n) in steps {
            lenders.step(what, n, 0);
        }
        prop_assert_eq!(lenders.settle(), 0, "stops come to an end");
        let used = lenders.used();
        for (job, gang) in &lenders.world.gangs {
            let own = lenders.quotas[&gang.queue].guaranteed;
            let is_waiting = !lenders.world.running.contains_key(job);
            prop_assert!(!is_waiting || used[&gang.queue] >= own, "{} waits, and {} has {} of {own}", job, gang.queue, used[&gang.queue]);
        }
    }
}
