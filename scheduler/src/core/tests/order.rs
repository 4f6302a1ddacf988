//! Least work first within a queue, with stops; that they come to an end; and that nobody waits for ever.

use super::invariants::cases;
use super::world::*;
use crate::model::*;
use proptest::prelude::*;
use types::{JobId, Millis, Timestamp};

fn saved(job: u64, members: u32, devices: u32, minutes: u64) -> GangRequest {
    let checkpoint = Some(Checkpoint { interval: Millis(10 * MINUTE), save: Millis(1_000), restore: Millis(10_000) });
    let run = RunTime { limit: None, ..limited(job, members, devices, minutes).run };
    GangRequest { run, checkpoint, ..limited(job, members, devices, minutes) }
}

#[test]
fn a_long_gang_gives_way_to_a_short_one_of_its_queue() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    world.submit(saved(1, 1, 8, 6_000));
    world.decide();
    world.now += 12 * MINUTE;
    world.tell(Event::Checkpointed { job: JobId(1), at: Timestamp(world.now - MINUTE) });
    world.submit(saved(2, 1, 8, 60));
    let decisions = world.decide();
    assert!(matches!(&decisions[..], [Decision::Preempt { job: JobId(1), to: JobId(2), .. }]), "{decisions:?}");
    world.let_go();
    world.decide();
    assert!(world.running.contains_key(&JobId(2)) && !world.running.contains_key(&JobId(1)));
}

#[test]
fn it_does_not_for_one_that_is_hardly_shorter_or_when_too_much_is_lost() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    world.submit(GangRequest { checkpoint: None, ..saved(1, 1, 8, 600) });
    world.decide();
    world.now += 100 * MINUTE;
    world.submit(saved(2, 1, 8, 300));
    assert_eq!(world.decide(), [], "half an hour shorter than twice");
    world.submit(saved(3, 1, 8, 60));
    assert_eq!(world.decide(), [], "100 minutes would be lost for 60");
}

#[test]
fn who_waited_much_longer_than_the_line_is_long_goes_first() {
    let mut world = World::uniform("fair-share", 1, 1, 8);
    let keep = |gang: GangRequest| GangRequest { preemptible: false, ..gang };
    world.submit(keep(saved(1, 1, 8, 30)));
    world.decide();
    world.submit(keep(saved(2, 1, 8, 100)));
    for minute in 1..600 {
        if minute % 2 == 0 {
            world.submit(keep(saved(2 + minute, 1, 8, 1 + minute / 2 % 2)));
        }
        world.advance(1_000 + minute * MINUTE);
        if world.started.contains_key(&JobId(2)) {
            break;
        }
    }
    let start = world.started.get(&JobId(2)).copied().unwrap_or(u64::MAX);
    assert!(start < 300 * MINUTE, "started after {} minutes", start / MINUTE);
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// Invariant 9, over time: stops come to an end, and all gangs to theirs. A pair may be seen twice: when one that had
    /// become old stopped the shorter of them in between.
    #[test]
    fn stops_for_orders_sake_come_to_an_end(gangs in prop::collection::vec((0..4_usize, 0..6_usize, 0..60_u64), 1..30)) {
        let mut world = World::uniform("fair-share", 1, 3, 8);
        for (size, time, gap) in gangs {
            world.advance(world.now + gap * MINUTE);
            let (members, devices) = [(1, 1), (1, 4), (1, 8), (2, 8)][size];
            world.submit(saved(world.next_job, members, devices, [2, 10, 30, 100, 400, 1_500][time]));
            world.decide();
        }
        let backlog: u64 = world.gangs.values().map(|gang| gang.run.actual.map_or(0, |run| run.0)).sum();
        let submitted = world.next_job - 1;
        world.advance(world.now + 4 * backlog + 60 * MINUTE);
        prop_assert!(world.gangs.is_empty(), "{:?} did not end", world.gangs.keys());
        prop_assert!(world.evictions.len() as u64 <= 4 * submitted, "{} stops", world.evictions.len());
    }

    /// Invariant 8: nobody waits longer than a bound that follows from the length of the line and the longest run.
    #[test]
    fn nobody_waits_longer_than_the_line_allows(gangs in prop::collection::vec((0..5_usize, 1..60_u64, 0..20_u64), 1..80)) {
        let mut world = World::uniform("fair-share", 2, 2, 8);
        let mut work = 0;
        let mut submitted = std::collections::BTreeMap::new();
        for (size, minutes, gap) in gangs {
            world.advance(world.now + gap * MINUTE);
            let (members, devices) = [(1, 1), (1, 4), (1, 8), (2, 8), (4, 8)][size];
            let gang = limited(world.next_job, members, devices, minutes);
            work += u64::from(members * devices) * minutes;
            submitted.insert(gang.job, world.now);
            world.submit(GangRequest { preemptible: false, ..gang });
            world.decide();
        }
        world.advance(world.now + 60 * MINUTE * 200);
        // An hour before it goes first, the line twice, and what runs may be in the way for a few turns.
        let bound = (60 + 3 * work / 32 + 8 * 60) * MINUTE;
        for (job, at) in submitted {
            let wait = world.started.get(&job).map_or(u64::MAX, |start| start - at);
            prop_assert!(wait <= bound, "{} waited {} of {} minutes", job, wait / MINUTE, bound / MINUTE);
        }
    }
}
