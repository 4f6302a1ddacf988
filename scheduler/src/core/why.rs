//! Why a gang waits: the first obstacle on its way, and what would start it now.

use crate::core::Core;
use crate::core::gang::{Gang, Key, Phase, ShapeInfo, stretched};
use crate::core::start::Tried;
use crate::core::sweep::Wanted;
use crate::explain::{Basis, Explanation, Forecast, Lack, Obstacle, Remedy};
use crate::fleet::{Fleet, Need, OPEN_POOL, level_of};
use crate::model::{Level, WorkerIndex};
use crate::place::{self, Ask, Supply};
use crate::policy::{Order, Passing};
use crate::rooms::{Measure, Rooms};
use types::{JobId, Millis, Timestamp, WorkerId};

const LEVELS_BY_WIDTH: [Level; 5] = [Level::Switch, Level::Rack, Level::Block, Level::Zone, Level::Cluster];

impl Core {
    /// The workers that are set aside for failing jobs, and until when.
    pub fn set_aside(&self, now: Timestamp) -> impl Iterator<Item = (&WorkerId, Timestamp)> {
        let present = self.fleet.workers.iter().filter(|worker| worker.is_present);
        present.filter_map(move |worker| Some((&worker.spec.id, worker.aside_until.filter(|until| *until > now)?)))
    }

    pub(super) fn why(&self, now: Timestamp, job: JobId) -> Option<Explanation> {
        let index = self.gangs.index_of(job)?;
        let gang = self.gangs.get(index)?;
        if let Phase::Running(_) = gang.phase {
            return None;
        }
        let (ahead, next) = self.ahead_of(index, gang);
        let obstacle = self.obstacle(now, index, gang);
        let can_start = !matches!(obstacle, Obstacle::NeverFits(_) | Obstacle::OverCeiling { .. });
        let start = if can_start { self.forecast(now, index, gang) } else { None };
        let remedies = self.remedies(index, gang, &obstacle);
        Some(Explanation { obstacle, ahead, next, start, remedies })
    }

    /// How many of its queue go before it, and the first of them.
    fn ahead_of(&self, index: u32, gang: &Gang) -> (u64, Option<JobId>) {
        let Some(key) = gang.key(index) else { return (0, None) };
        let lines = || self.lines.of_queue(gang.queue).filter(|line| line.fits_ever);
        let first = lines().filter_map(super::line::Line::first).filter(|first| *first < key).min();
        let ahead = lines().map(|line| line.by_key.range(..key).count() as u64).sum();
        (ahead, first.map(|first| first.job))
    }

    fn obstacle(&self, now: Timestamp, index: u32, gang: &Gang) -> Obstacle {
        let info = self.gangs.info(gang);
        if gang.not_before > now {
            return Obstacle::NotBefore { until: gang.not_before, left: gang.not_before.since(now) };
        }
        if !self.fits_ever(gang.queue, gang.shape) {
            return self.never(gang, info);
        }
        if let Some(jobs) = self.leaving_for(index).filter(|jobs| !jobs.is_empty()) {
            return Obstacle::VictimsLeaving { jobs };
        }
        match self.try_place(index, gang) {
            Tried::Fits(..) => self.passed_by(index, gang),
            Tried::OverQuota(over, class) => {
                let queue = &self.tree.queues[over.queue as usize];
                let need = info.width() / u64::from(info.shape.members.max.max(1)) * u64::from(info.shape.members.min);
                Obstacle::QuotaUsed {
                    queue: queue.name.clone(),
                    class: self.fleet.classes.get(class as usize).cloned().unwrap_or_default(),
                    need,
                    used: queue.used(class as usize),
                    limit: over.limit,
                }
            }
            Tried::Promised(holder, until) => {
                let job = self.gangs.get(holder).map_or(gang.job, |holder| holder.job);
                Obstacle::HeldFor { job, until }
            }
            Tried::NoRoom => self.no_room(index, gang, info),
        }
    }

    /// It fits: only a policy that lets nobody pass keeps it.
    fn passed_by(&self, index: u32, gang: &Gang) -> Obstacle {
        let Some(key) = gang.key(index) else { return Obstacle::None };
        let heads = self.lines.iter().filter(|(_, line)| line.fits_ever).filter_map(|(_, line)| line.first());
        match heads.min() {
            Some(first) if self.policy.passing == Passing::Nobody && first < key => Obstacle::Behind { job: first.job },
            _ => Obstacle::None,
        }
    }

    fn no_room(&self, index: u32, gang: &Gang, info: &ShapeInfo) -> Obstacle {
        let members = info.shape.members.min;
        let Some((speed, need)) = info.choices.iter().find_map(|(speed, need)| Some((*speed, need.as_ref()?))) else {
            return Obstacle::NeverFits(Lack::Class);
        };
        let pools = self.pools_for(index, gang, speed, members);
        let mut kept = self.index.borrow_mut();
        let rooms = kept.rooms(&self.fleet, need, Measure::Free);
        let fits = |ask: Ask<'_>| place::find(&self.fleet, rooms, &ask).is_some();
        // Would it fit if nothing were kept for others, and nothing closed?
        if fits(info.ask(members, u64::MAX, &[])) {
            return self.kept_from(need, rooms, pools);
        }
        let supply = Supply::of(&self.fleet, rooms, &info.ask(members, pools, &[]));
        let fit = u64::from(supply.total);
        let need_members = u64::from(members);
        let level = info.shape.required.filter(|level| *level != Level::Cluster);
        match level {
            Some(level) if fit >= need_members => {
                let best = if level == Level::Worker { None } else { supply.best(&self.fleet, level_of(level)) };
                let name = best.map(|(place, _)| self.fleet.domains.full_name(level_of(level), place));
                let fit_best = best.map_or(0, |(_, fit)| u64::from(fit));
                Obstacle::Fragmented {
                    level,
                    best: name.unwrap_or_default(),
                    need: need_members,
                    fit: fit_best,
                    fit_in_all: fit,
                }
            }
            _ => Obstacle::NoCapacity { need: need_members, fit },
        }
    }

    /// Which reservation or closing worker keeps it from free room.
    fn kept_from(&self, need: &Need, rooms: &Rooms, pools: u64) -> Obstacle {
        let held =
            self.reservations.iter().find(|held| pools >> held.pool & 1 == 0 && rooms.pooled.contains_key(&held.pool));
        if let Some(job) = held.and_then(|held| self.gangs.get(held.gang)).map(|gang| gang.job) {
            return Obstacle::HeldFor { job, until: held.map_or(self.now, |held| held.start_by) };
        }
        let closing =
            self.closing.iter().find(|(_, (pool, _))| pools >> *pool & 1 == 0 && rooms.pooled.contains_key(pool));
        let Some((at, (pool, _))) = closing else { return Obstacle::NoCapacity { need: 1, fit: 0 } };
        let mut workers = self.fleet.workers.iter().enumerate();
        let worker = workers.find(|(_, worker)| worker.pool == *pool && need.room(worker) > 0);
        Obstacle::Closing { worker: WorkerIndex(worker.map_or(0, |(at, _)| at as u32)), at: *at }
    }

    fn never(&self, gang: &Gang, info: &ShapeInfo) -> Obstacle {
        for need in info.choices.iter().flat_map(|(_, need)| need) {
            let usage = info.usage(need);
            let amount = usage.per_member * u64::from(info.shape.members.min);
            let capacity = self.fleet.capacity[usage.class as usize];
            if let Err(over) = self.tree.allows(gang.queue, usage.class, amount, capacity)
                && over.is_for_good
            {
                let queue = self.tree.queues[over.queue as usize].name.clone();
                let class = self.fleet.classes[usage.class as usize].clone();
                return Obstacle::OverCeiling { queue, class, need: amount, limit: over.limit };
            }
        }
        Obstacle::NeverFits(lack(&self.fleet, info))
    }

    /// When it will start, as far as that is known.
    fn forecast(&self, now: Timestamp, index: u32, gang: &Gang) -> Option<Forecast> {
        if let Some(at) = self.promised(index) {
            return Some(Forecast { at, basis: Basis::Promised });
        }
        let info = self.gangs.info(gang);
        let pools = 1 << OPEN_POOL;
        let earliest = info.choices.iter().filter_map(|(_, need)| {
            let ask = info.ask(info.shape.members.min, pools, &[]);
            self.sweep(Wanted { need: need.as_ref()?, ask, span: None, claim: None }).map(|(at, _)| at)
        });
        let earliest = earliest.min()?.max(now).max(gang.not_before);
        let backlog = self.backlog(index, gang);
        let at = earliest.max(now.plus(backlog));
        Some(Forecast { at, basis: if at > earliest { Basis::Backlog } else { Basis::Releases } })
    }

    /// Work of those before it in its queue, divided by the devices of its class that are not reserved for others.
    fn backlog(&self, index: u32, gang: &Gang) -> Millis {
        let Some(key) = gang.key(index) else { return Millis(0) };
        let mut work: u128 = 0;
        for line in self.lines.of_queue(gang.queue).filter(|line| line.fits_ever) {
            for (ahead, _) in line.by_key.range(..key).take(FORECAST_DEPTH) {
                work += u128::from(self.service_of(ahead));
            }
        }
        let info = self.gangs.info(gang);
        let classes = info.choices.iter().flat_map(|(_, need)| need).map(|need| info.usage(need).class);
        let capacity: u128 = classes.map(|class| u128::from(self.fleet.capacity[class as usize])).sum();
        Millis(u64::try_from(work / capacity.max(1)).unwrap_or(u64::MAX))
    }

    /// Work of a waiting gang. Where that is the order, it stands in its key.
    fn service_of(&self, key: &Key) -> u64 {
        if self.policy.order == Order::Service && key.is_young {
            return key.cost;
        }
        self.gangs.get(key.gang).map_or(0, |gang| self.waiting_service(gang))
    }

    /// Changes that would each start it now.
    fn remedies(&self, index: u32, gang: &Gang, obstacle: &Obstacle) -> Vec<Remedy> {
        let info = self.gangs.info(gang);
        let mut remedies = Vec::new();
        let Some((speed, need)) = info.choices.iter().find_map(|(speed, need)| Some((*speed, need.as_ref()?))) else {
            return remedies;
        };
        if matches!(obstacle, Obstacle::NotBefore { .. } | Obstacle::QuotaUsed { .. } | Obstacle::None) {
            return remedies;
        }
        let members = info.shape.members.min;
        let pools = self.pools_for(index, gang, speed, members);
        let mut kept = self.index.borrow_mut();
        let rooms = kept.rooms(&self.fleet, need, Measure::Free);
        let required = info.shape.required.unwrap_or(Level::Cluster);
        let wider = LEVELS_BY_WIDTH.into_iter().filter(|level| *level > required);
        let fits = |ask: Ask<'_>| place::find(&self.fleet, rooms, &ask).is_some();
        let mut wider = wider.filter(|level| fits(Ask { required: Some(*level), ..info.ask(members, pools, &[]) }));
        remedies.extend(wider.next().map(|level| Remedy::Widen { level }));
        let fewer = place::most(&self.fleet, rooms, &info.ask(members, pools, &[]));
        if fewer > 0 && fewer < members {
            remedies.push(Remedy::Fewer { members: fewer });
        }
        if fits(info.ask(members, u64::MAX, &[])) {
            remedies.extend(self.shorter(info, speed, rooms).map(|limit| Remedy::Shorter { limit }));
        }
        for (class, name) in self.fleet.classes.iter().enumerate().skip(1) {
            let is_asked = info.choices.iter().flat_map(|(_, need)| need).any(|need| usize::from(need.class) == class);
            let other = Need { class: class as u16, ..need.clone() };
            let rooms = Rooms::new(other, Measure::Free, &self.fleet);
            if !is_asked
                && need.devices > 0
                && place::find(&self.fleet, &rooms, &info.ask(members, pools, &[])).is_some()
            {
                remedies.push(Remedy::OtherClass { class: name.clone() });
            }
        }
        remedies
    }

    /// The longest limit with which it would fit beside what is kept for others.
    fn shorter(&self, info: &ShapeInfo, speed: u32, rooms: &Rooms) -> Option<Millis> {
        let pools = self.fleet.pools.iter().flatten();
        let mut untils: Vec<Timestamp> =
            pools.filter_map(|pool| pool.until).filter(|until| *until > self.now).collect();
        untils.sort_unstable();
        let members = info.shape.members.min;
        untils.into_iter().rev().find_map(|until| {
            let pools = self.fleet.pools_until(Some(until), None);
            let is_enough = place::find(&self.fleet, rooms, &info.ask(members, pools, &[])).is_some();
            let window = until.since(self.now).0;
            let slow = stretched(Millis(1_000), speed, members, info.shape.members.max).0.max(1);
            is_enough.then(|| Millis(window.saturating_mul(1_000) / slow))
        })
    }
}

/// Gangs before it whose work is added up, for each line.
const FORECAST_DEPTH: usize = 2_000;

/// What the empty cluster lacks for a shape.
fn lack(fleet: &Fleet, info: &ShapeInfo) -> Lack {
    let needs: Vec<&Need> = info.choices.iter().flat_map(|(_, need)| need).collect();
    let of_class =
        || fleet.workers.iter().filter(|worker| worker.counts() && needs.iter().any(|n| n.class == worker.class));
    if of_class().next().is_none() {
        return Lack::Class;
    }
    let suits = || of_class().filter(|worker| needs.iter().any(|need| need.suits(worker, true)));
    if suits().next().is_none() {
        return Lack::Labels;
    }
    let shape = &info.shape;
    let devices = suits().map(|worker| u64::from(worker.spec.devices.count_ones())).max().unwrap_or(0);
    let cpus = suits().map(|worker| u64::from(worker.spec.cpus)).max().unwrap_or(0);
    let memory = suits().map(|worker| worker.spec.memory_bytes).max().unwrap_or(0);
    if u64::from(shape.devices) > devices {
        return Lack::Devices { wanted: shape.devices.into(), largest: devices };
    }
    if u64::from(shape.cpus) > cpus {
        return Lack::Cpus { wanted: shape.cpus.into(), largest: cpus };
    }
    if shape.memory_bytes > memory {
        return Lack::MemoryBytes { wanted: shape.memory_bytes, largest: memory };
    }
    let mut largest = 0;
    let level = shape.required.unwrap_or(Level::Cluster);
    for need in needs {
        let rooms = Rooms::new(need.clone(), Measure::Empty, fleet);
        let ask = info.ask(u32::MAX, 1 << OPEN_POOL, &[]);
        largest = largest.max(place::most(fleet, &rooms, &Ask { required: Some(level), ..ask }));
    }
    if largest == 0 {
        return Lack::Together;
    }
    Lack::Members { wanted: shape.members.min.into(), largest: largest.into(), level }
}
