//! What a new core takes over from the one before: promises, and failures that were a worker's fault.

use super::history::{mixed, step};
use super::invariants::{cases, history};
use super::world::*;
use crate::model::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use types::{JobId, Timestamp};

/// A core that is told what the tables would tell a new leader.
fn successor(world: &World) -> World {
    let mut next = World { core: crate::core::Core::new(world.core.policy().clone()), ..world.clone() };
    // Who was told to stop will be told again.
    next.stopping.clear();
    next.shrinking.clear();
    for event in &world.facts {
        next.tell(event.clone());
    }
    for (job, request) in &world.gangs {
        next.tell(Event::Submitted(request.clone()));
        if let Some((since, members)) = world.running.get(job) {
            next.tell(Event::Adopted { job: *job, members: members.clone(), since: Timestamp(*since) });
        }
    }
    let promises = promised(world);
    for (job, (start_by, workers)) in &promises {
        let workers = workers.iter().copied().map(WorkerIndex).collect();
        next.tell(Event::Promised { job: *job, workers, start_by: *start_by });
    }
    assert_eq!(promised(&next), promises);
    next.promises = promises.iter().map(|(job, (start_by, _))| (*job, start_by.0)).collect();
    next
}

fn promised(world: &World) -> BTreeMap<JobId, (Timestamp, Vec<u32>)> {
    world.core.promised_starts().map(|(job, start_by, workers)| (job, (start_by, workers.to_vec()))).collect()
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// CORE-3 from one leader to the next.
    #[test]
    fn a_promise_outlives_the_core_that_gave_it(steps in history(60)) {
        let mut world = mixed("fair-share");
        for fact in steps {
            step(&mut world, fact);
            world.decide();
        }
        let mut next = successor(&world);
        next.log.clear();
        next.decide();
        let now = promised(&next);
        for (job, (start_by, _)) in promised(&world) {
            let is_broken = next.log.iter().any(|decision| {
                matches!(decision, Decision::Reserve { job: whose, is_broken: true, .. } if *whose == job)
            });
            let is_kept = now.get(&job).is_some_and(|(at, _)| *at <= start_by);
            prop_assert!(is_kept || is_broken || next.running.contains_key(&job), "{} of {}", start_by.0, job);
        }
    }
}

#[test]
fn a_promise_that_cannot_be_kept_any_more_is_planned_anew_and_called_broken() {
    let mut world = World::uniform("fair-share", 1, 4, 8);
    for job in 1..=4 {
        world.submit(limited(job, 1, 8, 30 + job));
        world.decide();
    }
    world.submit(GangRequest { preemptible: false, ..limited(5, 2, 8, 60) });
    world.advance(1_000 + 11 * MINUTE);
    let (start_by, workers) = promised(&world)[&JobId(5)].clone();
    assert_eq!(start_by.0, 1_000 + 32 * MINUTE);
    let mut next = successor(&world);
    next.log.clear();
    next.set_state(workers[0], WorkerState::Cordoned);
    next.decide();
    assert_eq!(promised(&next)[&JobId(5)].0.0, 1_000 + 33 * MINUTE);
    assert!(matches!(&next.log[..], [Decision::Reserve { is_broken: true, .. }]), "{:?}", next.log);
}

#[test]
fn a_worker_that_was_set_aside_stays_so_for_the_rest_of_its_time() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    world.now = 90 * MINUTE;
    let blame = |job: u64, minute: u64| Event::Blamed {
        worker: world.workers[&0].id.clone(),
        job: JobId(job),
        at: Timestamp(minute * MINUTE),
    };
    // Two of them are too old to count together with the third.
    let events = [blame(1, 1), blame(2, 2), blame(3, 63), blame(4, 64), blame(4, 65), blame(5, 66)];
    let mut until = Vec::new();
    for event in events {
        world.tell(event);
        until.push(world.core.set_aside(Timestamp(world.now)).map(|(_, until)| until.0 / MINUTE).next());
    }
    assert_eq!(until, [None, None, None, None, None, Some(126)]);
    world.submit(request(9, 1, 8));
    world.decide();
    assert!(world.running.is_empty());
    world.advance(126 * MINUTE);
    assert!(world.running.contains_key(&JobId(9)));
}
