//! What a promise keeps for its gang besides room that is free now: quota, workers that close later, workers that did not
//! fail it; and that a cycle which was cut comes to everybody.

use super::world::*;
use crate::explain::Obstacle;
use crate::model::*;
use types::{JobId, Millis, Timestamp};

const BEGIN: u64 = 1_000;

fn promise(world: &World, job: u64) -> Option<(u64, Vec<WorkerIndex>)> {
    world.log.iter().rev().find_map(|decision| match decision {
        Decision::Reserve { job: whose, workers, start_by, .. } if whose.0 == job => {
            Some((start_by.0, workers.clone()))
        }
        _ => None,
    })
}

fn of(queue: &str, gang: GangRequest) -> GangRequest {
    GangRequest { queue: queue.to_owned(), preemptible: false, ..gang }
}

#[test]
fn a_promise_keeps_its_queues_quota_too() {
    let mut world = World::uniform("fair-share", 1, 4, 8);
    world.tell(queue("q", 1, "gpu", Quota { ceiling: 16, ..Quota::default() }));
    world.tell(queue("o", 1, "gpu", Quota::default()));
    for job in 1..=4 {
        world.submit(of("o", limited(job, 1, 7, if job <= 2 { 20 } else { 60 })));
        world.decide();
    }
    world.submit(of("q", limited(5, 2, 8, 30)));
    world.advance(BEGIN + 12 * MINUTE);
    assert_eq!(promise(&world, 5).map(|(at, _)| at), Some(BEGIN + 20 * MINUTE));
    world.submit(of("q", limited(6, 1, 1, 120)));
    world.submit(of("q", limited(7, 1, 1, 8)));
    world.decide();
    assert!(!world.running.contains_key(&JobId(6)), "it would use the quota that was promised");
    assert!(world.running.contains_key(&JobId(7)), "it will be gone by then");
    let why = world.core.explain(Timestamp(world.now), JobId(6)).unwrap().obstacle;
    assert_eq!(why, Obstacle::HeldFor { job: JobId(5), until: Timestamp(BEGIN + 20 * MINUTE) });
    world.advance(BEGIN + 60 * MINUTE);
    assert_eq!(world.started[&JobId(5)], BEGIN + 20 * MINUTE);
}

#[test]
fn a_gang_that_waits_for_quota_is_promised_a_start_too() {
    let mut world = World::uniform("fair-share", 1, 4, 8);
    world.tell(queue("q", 1, "gpu", Quota { ceiling: 16, ..Quota::default() }));
    world.submit(of("q", limited(1, 1, 8, 60)));
    world.submit(of("q", limited(2, 1, 8, 90)));
    world.decide();
    world.submit(of("q", limited(3, 2, 8, 100)));
    for minute in 1..200 {
        world.submit(of("q", limited(3 + minute, 1, 8, 40)));
        world.advance(BEGIN + minute * MINUTE);
        if world.started.contains_key(&JobId(3)) {
            break;
        }
    }
    assert_eq!(world.started.get(&JobId(3)), Some(&(BEGIN + 90 * MINUTE)));
}

#[test]
fn a_promise_may_be_of_workers_that_close_after_the_gang_is_done() {
    let mut world = World::uniform("fair-share", 1, 2, 8);
    let from = Timestamp(BEGIN + 100 * MINUTE);
    let worker = world.workers[&0].id.clone();
    world.tell(Event::MaintenancePlanned { worker, from, to: from.plus(Millis(60 * MINUTE)) });
    world.submit(of("q", limited(1, 1, 8, 30)));
    world.submit(of("q", limited(2, 1, 8, 35)));
    world.decide();
    world.submit(of("q", limited(3, 2, 8, 60)));
    world.advance(BEGIN + 11 * MINUTE);
    assert_eq!(promise(&world, 3), Some((BEGIN + 35 * MINUTE, vec![WorkerIndex(0), WorkerIndex(1)])));
    // Nobody else gets the worker that is free first, though he would be gone before it closes.
    world.submit(of("q", limited(4, 1, 8, 40)));
    world.advance(BEGIN + 50 * MINUTE);
    assert_eq!(world.started[&JobId(3)], BEGIN + 35 * MINUTE);
    assert!(!world.started.contains_key(&JobId(4)));
}

#[test]
fn a_promise_is_not_of_workers_that_close_before_the_gang_is_done() {
    let mut world = World::uniform("fair-share", 1, 3, 8);
    let from = Timestamp(BEGIN + 80 * MINUTE);
    let worker = world.workers[&0].id.clone();
    world.tell(Event::MaintenancePlanned { worker, from, to: from.plus(Millis(60 * MINUTE)) });
    for (job, minutes) in [(1, 30), (2, 35), (3, 50)] {
        world.submit(of("q", limited(job, 1, 8, minutes)));
        world.decide();
    }
    world.submit(of("q", limited(4, 2, 8, 60)));
    world.advance(BEGIN + 11 * MINUTE);
    assert_eq!(promise(&world, 4), Some((BEGIN + 50 * MINUTE, vec![WorkerIndex(1), WorkerIndex(2)])));
    world.advance(BEGIN + 50 * MINUTE);
    assert_eq!(world.started[&JobId(4)], BEGIN + 50 * MINUTE);
}

#[test]
fn a_promise_is_of_workers_that_did_not_fail_the_gang() {
    let mut world = World::uniform("fair-share", 1, 3, 8);
    for (job, minutes) in [(1, 30), (2, 40), (3, 50)] {
        world.submit(of("q", limited(job, 1, 8, minutes)));
        world.decide();
    }
    let at = |job: u64, world: &World| world.running[&JobId(job)].1[0].worker;
    let (first, second, third) = (at(1, &world), at(2, &world), at(3, &world));
    world.submit(GangRequest { avoid: vec![first], ..of("q", limited(4, 2, 8, 60)) });
    world.advance(BEGIN + 11 * MINUTE);
    let mut workers = vec![second, third];
    workers.sort_unstable();
    assert_eq!(promise(&world, 4), Some((BEGIN + 50 * MINUTE, workers)));
    world.advance(BEGIN + 60 * MINUTE);
    assert_eq!(world.started[&JobId(4)], BEGIN + 50 * MINUTE);
    assert!(world.running[&JobId(4)].1.iter().all(|placed| placed.worker != first));
}

#[test]
fn a_gang_that_failed_everywhere_is_promised_a_start_all_the_same() {
    let mut world = World::uniform("fair-share", 1, 2, 8);
    world.submit(of("q", limited(1, 2, 8, 30)));
    world.decide();
    world.submit(GangRequest { avoid: vec![WorkerIndex(0), WorkerIndex(1)], ..of("q", limited(2, 2, 8, 60)) });
    world.advance(BEGIN + 40 * MINUTE);
    assert_eq!(world.started[&JobId(2)], BEGIN + 30 * MINUTE);
}

/// Cycles that are cut by their budget, and a fact before each: the gang behind all others has its turn all the same.
#[test]
fn a_stream_of_facts_does_not_keep_a_cut_cycle_from_its_end() {
    for policy in ["fair-share", "fifo-skip"] {
        let mut world = World::uniform(policy, 1, 2, 8);
        world.submit(of("q", limited(1, 1, 8, 600)));
        world.submit(of("q", limited(2, 1, 7, 600)));
        world.decide();
        for job in 3..12 {
            let mut large = of("q", limited(job, 2, 8, 1));
            large.shape.cpus = job as u32;
            world.submit(large);
        }
        world.submit(of("q", limited(12, 1, 1, 300)));
        for cycle in 0..20_u64 {
            world.now += 1;
            let mut more = of("q", limited(100 + cycle, 2, 8, 1));
            more.shape.cpus = 3;
            world.submit(more);
            let decisions = world.core.decide(Timestamp(world.now), Budget(2));
            if decisions.iter().any(|decision| matches!(decision, Decision::Start { job: JobId(12), .. })) {
                break;
            }
            assert!(cycle < 12, "{policy}: the last gang was not looked at");
        }
    }
}

/// Small gangs that keep coming and fit do not keep a cut cycle from its end either.
#[test]
fn newcomers_that_fit_do_not_keep_a_cut_cycle_from_its_end() {
    let mut world = World::uniform("fair-share", 1, 16, 8);
    for job in 1..=4 {
        let mut large = of("q", limited(job, 17, 8, 1));
        large.shape.members.min = 17;
        world.submit(large);
    }
    world.submit(of("q", limited(5, 1, 8, 3_000)));
    for cycle in 0..20_u64 {
        world.now += 1;
        for part in 0..2 {
            world.submit(of("q", limited(100 + 2 * cycle + part, 1, 1, 1)));
        }
        let decisions = world.core.decide(Timestamp(world.now), Budget(2));
        if decisions.iter().any(|decision| matches!(decision, Decision::Start { job: JobId(5), .. })) {
            return;
        }
    }
    panic!("the last gang was not looked at");
}
