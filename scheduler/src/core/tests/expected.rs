//! The start that is expected beside the one that is promised.

use super::history::{mixed, step};
use super::invariants::{cases, history};
use super::world::*;
use crate::core::Core;
use crate::model::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use types::{JobId, Millis, Timestamp};

/// Says that it may run for so long, and that it will run for less.
fn padded(job: u64, members: u32, minutes: u64, limit: u64) -> GangRequest {
    let (run, limit) = (Some(Millis(minutes * MINUTE)), Some(Millis(limit * MINUTE)));
    GangRequest { run: RunTime { estimate: run, limit, actual: run }, ..request(job, members, 8) }
}

fn expected(world: &World, job: JobId) -> Option<u64> {
    world.core.expect(Timestamp(world.now), job).map(|at| at.0)
}

#[test]
fn running_gangs_are_expected_to_end_by_their_estimates_and_promised_to_end_by_their_limits() {
    let mut world = World::uniform("fair-share", 1, 2, 8);
    world.submit(padded(1, 1, 60, 180));
    world.submit(padded(2, 1, 90, 180));
    world.decide();
    let began = world.now;
    let wide = world.submit(padded(3, 2, 30, 60));
    world.advance(began + 11 * MINUTE);
    assert_eq!(world.promises[&wide], began + 180 * MINUTE);
    assert_eq!(expected(&world, wide), Some(began + 90 * MINUTE));
    world.advance(began + 100 * MINUTE);
    assert_eq!(world.started[&wide], began + 90 * MINUTE);
}

#[test]
fn those_who_go_first_are_expected_to_start_first() {
    let mut world = World::uniform("fifo", 1, 2, 8);
    let jobs: Vec<JobId> = (1..=3).map(|job| world.submit(padded(job, 2, 10 * job, 100))).collect();
    let began = world.now;
    world.decide();
    assert_eq!(expected(&world, jobs[0]), None, "it runs");
    assert_eq!(expected(&world, jobs[1]), Some(began + 10 * MINUTE));
    assert_eq!(expected(&world, jobs[2]), Some(began + 30 * MINUTE));
    assert_eq!(expected(&world, JobId(99)), None);
}

#[test]
fn a_gang_that_others_are_stopped_for_is_expected_when_they_may_be_stopped() {
    let mut world = World::uniform("fair-share", 1, 2, 8);
    for name in ["a", "b"] {
        world.tell(queue(name, 1, "gpu", Quota { guaranteed: 8, ..Quota::default() }));
    }
    let mut borrower = padded(1, 2, 600, 600);
    borrower.queue = "a".to_owned();
    borrower.checkpoint = Some(Checkpoint { interval: Millis(MINUTE), save: Millis(0), restore: Millis(0) });
    world.submit(borrower);
    world.decide();
    let began = world.now;
    let mut owner = padded(2, 1, 30, 30);
    owner.queue = "b".to_owned();
    let owner = world.submit(owner);
    world.decide();
    let at = expected(&world, owner).unwrap();
    assert!(at >= began + 5 * MINUTE && at <= began + 7 * MINUTE, "{}", at - began);
}

proptest! {
    #![proptest_config(cases(300))]

    /// What is expected is not later than what is promised, and to ask changes no decision.
    #[test]
    fn a_start_is_expected_by_its_promise_and_asking_changes_nothing(steps in history(60)) {
        let mut world = mixed("fair-share");
        for fact in &steps {
            step(&mut world, *fact);
            world.decide();
            let untouched = world.core.clone();
            let promised: BTreeMap<JobId, Timestamp> =
                world.core.promised_starts().map(|(job, at, _)| (job, at)).collect();
            for (job, at) in promised {
                let expected = world.core.expect(Timestamp(world.now), job);
                prop_assert!(at.0 <= world.now || expected.is_some_and(|expected| expected <= at), "{} {:?}", job, expected);
            }
            let later = Timestamp(world.now + MINUTE);
            let decisions = |core: &Core| core.clone().decide(later, Budget::UNLIMITED);
            prop_assert_eq!(decisions(&world.core), decisions(&untouched));
        }
    }
}
