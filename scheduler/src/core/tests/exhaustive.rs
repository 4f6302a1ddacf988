//! Small clusters against every placement that there is, and obstacles that are taken away.

use super::history::{mixed, step};
use super::invariants::{cases, history};
use super::world::*;
use crate::explain::Obstacle;
use crate::model::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use types::{JobId, Timestamp};

/// Is there any way to place so many members, worker by worker?
fn fits_somehow(world: &World, shape: &Shape) -> bool {
    let workers: Vec<(&str, u32)> = world
        .workers
        .iter()
        .map(|(index, spec)| {
            let places = world.running.values().flat_map(|(_, places)| places);
            let held = places.filter(|placed| placed.worker.0 == *index).fold(0, |held, placed| held | placed.devices);
            (spec.place.rack.as_str(), (spec.devices & !held).count_ones() / shape.devices)
        })
        .collect();
    try_from(&workers, shape, shape.members.min, &mut BTreeMap::new(), None)
}

fn try_from<'a>(
    workers: &[(&'a str, u32)],
    shape: &Shape,
    left: u32,
    in_rack: &mut BTreeMap<&'a str, u32>,
    rack: Option<&'a str>,
) -> bool {
    if left == 0 {
        return true;
    }
    let Some(((here, room), rest)) = workers.split_first() else { return false };
    let is_far = shape.required == Some(Level::Rack) && rack.is_some_and(|rack| rack != *here);
    for count in (0..=left.min(*room)).rev() {
        let in_place = in_rack.get(here).copied().unwrap_or(0) + count;
        let is_crowded = shape.spread.is_some_and(|spread| match spread.level {
            Level::Worker => count > spread.members_max,
            _ => in_place > spread.members_max,
        });
        let is_split = shape.required == Some(Level::Worker) && count > 0 && count < left;
        if count > 0 && (is_far || is_crowded || is_split) {
            continue;
        }
        let next = if count > 0 { Some(*here) } else { rack };
        *in_rack.entry(here).or_default() += count;
        let fits = try_from(rest, shape, left - count, in_rack, next);
        *in_rack.entry(here).or_default() -= count;
        if fits {
            return true;
        }
    }
    false
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// What fits in any way is placed, and nothing else.
    #[test]
    fn a_gang_starts_if_and_only_if_some_placement_exists(
        workers in prop::collection::vec((0..3_u32, 1..=4_u32), 1..=6),
        held in prop::collection::vec(1..=3_u32, 0..8),
        members in 1..=8_u32, devices in 1..=4_u32, level in 0..4_usize, spread in 0..5_u32,
    ) {
        let mut world = World::new(crate::policy::Policy::named("fifo-skip").unwrap());
        world.tell(queue("q", 1, "gpu", Quota::default()));
        for (at, (rack, devices)) in workers.iter().enumerate() {
            world.join(worker(&format!("w{at}"), &format!("r{rack}"), "gpu", *devices, 64));
        }
        for devices in held {
            world.submit(request(world.next_job, 1, devices));
            world.decide();
        }
        let mut wanted = request(100, members, devices);
        wanted.shape.required = [None, Some(Level::Rack), Some(Level::Worker), None][level];
        wanted.shape.spread = match spread {
            1 => Some(Spread { level: Level::Worker, members_max: 1 }),
            2 => Some(Spread { level: Level::Rack, members_max: 1 }),
            3 => Some(Spread { level: Level::Rack, members_max: 2 }),
            _ => None,
        };
        if wanted.shape.spread.is_some() {
            wanted.shape.required = None;
        }
        let fits = fits_somehow(&world, &wanted.shape);
        world.submit(wanted);
        world.decide();
        prop_assert_eq!(world.running.contains_key(&JobId(100)), fits);
    }

    /// Invariant 14: take the named obstacle away, and the gang starts or another obstacle is named.
    #[test]
    fn without_its_obstacle_a_gang_starts_or_names_the_next(steps in history(60)) {
        let mut world = mixed("fair-share");
        for fact in &steps {
            step(&mut world, *fact);
            world.decide();
        }
        let waiting: Vec<JobId> = world.gangs.keys().copied().filter(|job| !world.running.contains_key(job)).collect();
        for job in waiting {
            let obstacle = world.core.explain(Timestamp(world.now), job).unwrap().obstacle;
            let mut other = world.clone();
            if !take_away(&mut other, job, &obstacle) {
                continue;
            }
            other.decide();
            if !other.running.contains_key(&job) {
                let next = other.core.explain(Timestamp(other.now), job).unwrap().obstacle;
                prop_assert!(!is_same(&next, &obstacle), "{} waits still, with {:?} gone: {:?}", job, obstacle, next);
            }
        }
    }
}

/// False when the test knows no way.
fn take_away(world: &mut World, job: JobId, obstacle: &Obstacle) -> bool {
    match obstacle {
        Obstacle::NotBefore { until, .. } => world.now = until.0,
        Obstacle::HeldFor { job: holder, .. } | Obstacle::Behind { job: holder } => world.end(*holder),
        Obstacle::NoCapacity { .. } | Obstacle::Fragmented { .. } => {
            for index in 0..world.workers.len() as u32 {
                world.set_state(index, WorkerState::Open);
            }
            for other in world.gangs.keys().copied().collect::<Vec<_>>() {
                if other != job {
                    world.end(other);
                }
            }
            // Windows end.
            world.now += 600 * MINUTE;
        }
        Obstacle::QuotaUsed { .. } => {
            for name in ["q", "s", "t"] {
                world.tell(queue(name, 1, "a", Quota::default()));
            }
        }
        Obstacle::VictimsLeaving { .. } => world.let_go(),
        _ => return false,
    }
    true
}

fn is_same(left: &Obstacle, right: &Obstacle) -> bool {
    match (left, right) {
        (Obstacle::HeldFor { job: left, .. }, Obstacle::HeldFor { job: right, .. })
        | (Obstacle::Behind { job: left }, Obstacle::Behind { job: right }) => left == right,
        (Obstacle::VictimsLeaving { jobs: left }, Obstacle::VictimsLeaving { jobs: right }) => left == right,
        _ => std::mem::discriminant(left) == std::mem::discriminant(right),
    }
}
