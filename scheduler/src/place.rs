//! Where a gang goes: all members or none, in the narrowest place that holds them, so that large holes stay whole.
//!
//! One algorithm for the real cluster and for clusters that might be (after releases, without victims): it looks at `Rooms`
//! only. A gang that fits on one worker goes to the tightest worker in the place with the fewest whole workers; a larger one
//! to the tightest switch, rack, block or zone that holds it, there to the fullest supply first and the rest where it fits
//! tightest. Two-level best fit as in HiveD (OSDI'20) and Kueue's topology-aware scheduling.

mod supply;

pub(crate) use supply::Supply;

use crate::fleet::{CHUNK, CLUSTER, Fleet, LEVELS, Need, choose_devices, level_of};
use crate::model::{Level, Placed, Spread, WorkerIndex};
use crate::rooms::{NOT_TIGHT, Rooms};

/// Which of the places that would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The tightest.
    #[default]
    BestFit,
    /// The workers that joined first, as simple batch systems do.
    LowestId,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub members: u32,
    pub required: Option<Level>,
    pub spread: Option<Spread>,
    /// Pools that may be used, as bits.
    pub pools: u64,
    /// Workers that may not be used.
    pub without: &'a [WorkerIndex],
    pub preference: Preference,
}

/// Workers and how many members each gets, in node-rank order.
pub(crate) type Seats = Vec<(u32, u32)>;

/// Finds workers for all members, or nothing.
pub(crate) fn find(fleet: &Fleet, rooms: &Rooms, ask: &Ask<'_>) -> Option<Seats> {
    // The cheap question first: there is no more room than this.
    if ask.members == 0 || rooms.total_in(ask.pools) < u64::from(ask.members) {
        return None;
    }
    let supply = Supply::of(fleet, rooms, ask);
    if supply.total < ask.members {
        return None;
    }
    let required = ask.required.map_or(CLUSTER, level_of);
    if ask.required == Some(Level::Worker) {
        return single(fleet, &supply, ask);
    }
    if ask.members == 1 && ask.preference == Preference::BestFit {
        return single(fleet, &supply, ask);
    }
    let mut seats = Vec::new();
    if ask.preference == Preference::LowestId {
        let within = if required == CLUSTER { Some((CLUSTER, 0)) } else { supply.first(fleet, required, ask.members) };
        lowest(fleet, &supply, within?, ask.members, &mut seats);
    } else {
        // Within one place of the width of a cap there is room for no more than the cap.
        let capped = ask.spread.filter(|spread| spread.level != Level::Worker && ask.members > spread.members_max);
        let narrowest = capped.map_or(CHUNK + 1, |spread| level_of(spread.level) + 1);
        let tightest = (narrowest..=required).find_map(|level| {
            if level == CLUSTER {
                return Some((CLUSTER, 0));
            }
            let must_be_named = level == required;
            supply.tightest(fleet, level, ask.members, must_be_named).map(|domain| (level, domain))
        });
        fill(fleet, &supply, tightest?, ask.members, &mut seats);
    }
    let placed: u32 = seats.iter().map(|(_, count)| count).sum();
    (placed == ask.members).then_some(seats)
}

/// The most members that `find` would place, at most `ask.members`.
pub(crate) fn most(fleet: &Fleet, rooms: &Rooms, ask: &Ask<'_>) -> u32 {
    let supply = Supply::of(fleet, rooms, ask);
    let most = match ask.required {
        None | Some(Level::Cluster) => supply.total,
        Some(Level::Worker) => (0..fleet.workers.len() as u32).map(|worker| supply.room(worker)).max().unwrap_or(0),
        Some(level) => supply.best(fleet, level_of(level)).map_or(0, |(_, most)| most),
    };
    most.min(ask.members)
}

/// All members on one worker.
fn single(fleet: &Fleet, supply: &Supply<'_>, ask: &Ask<'_>) -> Option<Seats> {
    let fits = |worker: &u32| supply.room(*worker) >= ask.members;
    if ask.preference == Preference::LowestId {
        let worker = (0..fleet.workers.len() as u32).find(fits)?;
        return Some(vec![(worker, ask.members)]);
    }
    if ask.members == 1 {
        let tight = supply.tight();
        let chunks = tight.iter().zip(&fleet.whole).enumerate().filter(|(_, (tight, _))| **tight != NOT_TIGHT);
        let (chunk, (tight, _)) = chunks.min_by_key(|(_, key)| *key)?;
        let workers = &fleet.domains.get(CHUNK, chunk as u32)?.children;
        let is_tightest = |worker: &&u32| fleet.get(**worker).map(Need::tightness) == Some(*tight);
        let worker = workers.iter().filter(|worker| fits(worker)).find(is_tightest)?;
        return Some(vec![(*worker, 1)]);
    }
    let workers = (0..fleet.workers.len() as u32).filter(fits);
    let worker = workers.min_by_key(|worker| (fleet.get(*worker).map(Need::tightness), *worker))?;
    Some(vec![(worker, ask.members)])
}

/// Puts `count` members into a place that has room for them.
fn fill(fleet: &Fleet, supply: &Supply<'_>, (level, domain): (usize, u32), count: u32, seats: &mut Seats) {
    let all: Vec<u32>;
    let children: &[u32] = if level == CLUSTER {
        all = (0..fleet.domains.count(LEVELS - 1) as u32).collect();
        &all
    } else {
        fleet.domains.get(level, domain).map_or(&[], |domain| &domain.children)
    };
    // A place whose members are capped takes what the cap leaves; `supply` counts it so already.
    let room = |child: u32| if level == CHUNK { supply.room(child) } else { supply.slots(level - 1, child) };
    let mut order: Vec<u32> = children.iter().copied().filter(|child| room(*child) > 0).collect();
    // Of workers with the same room the fullest first: the emptier ones stay whole.
    let tightness = |child: u32| if level == CHUNK { fleet.get(child).map_or(0, Need::tightness) } else { 0 };
    order.sort_by_key(|child| (std::cmp::Reverse(room(*child)), tightness(*child), *child));
    let mut left = count.min(if level == CLUSTER { supply.total } else { supply.slots(level, domain) });
    let mut order = &order[..];
    while left > 0 {
        let Some((first, rest)) = order.split_first() else { return };
        let mut child = *first;
        if room(child) >= left {
            // The last one: the tightest that still holds the rest.
            let enough = order.iter().filter(|child| room(**child) >= left);
            child = enough.min_by_key(|child| (room(**child), tightness(**child), **child)).copied().unwrap_or(child);
        }
        let part = room(child).min(left);
        if level == CHUNK {
            seats.push((child, part));
        } else {
            fill(fleet, supply, (level - 1, child), part, seats);
        }
        left -= part;
        order = rest;
    }
}

/// Puts `count` members on the lowest workers of a place.
fn lowest(fleet: &Fleet, supply: &Supply<'_>, (level, domain): (usize, u32), count: u32, seats: &mut Seats) {
    let mut left = count;
    for (worker, known) in fleet.workers.iter().enumerate() {
        if left == 0 {
            return;
        }
        let is_within = level == CLUSTER || known.path[level] == domain;
        let part = if is_within { supply.take(worker as u32, known, left) } else { 0 };
        if part > 0 {
            seats.push((worker as u32, part));
            left -= part;
        }
    }
}

/// Chooses the devices of each member. Nothing when the books do not hold what the rooms said.
pub(crate) fn seat(fleet: &Fleet, need: &Need, seats: &Seats) -> Option<Vec<Placed>> {
    let mut members = Vec::new();
    for (worker, count) in seats {
        let known = fleet.get(*worker)?;
        let mut free = known.free;
        for _ in 0..*count {
            let devices = choose_devices(free, &known.spec.islands, need.devices)?;
            free &= !devices;
            members.push(Placed { worker: WorkerIndex(*worker), devices });
        }
    }
    Some(members)
}
