//! What waiting gangs may count on, each over many random histories.

use super::history::{gang, mixed, step};
use super::invariants::{cases, history};
use super::world::*;
use crate::explain::Obstacle;
use crate::model::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use types::{JobId, Millis, Timestamp};

/// The most members of a shape that fit into what nobody holds, counted worker by worker (no level, no spread).
fn room_by_hand(world: &World, shape: &Shape) -> u32 {
    let mut room = 0;
    for (index, spec) in &world.workers {
        let here = || world.running.values().flat_map(|(_, places)| places).filter(|placed| placed.worker.0 == *index);
        let held: u64 = here().fold(0, |held, placed| held | placed.devices);
        let cpus: u32 = world
            .running
            .iter()
            .map(|(job, (_, places))| {
                let count = places.iter().filter(|placed| placed.worker.0 == *index).count() as u32;
                count * world.gangs[job].shape.cpus
            })
            .sum();
        let is_wanted = shape.classes.is_empty() && (shape.devices == 0 || !spec.class.is_empty())
            || shape.classes.iter().any(|choice| choice.class == spec.class);
        let suits = shape.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
            && spec.taints.iter().all(|taint| shape.tolerations.contains(taint));
        if !is_wanted || !suits || !world.is_open(*index) {
            continue;
        }
        let by_devices = (spec.devices & !held).count_ones().checked_div(shape.devices).unwrap_or(u32::MAX);
        let by_cpus = spec.cpus.saturating_sub(cpus).checked_div(shape.cpus).unwrap_or(u32::MAX);
        room += by_devices.min(by_cpus);
    }
    room
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// Invariant 6: with nothing reserved or closing and no quota in the way, no gang that fits is left waiting.
    #[test]
    fn no_room_is_left_that_a_waiting_gang_could_use(steps in history(80)) {
        let mut world = mixed("fifo-skip");
        for fact in &steps {
            // No windows, no drains: they close workers for some gangs only.
            let (what, n) = *fact;
            let is_partial = what % 16 == 11 || (what % 16 == 10 && n >> 8 & 3 == 1);
            if !is_partial && what % 16 != 9 {
                step(&mut world, *fact);
            }
            world.decide();
            for (job, request) in world.gangs.iter().filter(|(job, _)| !world.running.contains_key(job)) {
                let shape = &request.shape;
                if request.queue != "q" || shape.required.is_some() || shape.spread.is_some() {
                    continue;
                }
                // On one class, as a gang is: look at each alone.
                for class in ["", "a", "b"] {
                    let choice = ClassChoice { class: class.to_owned(), speed_permille: 1_000 };
                    if (class.is_empty() && shape.devices > 0) || !(shape.classes.is_empty() || shape.classes.contains(&choice)) {
                        continue;
                    }
                    let alone = Shape { classes: vec![choice], ..shape.clone() };
                    let room = room_by_hand(&world, &alone);
                    let lent = world.core.explain(Timestamp(world.now), *job).unwrap().obstacle;
                    let is_quota = matches!(lent, Obstacle::QuotaUsed { .. } | Obstacle::OverCeiling { .. });
                    prop_assert!(room < shape.members.min || is_quota, "{} waits, room for {} on {:?}", job, room, class);
                }
            }
        }
    }

    /// Invariant 14: a gang that is said to have no obstacle is started by the next cycle; one that has one is not.
    #[test]
    fn explanations_agree_with_decisions(steps in history(60)) {
        let mut world = mixed("fair-share");
        for fact in &steps {
            step(&mut world, *fact);
            world.decide();
            let waiting = world.gangs.keys().filter(|job| !world.running.contains_key(job));
            for job in waiting {
                let why = world.core.explain(Timestamp(world.now), *job);
                let Some(why) = why else { panic!("{job} waits for no reason") };
                prop_assert!(why.obstacle != Obstacle::None, "{} waits though it fits: {:?}", job, why);
            }
        }
    }

    /// Invariants 7 and 8: with true limits and no faults every promise is kept, none is broken, and every gang starts.
    #[test]
    fn promises_are_kept_and_nobody_starves(gangs in prop::collection::vec((any::<u32>(), 0..40_u64), 1..60)) {
        let mut world = mixed("fair-share");
        world.tell(Event::QueueSet(QueueSpec { name: "u".to_owned(), weight: 1, quotas: Default::default() }));
        // `s` keeps 12 devices back, `t` has a ceiling of 16: a promise is of quota as well as of workers.
        for (n, minutes) in gangs {
            let to = world.now + minutes * MINUTE;
            world.advance(to);
            let mut request = gang(&world, n);
            request.run.limit = request.run.actual;
            request.run.estimate = request.run.actual;
            request.queue = if n >> 9 & 3 == 2 { "t" } else { "u" }.to_owned();
            request.preemptible = false;
            request.shape.members.max = request.shape.members.min;
            world.submit(request);
            world.decide();
        }
        let promised = |world: &World| world.log.iter().filter(|decision| matches!(decision, Decision::Reserve { is_broken: true, .. })).count();
        prop_assert_eq!(promised(&world), 0);
        let backlog: u64 = world.gangs.values().map(|gang| gang.run.actual.map_or(0, |run| run.0)).sum();
        // All one after the other would be done by then.
        world.advance(world.now + backlog + 60 * MINUTE);
        let rejected: BTreeSet<JobId> = world.log.iter().filter_map(|decision| match decision {
            Decision::Reject { job } => Some(*job),
            _ => None,
        }).collect();
        let late: Vec<&JobId> = world.gangs.keys().filter(|job| !rejected.contains(job)).collect();
        prop_assert!(late.is_empty(), "never started: {:?}", late);
        for decision in &world.log {
            if let Decision::Reserve { job, start_by, is_broken, .. } = decision {
                prop_assert!(!is_broken);
                prop_assert!(world.started[job] <= start_by.0, "{} started {} after its promise", job, world.started[job] - start_by.0);
            }
        }
    }

    /// Invariant 9: nobody is displaced by one that it displaces, in a ring of any length, at one instant.
    #[test]
    fn evictions_have_a_direction(steps in history(100)) {
        let mut world = mixed("fair-share");
        for fact in &steps {
            step(&mut world, *fact);
            let before = world.evictions.len();
            // However often those that stopped may start again at this instant, it comes to an end.
            for round in 0.. {
                prop_assert!(round < 50, "evictions go on for ever: {:?}", &world.evictions[before..]);
                if world.decide().is_empty() && world.stopping.is_empty() && world.shrinking.is_empty() {
                    break;
                }
                world.let_go();
            }
        }
    }

    /// Invariant 10: facts of one instant may come in any order.
    #[test]
    fn the_order_of_one_instants_facts_does_not_matter(numbers in prop::collection::vec(any::<u32>(), 2..20), turn in 1..19_usize) {
        let mut world = mixed("fair-share");
        let mut requests: Vec<GangRequest> = Vec::new();
        for n in numbers {
            requests.push(gang(&world, n));
            world.next_job += 1;
        }
        let mut other = world.clone();
        for request in &requests {
            world.submit(request.clone());
        }
        let turn = turn % requests.len();
        requests.rotate_left(turn);
        for request in &requests {
            other.submit(request.clone());
        }
        prop_assert_eq!(world.decide(), other.decide());
    }

    /// Invariant 13: one more idle worker never keeps a single gang from starting.
    #[test]
    fn an_idle_worker_more_does_no_harm(steps in history(40), n in any::<u32>()) {
        let mut world = mixed("fifo-skip");
        for fact in &steps {
            step(&mut world, *fact);
            world.decide();
        }
        let waiting: Vec<JobId> = world.gangs.keys().copied().filter(|job| !world.running.contains_key(job)).collect();
        for job in waiting {
            world.end(job);
        }
        let mut richer = world.clone();
        richer.join(worker("idle", "r0", "a", 8, 16));
        richer.decide();
        let job = JobId(world.next_job);
        for world in [&mut world, &mut richer] {
            let request = gang(world, n);
            world.submit(request);
            world.decide();
        }
        prop_assert!(!world.running.contains_key(&job) || richer.running.contains_key(&job));
    }

    /// Invariant 5: what a queue owns and could use is given back to it, however much others borrowed.
    #[test]
    fn an_owner_gets_its_own_part_back(borrowers in 1..12_u64, own in 1..4_u32) {
        let mut world = World::uniform("fair-share", 2, 4, 8);
        world.tell(queue("own", 1, "gpu", Quota { guaranteed: 24, ..Quota::default() }));
        for job in 1..=borrowers {
            world.submit(request(job, 1, 8));
        }
        world.decide();
        world.now += 10 * MINUTE;
        world.submit(GangRequest { queue: "own".to_owned(), ..request(100, own.min(3), 8) });
        for _ in 0..5 {
            world.decide();
            world.let_go();
            world.now += MINUTE;
        }
        prop_assert!(world.running.contains_key(&JobId(100)));
        prop_assert!(world.evictions.iter().all(|(_, to)| *to == JobId(100)));
    }
}

#[test]
fn a_checkpoint_that_is_due_soon_is_waited_for() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    let checkpoint = Some(Checkpoint { interval: Millis(30 * MINUTE), save: Millis(500), restore: Millis(500) });
    world.submit(GangRequest { checkpoint, ..request(1, 1, 8) });
    world.decide();
    world.now += 28 * MINUTE;
    world.submit(GangRequest { priority: 1, ..request(2, 1, 8) });
    let due = Timestamp(1_000 + 30 * MINUTE);
    let stop = Stop::AfterCheckpoint { due };
    assert_eq!(world.decide(), [Decision::Preempt { job: JobId(1), stop, to: JobId(2), lost_device_ms: 8_000 }]);
}
