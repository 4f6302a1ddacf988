//! Random histories: numbers become facts, so that a failing one shrinks.

use super::world::*;
use crate::model::*;
use crate::policy::Policy;
use std::collections::BTreeMap;
use types::{JobId, Millis, Timestamp};

/// A number for each choice.
pub(super) type Step = (u8, u32);

/// A world of two racks, two classes and CPU-only workers, with three queues.
pub(super) fn mixed(policy: &str) -> World {
    let mut world = World::new(Policy::named(policy).unwrap());
    for at in 0..6 {
        let mut spec = worker(&format!("a{at}"), &format!("r{}", at / 3), "a", 8, 16);
        if at == 2 {
            spec.labels.insert("disk".to_owned(), "fast".to_owned());
        }
        world.join(spec);
    }
    for at in 0..2 {
        world.join(worker(&format!("b{at}"), "r2", "b", 4, 8));
    }
    let mut spec = worker("c0", "r2", "", 0, 16);
    spec.taints.insert("login".to_owned());
    world.join(spec);
    world.join(worker("c1", "", "", 0, 12));
    world.tell(queue("q", 1, "a", Quota { guaranteed: 16, ..Quota::default() }));
    world.tell(queue("s", 2, "a", Quota { guaranteed: 24, ceiling: 40, lend: 12 }));
    world.tell(queue("t", 1, "a", Quota { ceiling: 16, ..Quota::default() }));
    world
}

pub(super) fn gang(world: &World, n: u32) -> GangRequest {
    let bits = |from: u32, count: u32| n >> from & ((1 << count) - 1);
    let devices = [0, 1, 1, 2, 4, 8, 8, 1][bits(0, 3) as usize];
    let members = [1, 1, 2, 3, 1, 4, 6, 2][bits(3, 3) as usize];
    let minutes = [1, 5, 20, 60, 240, 15, 2, 30][bits(6, 3) as usize];
    let mut request = limited(world.next_job, members, devices, minutes);
    request.queue = ["q", "s", "t", "q"][bits(9, 2) as usize].to_owned();
    request.shape.cpus = [0, 1, 2, 6][bits(11, 2) as usize].max(u32::from(devices == 0));
    request.priority = [0, 0, 0, 5][bits(13, 2) as usize];
    request.shape.required = [None, None, Some(Level::Rack), Some(Level::Worker)][bits(15, 2) as usize];
    if bits(17, 3) == 0 {
        request.shape.classes = vec![ClassChoice { class: "a".to_owned(), speed_permille: 1_000 }];
    }
    if bits(20, 3) == 0 {
        request.shape.members.max += 2;
    }
    if bits(23, 3) == 0 {
        request.run = RunTime { actual: request.run.actual, ..RunTime::default() };
    }
    if bits(26, 3) == 0 {
        request.shape.spread = Some(Spread { level: Level::Worker, members_max: 1 });
    }
    if bits(29, 3) == 0 {
        request.shape.labels = BTreeMap::from([("disk".to_owned(), "fast".to_owned())]);
    }
    if bits(12, 3) == 0 {
        let (interval, save, restore) = (Millis(10 * MINUTE), Millis(1_000), Millis(1_000));
        request.checkpoint = Some(Checkpoint { interval, save, restore });
    }
    request
}

fn nth<T: Copy>(items: impl Iterator<Item = T>, n: u32) -> Option<T> {
    let items: Vec<T> = items.collect();
    items.get(n as usize % items.len().max(1)).copied()
}

/// One fact or a few, by a number.
pub(super) fn step(world: &mut World, (what, n): Step) {
    let running = |world: &World| nth(world.running.keys().copied(), n);
    match what % 16 {
        0..=5 => {
            let request = gang(world, n);
            world.submit(request);
        }
        6 | 7 => {
            if let Some(job) = running(world) {
                world.end(job);
            }
        }
        8 => world.let_go(),
        9 => {
            if let Some(job) = running(world) {
                let blamed = world.running[&job].1.first().map(|placed| world.workers[&placed.worker.0].id.clone());
                world.stop(job, EndedBy::Workers(blamed.into_iter().collect()), u64::from(n % 3) * MINUTE);
            }
        }
        10 => close_or_open(world, n),
        11 => {
            let worker = world.workers[&(n % world.workers.len() as u32)].id.clone();
            let from = Timestamp(world.now + u64::from(n >> 8 & 0xff) * MINUTE);
            world.tell(Event::MaintenancePlanned { worker, from, to: from.plus(Millis(5 * MINUTE)) });
        }
        12 => {
            if let Some(job) = running(world) {
                world.tell(Event::Checkpointed { job, at: Timestamp(world.now) });
            }
        }
        13 => {
            let waiting = world.gangs.keys().copied().filter(|job| !world.running.contains_key(job));
            if let Some(job) = nth(waiting.collect::<Vec<JobId>>().into_iter(), n) {
                world.end(job);
            }
        }
        _ => world.now += u64::from(n % 8) * 4 * MINUTE,
    }
}

fn close_or_open(world: &mut World, n: u32) {
    let index = n % world.workers.len() as u32;
    let state = match n >> 8 & 3 {
        0 => WorkerState::Cordoned,
        1 => WorkerState::Draining { deadline: Timestamp(world.now + u64::from(n >> 10 & 0x3f) * MINUTE) },
        2 => WorkerState::Lost,
        _ => WorkerState::Open,
    };
    world.set_state(index, state);
    if state == WorkerState::Lost {
        let here = |places: &[Placed]| places.iter().any(|placed| placed.worker.0 == index);
        let jobs: Vec<JobId> =
            world.running.iter().filter(|(_, (_, places))| here(places)).map(|(job, _)| *job).collect();
        for job in jobs {
            world.stop(job, EndedBy::Failure, 0);
        }
    }
}
