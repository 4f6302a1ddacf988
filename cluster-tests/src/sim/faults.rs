//! What goes wrong: coordinators crash and come back, links are cut both ways or one, calls are lost, disks grow slow.

use super::chance::Chance;
use super::{World, coordinators, locked};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use types::CoordinatorId;

/// Does one harm after the other until the time is over.
pub async fn rage(world: &Arc<World>) {
    let mut chance = world.chance("faults");
    let end = Duration::from_secs(world.plan.seconds);
    while world.now() < end && !world.has_failed() {
        let pause = chance.between(150, 1_800);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match chance.between(0, 16) {
            0 | 1 => cut(world, split(world, &mut chance), "a partition"),
            2 => cut(world, alone(world, &mut chance), "a coordinator alone"),
            3 => cut(world, one_way(world, &mut chance), "one way"),
            4 => cut(world, workers_off(world, &mut chance), "a worker off"),
            5..8 => cut(world, BTreeSet::new(), "healed"),
            8 => weather(world, &mut chance),
            9 => slow(world, &mut chance),
            10 => hand_over(world, &mut chance),
            11 | 12 => restart(world, &mut chance).await,
            _ => crash(world, &mut chance).await,
        }
    }
}

/// Everything is whole again.
pub async fn heal(world: &Arc<World>) -> Result<(), String> {
    cut(world, BTreeSet::new(), "healed for good");
    world.network.weather(0, 2_000);
    for id in 1..=world.plan.nodes {
        coordinators::set_slow(world, id, false);
        if world.running(id).is_none() {
            coordinators::start(world, id).await?;
        }
    }
    Ok(())
}

type Directions = BTreeSet<(u64, u64)>;

fn cut(world: &World, directions: Directions, what: &str) {
    if !directions.is_empty() {
        world.count(|counts| counts.cuts += 1);
    }
    world.note(&format!("{what}: {directions:?}"));
    world.network.cut(directions);
}

fn parties(world: &World) -> impl Iterator<Item = u64> + use<> {
    (1..=world.plan.nodes).chain(super::workers::numbers())
}

/// Two sides; workers stand on either.
fn split(world: &World, chance: &mut Chance) -> Directions {
    let sides: Vec<(u64, bool)> = parties(world).map(|id| (id, chance.thousandths(500))).collect();
    let pairs = sides.iter().flat_map(|a| sides.iter().map(move |b| (a, b)));
    pairs.filter(|(a, b)| a.1 != b.1).map(|(a, b)| (a.0, b.0)).collect()
}

/// The leader, if there is one and chance will have it, from the other coordinators; clients and workers reach it still.
fn alone(world: &World, chance: &mut Chance) -> Directions {
    let leader = world.leaders().first().copied().filter(|_| chance.thousandths(700));
    let id = leader.unwrap_or_else(|| chance.between(1, world.plan.nodes + 1));
    (1..=world.plan.nodes).filter(|other| *other != id).flat_map(|other| [(id, other), (other, id)]).collect()
}

fn one_way(world: &World, chance: &mut Chance) -> Directions {
    let all: Vec<u64> = parties(world).collect();
    let mut directions = world.network.cuts();
    if let (Some(from), Some(to)) = (chance.pick(&all), chance.pick(&all))
        && from != to
    {
        directions.insert((from, to));
    }
    directions
}

fn workers_off(world: &World, chance: &mut Chance) -> Directions {
    let workers: Vec<u64> = super::workers::numbers().collect();
    let Some(worker) = chance.pick(&workers) else { return Directions::new() };
    (1..=world.plan.nodes).flat_map(|id| [(worker, id), (id, worker)]).collect()
}

fn weather(world: &World, chance: &mut Chance) {
    let (loss, delay) = (chance.between(0, 200), if chance.thousandths(300) { 40_000 } else { 2_000 });
    world.note(&format!("{loss} of 1000 calls are lost, delays up to {delay} us"));
    world.network.weather(loss, delay);
}

fn slow(world: &World, chance: &mut Chance) {
    let (id, slow) = (chance.between(1, world.plan.nodes + 1), chance.thousandths(500));
    world.note(&format!("the disk of coordinator {id} is {}", if slow { "slow" } else { "fast" }));
    coordinators::set_slow(world, id, slow);
}

fn hand_over(world: &Arc<World>, chance: &mut Chance) {
    let Some(leader) = world.leaders().first().and_then(|id| world.running(*id)) else { return };
    let to = CoordinatorId(chance.between(1, world.plan.nodes + 1));
    world.note(&format!("leadership is to go to {to}"));
    tokio::spawn(async move { leader.node.transfer_leadership(Some(to)).await });
}

/// As many may be down as leave a majority.
async fn crash(world: &Arc<World>, chance: &mut Chance) {
    let alive = world.alive();
    if alive.len() as u64 * 2 <= world.plan.nodes + 1 {
        return restart(world, chance).await;
    }
    let leader = world.leaders().first().copied().filter(|_| chance.thousandths(500));
    if let Some(id) = leader.or_else(|| chance.pick(&alive)) {
        coordinators::crash(world, id, chance);
    }
}

async fn restart(world: &Arc<World>, chance: &mut Chance) {
    let down: Vec<u64> = (1..=world.plan.nodes).filter(|id| world.running(*id).is_none()).collect();
    let Some(id) = chance.pick(&down) else { return };
    if let Err(what) = coordinators::start(world, id).await {
        world.violated(what);
    }
    let snapshots = u64::from(locked(&world.reference).len() > 100);
    world.count(|counts| counts.snapshots += snapshots);
}
