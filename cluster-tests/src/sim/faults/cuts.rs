//! Which directions between coordinators and workers are cut. Clients reach every coordinator: nobody but the leader itself can
//! know that it is alone.

use crate::sim::World;
use crate::sim::chance::Chance;
use std::collections::BTreeSet;

/// From whom to whom nothing passes.
pub(super) type Directions = BTreeSet<(u64, u64)>;

fn parties(world: &World) -> impl Iterator<Item = u64> + use<> {
    world.hosts().into_iter().chain(crate::sim::workers::numbers())
}

/// Two sides; workers stand on either.
pub(super) fn split(world: &World, chance: &mut Chance) -> Directions {
    let sides: Vec<(u64, bool)> = parties(world).map(|id| (id, chance.thousandths(500))).collect();
    let pairs = sides.iter().flat_map(|a| sides.iter().map(move |b| (a, b)));
    pairs.filter(|(a, b)| a.1 != b.1).map(|(a, b)| (a.0, b.0)).collect()
}

/// These coordinators from the others; workers reach all.
pub(super) fn between_sides(world: &World, side: &[u64]) -> Directions {
    let others = |id: &u64| !side.contains(id);
    (1..=world.plan.nodes)
        .filter(others)
        .flat_map(|id| side.iter().flat_map(move |on| [(*on, id), (id, *on)]))
        .collect()
}

/// The leader, if there is one and chance will have it, from the other coordinators.
pub(super) fn alone(world: &World, chance: &mut Chance) -> Directions {
    let leader = world.leaders().first().copied().filter(|_| chance.thousandths(700));
    let id = leader.or_else(|| chance.pick(&world.hosts()));
    id.map_or_else(Directions::new, |id| between_sides(world, &[id]))
}

/// One more direction.
pub(super) fn one_way(world: &World, chance: &mut Chance) -> Directions {
    let all: Vec<u64> = parties(world).collect();
    let mut directions = world.network.cuts();
    if let (Some(from), Some(to)) = (chance.pick(&all), chance.pick(&all))
        && from != to
    {
        directions.insert((from, to));
    }
    directions
}

/// A worker from all coordinators.
pub(super) fn worker_off(world: &World, chance: &mut Chance) -> Directions {
    let workers: Vec<u64> = crate::sim::workers::numbers().collect();
    let Some(worker) = chance.pick(&workers) else { return Directions::new() };
    world.hosts().into_iter().flat_map(|id| [(worker, id), (id, worker)]).collect()
}
