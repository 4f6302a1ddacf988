//! One small story for each rule.

use super::world::*;
use crate::explain::*;
use crate::model::*;
use crate::policy::{Policy, PreemptRules};
use types::{JobId, Millis, Timestamp};

#[test]
fn a_gang_starts_whole_on_the_narrowest_place() {
    let mut world = World::uniform("fair-share", 2, 4, 8);
    world.submit(request(1, 4, 8));
    world.submit(request(2, 1, 2));
    world.decide();
    let racks = |job: u64, world: &World| -> Vec<String> {
        world.running[&JobId(job)].1.iter().map(|placed| world.workers[&placed.worker.0].place.rack.clone()).collect()
    };
    assert_eq!(racks(1, &world).iter().collect::<std::collections::BTreeSet<_>>().len(), 1);
    // The small one does not break a worker of a rack that is whole when the other has none to lose... there is none.
    assert_eq!(world.running[&JobId(2)].1[0].devices, 0b11);
    world.submit(request(3, 2, 1));
    world.decide();
    // It joins the small one: three whole workers stay.
    assert_eq!(world.running[&JobId(3)].1[0].worker, world.running[&JobId(2)].1[0].worker);
}

#[test]
fn a_gang_that_does_not_fit_takes_nothing() {
    let mut world = World::uniform("fair-share", 1, 2, 8);
    world.submit(request(1, 1, 8));
    world.submit(request(2, 2, 8));
    world.decide();
    assert!(world.running.contains_key(&JobId(1)) && !world.running.contains_key(&JobId(2)));
    let why = world.core.explain(Timestamp(world.now), JobId(2)).unwrap();
    assert_eq!(why.obstacle, Obstacle::NoCapacity { need: 2, fit: 1 });
    world.end(JobId(1));
    world.decide();
    assert_eq!(world.running[&JobId(2)].1.len(), 2);
}

#[test]
fn small_ones_cannot_starve_a_large_one() {
    let mut world = World::uniform("fair-share", 1, 4, 8);
    for job in 1..=4 {
        world.submit(limited(job, 1, 8, 30 + job));
    }
    world.decide();
    world.submit(limited(5, 4, 8, 60));
    for minute in 1..120 {
        world.submit(limited(5 + minute, 1, 8, 40));
        world.advance(1_000 + minute * MINUTE);
        if world.started.contains_key(&JobId(5)) {
            break;
        }
    }
    let start = world.started[&JobId(5)];
    assert!(start <= 1_000 + 90 * MINUTE, "started after {} minutes", start / MINUTE);
}

#[test]
fn a_short_one_uses_the_room_kept_for_a_large_one_and_is_gone_in_time() {
    let mut world = World::uniform("easy", 1, 2, 8);
    world.submit(limited(1, 1, 8, 60));
    world.decide();
    world.submit(limited(2, 2, 8, 60));
    world.submit(limited(3, 1, 8, 61));
    world.submit(limited(4, 1, 8, 60));
    world.decide();
    assert!(world.running.contains_key(&JobId(4)) && !world.running.contains_key(&JobId(3)));
    let why = world.core.explain(Timestamp(world.now), JobId(3)).unwrap();
    assert_eq!(why.obstacle, Obstacle::NoCapacity { need: 1, fit: 0 });
    assert_eq!(world.promises[&JobId(2)], 1_000 + 60 * MINUTE);
    world.advance(1_000 + 60 * MINUTE);
    assert_eq!(world.started[&JobId(2)], 1_000 + 60 * MINUTE);
}

#[test]
fn nothing_starts_that_would_run_into_a_window() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    let worker = world.workers[&0].id.clone();
    let from = Timestamp(world.now + 30 * MINUTE);
    world.tell(Event::MaintenancePlanned { worker, from, to: from.plus(Millis(10 * MINUTE)) });
    world.submit(limited(1, 1, 1, 31));
    world.submit(limited(2, 1, 1, 30));
    world.submit(request(3, 1, 1));
    world.decide();
    assert_eq!(world.running.keys().collect::<Vec<_>>(), [&JobId(2)]);
    let why = world.core.explain(Timestamp(world.now), JobId(1)).unwrap();
    assert_eq!(why.obstacle, Obstacle::Closing { worker: WorkerIndex(0), at: from });
    assert!(why.remedies.contains(&Remedy::Shorter { limit: Millis(30 * MINUTE) }));
    world.advance(from.0 + 11 * MINUTE);
    assert_eq!(world.started[&JobId(1)], from.0 + 10 * MINUTE);
}

#[test]
fn a_worker_that_fails_jobs_again_and_again_is_set_aside_for_a_while() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    let blamed = || EndedBy::Workers(vec![WorkerIdOf::of(0)]);
    for job in 1..=3 {
        world.submit(request(job, 1, 8));
        world.decide();
        world.stop(JobId(job), blamed(), 10 * 60 * MINUTE);
    }
    world.submit(request(4, 1, 8));
    world.decide();
    assert!(world.running.is_empty());
    let until =
        |world: &World| world.core.set_aside(Timestamp(world.now)).map(|(_, until)| until.0).collect::<Vec<_>>();
    assert_eq!(until(&world), [world.now + 60 * MINUTE]);
    world.advance(world.now + 60 * MINUTE);
    assert!(until(&world).is_empty());
    assert!(world.running.contains_key(&JobId(4)));
}

#[test]
fn a_worker_that_was_set_aside_is_taken_back_when_it_is_opened() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    for job in 1..=3 {
        world.submit(request(job, 1, 8));
        world.decide();
        world.stop(JobId(job), EndedBy::Workers(vec![WorkerIdOf::of(0)]), 10 * 60 * MINUTE);
    }
    world.submit(request(4, 1, 8));
    for state in [WorkerState::Cordoned, WorkerState::Open] {
        world.decide();
        assert!(world.running.is_empty());
        world.set_state(0, state);
    }
    world.decide();
    assert!(world.running.contains_key(&JobId(4)));
}

struct WorkerIdOf;

impl WorkerIdOf {
    fn of(at: u32) -> types::WorkerId {
        types::WorkerId::new(format!("w0-{at}")).unwrap()
    }
}

#[test]
fn what_can_never_start_is_told_so_at_once_and_holds_nobody_up() {
    let mut world = World::uniform("fifo", 1, 2, 8);
    world.submit(request(1, 1, 9));
    world.submit(request(2, 3, 8));
    world.submit(request(3, 1, 8));
    let decisions = world.decide();
    assert!(
        decisions.contains(&Decision::Reject { job: JobId(1) })
            && decisions.contains(&Decision::Reject { job: JobId(2) })
    );
    assert!(world.running.contains_key(&JobId(3)));
    let why = |job| world.core.explain(Timestamp(world.now), JobId(job)).unwrap().obstacle;
    assert_eq!(why(1), Obstacle::NeverFits(Lack::Devices { wanted: 9, largest: 8 }));
    let members = Lack::Members { wanted: 3, largest: 2, level: Level::Cluster };
    assert_eq!(why(2), Obstacle::NeverFits(members));
    let mut world = world.clone();
    world.join(worker("w9", "r0", "gpu", 8, 64));
    world.end(JobId(3));
    world.decide();
    assert!(world.running.contains_key(&JobId(2)));
}

#[test]
fn borrowed_devices_are_given_back_to_the_queue_that_owns_them() {
    let mut world = World::uniform("fair-share", 1, 4, 8);
    world.tell(queue("own", 1, "gpu", Quota { guaranteed: 16, ..Quota::default() }));
    for job in 1..=4 {
        world.submit(request(job, 1, 8));
    }
    world.decide();
    assert_eq!(world.running.len(), 4);
    world.now += 20 * MINUTE;
    world.submit(GangRequest { queue: "own".to_owned(), ..request(5, 2, 8) });
    let decisions = world.decide();
    let preempted =
        decisions.iter().filter(|decision| matches!(decision, Decision::Preempt { to: JobId(5), .. })).count();
    assert_eq!(preempted, 2, "{decisions:?}");
    let why = world.core.explain(Timestamp(world.now), JobId(5)).unwrap();
    assert!(matches!(why.obstacle, Obstacle::VictimsLeaving { jobs } if jobs.len() == 2));
    // A newcomer does not get the room that was made.
    world.submit(request(6, 1, 8));
    world.let_go();
    world.decide();
    assert_eq!(world.running[&JobId(5)].1.len(), 2);
    assert_eq!(world.running.len(), 3);
}

#[test]
fn a_gang_of_several_workers_takes_its_part_back_from_many_small_ones_on_the_cheapest_workers() {
    let mut world = World::uniform("fair-share", 1, 40, 8);
    world.tell(queue("own", 1, "gpu", Quota { guaranteed: 16, ..Quota::default() }));
    let checkpoint = Some(Checkpoint { interval: Millis(60 * MINUTE), save: Millis(0), restore: Millis(0) });
    for job in 1..=320 {
        world.submit(GangRequest { checkpoint, ..request(job, 1, 1) });
    }
    world.decide();
    world.now += 20 * MINUTE;
    // On each worker one has not saved what it did, but on the last two: those that lose least are on all workers.
    for (job, (_, places)) in world.running.clone() {
        if places[0].devices != 1 || places[0].worker.0 >= 38 {
            world.tell(Event::Checkpointed { job, at: Timestamp(world.now) });
        }
    }
    world.submit(GangRequest { queue: "own".to_owned(), ..request(400, 2, 8) });
    let decisions = world.decide();
    assert_eq!(decisions.len(), 16, "{decisions:?}");
    for decision in &decisions {
        assert!(matches!(decision, Decision::Preempt { to: JobId(400), lost_device_ms: 0, .. }), "{decision:?}");
    }
    world.let_go();
    world.decide();
    let workers: Vec<u32> = world.running[&JobId(400)].1.iter().map(|placed| placed.worker.0).collect();
    assert_eq!(workers, [38, 39]);
}

#[test]
fn what_has_to_be_within_a_rack_is_made_room_for_in_the_cheapest_rack() {
    let mut world = World::uniform("fair-share", 3, 4, 8);
    world.tell(queue("own", 1, "gpu", Quota { guaranteed: 16, ..Quota::default() }));
    for job in 1..=12 {
        let interval = Millis(60 * MINUTE);
        let checkpoint = Some(Checkpoint { interval, save: Millis(0), restore: Millis(0) });
        world.submit(GangRequest { checkpoint, ..request(job, 1, 8) });
    }
    world.decide();
    world.now += 20 * MINUTE;
    // The two that lose least are in different racks; the cheapest pair of one rack is in the second.
    for (job, (_, places)) in world.running.clone() {
        let minutes = [0, 9, 9, 9, 2, 2, 9, 9, 0, 9, 9, 9][places[0].worker.0 as usize];
        world.tell(Event::Checkpointed { job, at: Timestamp(world.now - minutes * MINUTE) });
    }
    let mut near = GangRequest { queue: "own".to_owned(), ..request(400, 2, 8) };
    near.shape.required = Some(Level::Rack);
    world.submit(near);
    world.decide();
    world.let_go();
    world.decide();
    let workers: Vec<u32> = world.running[&JobId(400)].1.iter().map(|placed| placed.worker.0).collect();
    assert_eq!(workers, [4, 5]);
}

/// What counts is all that is lost, not what each device loses: the rest of a large gang would lie idle.
#[test]
fn a_large_gang_is_not_stopped_for_one_worker_where_a_small_one_loses_less() {
    let mut world = World::uniform("fair-share", 1, 5, 8);
    world.tell(queue("own", 1, "gpu", Quota { guaranteed: 8, ..Quota::default() }));
    let checkpoint = Some(Checkpoint { interval: Millis(60 * MINUTE), save: Millis(0), restore: Millis(0) });
    world.submit(GangRequest { checkpoint, ..request(1, 4, 8) });
    world.submit(GangRequest { checkpoint, ..request(2, 1, 8) });
    world.decide();
    world.now += 20 * MINUTE;
    world.tell(Event::Checkpointed { job: JobId(1), at: Timestamp(world.now - 3 * MINUTE) });
    world.tell(Event::Checkpointed { job: JobId(2), at: Timestamp(world.now - 10 * MINUTE) });
    world.submit(GangRequest { queue: "own".to_owned(), ..request(3, 1, 8) });
    let lost = 8 * 10 * MINUTE;
    let expected = [Decision::Preempt { job: JobId(2), stop: Stop::Now, to: JobId(3), lost_device_ms: lost }];
    assert_eq!(world.decide(), expected);
}

/// `--preempt-after 0s`: who has just started is not stopped at once, but as soon as there is another cycle for it.
#[test]
fn nobody_is_started_and_stopped_in_one_cycle() {
    let mut policy = Policy::default();
    policy.preempt = policy.preempt.map(|rules| PreemptRules { run_min: Millis(0), ..rules });
    let mut world = World::new(policy);
    for at in 0..2 {
        world.join(worker(&format!("w{at}"), "r", "gpu", 8, 64));
    }
    world.tell(queue("q", 1, "gpu", Quota::default()));
    world.tell(queue("own", 1, "gpu", Quota { guaranteed: 16, ..Quota::default() }));
    world.submit(request(1, 1, 8));
    world.submit(request(2, 1, 8));
    world.decide();
    world.now += 20 * MINUTE;
    world.end(JobId(2));
    world.submit(GangRequest { queue: "own".to_owned(), ..limited(3, 2, 8, 30) });
    world.submit(request(4, 1, 8));
    let decisions = world.decide();
    let started = decisions.iter().any(|decision| matches!(decision, Decision::Start { job: JobId(4), .. }));
    let stopped = decisions.iter().any(|decision| matches!(decision, Decision::Preempt { job: JobId(4), .. }));
    assert!(started && !stopped, "{decisions:?}");
    // Nothing else happens, and yet the owner gets his part.
    world.advance(world.now + MINUTE);
    assert!(world.running.contains_key(&JobId(3)), "{:?}", world.log);
}

/// A gang does not get room made for it on a worker that failed it, where another one will do.
#[test]
fn room_is_made_on_workers_that_did_not_fail_the_gang() {
    let mut world = World::uniform("fair-share", 1, 3, 8);
    world.tell(queue("own", 1, "gpu", Quota { guaranteed: 16, ..Quota::default() }));
    for job in 1..=3 {
        world.submit(request(job, 1, 8));
    }
    world.decide();
    world.now += 20 * MINUTE;
    let own = |job, members| GangRequest { queue: "own".to_owned(), ..request(job, members, 8) };
    world.submit(GangRequest { avoid: vec![WorkerIndex(0)], ..own(4, 1) });
    world.decide();
    world.let_go();
    world.decide();
    assert_eq!(world.running[&JobId(4)].1[0].worker, WorkerIndex(1));
    world.end(JobId(4));
    world.decide();
    world.now += 20 * MINUTE;
    world.submit(GangRequest { avoid: vec![WorkerIndex(0), WorkerIndex(1)], ..own(5, 2) });
    world.decide();
    world.let_go();
    world.decide();
    assert!(world.running.contains_key(&JobId(5)));
}

#[test]
fn an_elastic_gang_shrinks_before_anybody_is_stopped_and_grows_again() {
    let mut world = World::uniform("fair-share", 1, 4, 8);
    world.tell(queue("own", 1, "gpu", Quota { guaranteed: 16, ..Quota::default() }));
    let mut elastic = request(1, 1, 8);
    elastic.shape.members = Range { min: 1, max: 4 };
    elastic.checkpoint = Some(Checkpoint { interval: Millis(0), save: Millis(0), restore: Millis(0) });
    world.submit(elastic);
    world.decide();
    assert_eq!(world.running[&JobId(1)].1.len(), 4);
    world.now += 20 * MINUTE;
    world.tell(Event::Checkpointed { job: JobId(1), at: Timestamp(world.now) });
    world.submit(GangRequest { queue: "own".to_owned(), ..limited(2, 2, 8, 30) });
    let decisions = world.decide();
    assert!(matches!(&decisions[..], [Decision::Resize { job: JobId(1), .. }]), "{decisions:?}");
    world.let_go();
    world.decide();
    assert!(world.running.contains_key(&JobId(2)));
    world.advance(world.now + 60 * MINUTE);
    assert_eq!(world.running[&JobId(1)].1.len(), 1, "what it did since would be lost");
    world.tell(Event::Checkpointed { job: JobId(1), at: Timestamp(world.now) });
    world.decide();
    assert_eq!(world.running[&JobId(1)].1.len(), 4);
}

#[test]
fn who_does_not_say_how_often_he_saves_is_known_by_what_he_does() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    let unknown = Some(Checkpoint { interval: Millis(0), save: Millis(0), restore: Millis(0) });
    world.submit(GangRequest { checkpoint: unknown, ..request(1, 1, 8) });
    world.decide();
    for minutes in [7, 11, 15] {
        world.now = 1_000 + minutes * MINUTE;
        world.tell(Event::Checkpointed { job: JobId(1), at: Timestamp(world.now) });
    }
    world.now += MINUTE;
    world.submit(GangRequest { priority: 1, ..request(2, 1, 8) });
    let due = Timestamp(1_000 + 19 * MINUTE);
    let stop = Stop::AfterCheckpoint { due };
    let expected = [Decision::Preempt { job: JobId(1), stop, to: JobId(2), lost_device_ms: 0 }];
    assert_eq!(world.decide(), expected);
}

#[test]
fn the_victim_with_least_to_lose_gives_way() {
    let mut world = World::uniform("fair-share", 1, 2, 8);
    let checkpoint = Some(Checkpoint { interval: Millis(60 * MINUTE), save: Millis(1), restore: Millis(1) });
    world.submit(GangRequest { checkpoint, ..request(1, 1, 8) });
    world.submit(GangRequest { checkpoint, ..request(2, 1, 8) });
    world.decide();
    world.now += 40 * MINUTE;
    world.tell(Event::Checkpointed { job: JobId(2), at: Timestamp(world.now - MINUTE) });
    world.submit(GangRequest { priority: 1, ..request(3, 1, 8) });
    let decisions = world.decide();
    let lost = 8 * (MINUTE + 2);
    assert_eq!(decisions, [Decision::Preempt { job: JobId(2), stop: Stop::Now, to: JobId(3), lost_device_ms: lost }]);
}

#[test]
fn a_rack_is_a_rack() {
    let mut world = World::uniform("fair-share", 3, 2, 8);
    for job in 1..=3 {
        let mut one = request(job, 1, 8);
        one.shape.spread = Some(Spread { level: Level::Rack, members_max: 1 });
        world.submit(one);
    }
    let mut spread = request(10, 3, 8);
    spread.shape.spread = Some(Spread { level: Level::Rack, members_max: 1 });
    world.submit(spread);
    let mut near = request(11, 2, 8);
    near.shape.required = Some(Level::Rack);
    world.decide();
    world.submit(near);
    world.decide();
    let why = world.core.explain(Timestamp(world.now), JobId(11));
    assert!(world.running.contains_key(&JobId(11)) || why.is_some());
}
