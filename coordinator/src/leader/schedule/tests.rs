//! The scheduler behind real tables, an entry at a time: what it starts, what it stops, and what those who wait are told.
#![allow(clippy::unwrap_used)]

mod elastic;
mod handover;

use super::*;
use crate::testing::Tables;
use cluster_state::{Command, Outcome, SetQueue};
use types::{JobPhase, JobSpec, MemberEnd, Millis, PlaceLevel, Queue, QueueQuota, RankExit, Window};

/// More than any bound that was ever put on the queue's head.
const MANY: usize = 2_001;

fn ended() -> MemberEnd {
    MemberEnd::Exited { ranks: vec![], outputs: vec![] }
}

fn unprepared(reason: &str) -> MemberEnd {
    MemberEnd::NotPrepared { reason: reason.into(), machine_fault: true }
}

fn gpu(spec: &mut JobSpec) {
    spec.gang.per_rank.gpus = 1;
}

fn worker_of(tables: &Tables, job: JobId) -> String {
    let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
    attempt.placement.members[0].worker.to_string()
}

/// Plans until nothing more starts.
fn plan_all(tables: &mut Tables) -> Vec<JobId> {
    let mut all = Vec::new();
    loop {
        let placed = tables.plan();
        if placed.is_empty() {
            return all;
        }
        all.extend(placed);
    }
}

#[test]
fn jobs_that_cannot_start_hide_nobody_however_many_they_are() {
    let mut tables = Tables::default();
    tables.worker("cpu", 4, &[]);
    let first = tables.submit(gpu);
    for _ in 1..MANY {
        tables.submit(gpu);
    }
    let last = tables.submit(|_| ());
    assert_eq!(plan_all(&mut tables), [last]);
    for job in [first, JobId(last.0 - 1)] {
        let why = tables.explain(job);
        assert_eq!(why.obstacle, "never_fits", "{}", why.summary);
        assert_eq!((why.start_ms, why.queue.as_str()), (0, "default"));
    }
}

#[test]
fn jobs_that_wait_out_a_back_off_hide_nobody_however_many_they_are() {
    let mut tables = Tables::default();
    tables.worker("a", 100, &[]);
    let patient: Vec<JobId> = (0..300).map(|_| tables.submit(|spec| spec.restart.backoff = Millis(60_000))).collect();
    loop {
        let placed = tables.plan();
        if placed.is_empty() {
            break;
        }
        for job in placed {
            // A fault of the job's own: a machine at fault would be set aside.
            let end = MemberEnd::NotPrepared { reason: "no such input".into(), machine_fault: false };
            tables.end(job, &end);
        }
    }
    let last = tables.submit(|_| ());
    assert_eq!(plan_all(&mut tables), [last]);
    for job in [patient[0], patient[299]] {
        let why = tables.explain(job);
        assert_eq!(why.obstacle, "not_before");
        assert!(why.summary.starts_with("waits 1 min 0 s before its next attempt"), "{}", why.summary);
    }
    tables.now = Timestamp(60_000);
    assert_eq!(plan_all(&mut tables).len(), 99, "the last one holds a slot");
}

#[test]
fn jobs_that_wait_for_gpus_hide_none_that_needs_none() {
    let mut tables = Tables::default();
    tables.worker("cpu", 4, &[]);
    tables.worker("gpu", 4, &[true]);
    let holder = tables.submit(gpu);
    assert_eq!(plan_all(&mut tables), [holder]);
    let head = tables.submit(gpu);
    for _ in 1..MANY {
        tables.submit(gpu);
    }
    let last = tables.submit(|_| ());
    assert_eq!(plan_all(&mut tables), [last]);
    assert_eq!(worker_of(&tables, last), "cpu", "devices stay for those that need them");
    let why = tables.explain(head);
    assert_eq!((why.obstacle.as_str(), why.position), ("no_capacity", 1), "{}", why.summary);
}

#[test]
fn a_job_is_tried_elsewhere_after_a_machine_failed_to_prepare_it() {
    let mut tables = Tables::default();
    for name in ["a", "b", "c"] {
        tables.worker(name, 4, &[]);
    }
    let job = tables.submit(|_| ());
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..3 {
        tables.now = tables.now.plus(Millis(300_000));
        assert_eq!(tables.plan(), [job]);
        tried.insert(worker_of(&tables, job));
        tables.end(job, &unprepared("no space left on device"));
    }
    assert_eq!(tried.len(), 3, "{tried:?}");
    tables.now = tables.now.plus(Millis(300_000));
    assert_eq!(tables.plan(), [job], "where all have failed, one of them is tried again");
}

#[test]
fn a_machine_that_fails_three_jobs_is_set_aside() {
    let mut tables = Tables::default();
    tables.worker("a", 4, &[]);
    for _ in 0..3 {
        let job = tables.submit(|_| ());
        assert_eq!(tables.plan(), [job]);
        tables.end(job, &unprepared("the disk is broken"));
        let cancelled = tables.apply(&Command::CancelJob { job });
        assert!(matches!(cancelled, Outcome::Canceled(_)));
    }
    let next = tables.submit(|_| ());
    assert_eq!(tables.plan(), []);
    tables.worker("a", 4, &[]);
    assert_eq!(tables.plan(), [next], "it has registered anew");
}

#[test]
fn a_gang_starts_whole_with_its_ranks_and_devices_in_order() {
    let mut tables = Tables::default();
    tables.worker("a", 4, &[true, false, true, true]);
    tables.worker("b", 4, &[true, true]);
    let job = tables.submit(|spec| {
        (spec.gang.instances, spec.gang.ranks_per_instance) = (2, 2);
        gpu(spec);
    });
    assert_eq!(tables.plan(), [job]);
    let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
    let mut seen = Vec::new();
    for member in &attempt.placement.members {
        for rank in &member.ranks {
            seen.push((rank.rank.0, member.worker.to_string(), rank.devices.clone()));
        }
    }
    seen.sort_by_key(|(rank, ..)| *rank);
    let on_a: Vec<_> = seen.iter().filter(|(_, worker, _)| worker == "a").map(|(.., d)| d[0]).collect();
    assert_eq!((seen.len(), on_a.len()), (4, 2));
    assert!(!on_a.contains(&1), "a device that is broken is left out");
    let waits = tables.submit(|spec| {
        spec.gang.instances = 2;
        gpu(spec);
    });
    assert_eq!(tables.plan(), [], "only one device is left");
    assert_eq!(tables.explain(waits).obstacle, "no_capacity");
}

#[test]
fn a_new_leader_finds_what_runs_and_gives_nothing_twice() {
    let mut tables = Tables::default();
    tables.worker("a", 2, &[true]);
    let first = tables.submit(gpu);
    assert_eq!(tables.plan(), [first]);
    tables.forget_schedule();
    let (second, third) = (tables.submit(gpu), tables.submit(|_| ()));
    assert_eq!(tables.plan(), [third], "the device is taken");
    tables.end(first, &ended());
    assert_eq!(tables.state.job(first).unwrap().phase, JobPhase::Completed);
    assert_eq!(tables.plan(), [second]);
}

#[test]
fn a_plan_that_the_tables_refuse_is_taken_back() {
    let mut tables = Tables::default();
    tables.worker("a", 1, &[]);
    tables.worker("b", 1, &[]);
    let job = tables.submit(|_| ());
    let mut schedule = Schedule::new(&Policy::default(), &tables.state, tables.now);
    let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
    assert_eq!(cycle.started().collect::<Vec<_>>(), [job]);
    assert!(
        schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap().plans.is_empty(),
        "it counts as started"
    );
    let chosen = cycle.plans[0][0].placement.members[0].worker.clone();
    tables.cordon(chosen.as_str());
    assert!(matches!(tables.apply(&cycle.commands(&tables.state)[0]), Outcome::Refused(_)));
    schedule.follow(&tables.state, tables.now).unwrap();
    schedule.take_back(&[job], tables.now).unwrap();
    let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
    assert_eq!(cycle.started().collect::<Vec<_>>(), [job]);
    assert_ne!(cycle.plans[0][0].placement.members[0].worker, chosen);
}

#[test]
fn a_priority_that_is_set_counts_at_once() {
    let mut tables = Tables::default();
    tables.worker("a", 1, &[]);
    let (holder, early, late) = (tables.submit(|_| ()), tables.submit(|_| ()), tables.submit(|_| ()));
    assert_eq!(tables.plan(), [holder]);
    assert_eq!(tables.explain(late).position, 2);
    assert_eq!(tables.apply(&Command::SetPriority { job: late, priority: 5 }), Outcome::Done);
    assert_eq!((tables.explain(late).position, tables.explain(early).position), (1, 2));
    tables.end(holder, &ended());
    assert_eq!(tables.plan(), [late]);
}

#[test]
fn a_rack_that_is_required_is_kept_to() {
    let mut tables = Tables::default();
    for (name, rack) in [("a", "r1"), ("b", "r1"), ("c", "r2"), ("d", "r2")] {
        tables.worker_in(name, 1, rack);
    }
    let blocker = tables.submit(|_| ());
    assert_eq!(tables.plan(), [blocker]);
    let free = if worker_of(&tables, blocker).as_str() < "c" { ["c", "d"] } else { ["a", "b"] };
    let in_a_rack = |spec: &mut JobSpec| {
        spec.gang.instances = 2;
        spec.constraints.required = Some(PlaceLevel::Rack);
    };
    let (job, other) = (tables.submit(in_a_rack), tables.submit(in_a_rack));
    assert_eq!(tables.plan(), [job]);
    let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
    let mut workers: Vec<_> = attempt.placement.members.iter().map(|member| member.worker.to_string()).collect();
    workers.sort();
    assert_eq!(workers, free);
    tables.worker_in("e", 1, "r3");
    let why = tables.explain(other);
    assert_eq!(why.obstacle, "fragmented", "{}", why.summary);
}

/// Queue `owner` has 2 of 2 devices for its own; `guest` borrows them.
fn borrowed() -> (Tables, [JobId; 2]) {
    let mut tables = Tables::default();
    tables.worker("a", 4, &[true, true]);
    let quota = |guaranteed| [("gpu".to_owned(), QueueQuota { guaranteed, ..QueueQuota::default() })].into();
    for (name, guaranteed) in [("guest", 0), ("owner", 2)] {
        let queue = Queue { quotas: quota(guaranteed), ..Queue::named(name) };
        assert_eq!(tables.apply(&Command::SetQueue { queue, how: SetQueue::Create }), Outcome::Done);
    }
    let guest = |spec: &mut JobSpec| {
        spec.queue = "guest".into();
        gpu(spec);
    };
    let guests = [tables.submit(guest), tables.submit(guest)];
    assert_eq!(plan_all(&mut tables), guests);
    (tables, guests)
}

#[test]
fn what_was_borrowed_is_given_back_and_the_job_goes_on_later() {
    let (mut tables, guests) = borrowed();
    tables.now = tables.now.plus(Millis(600_000));
    let checkpoint = types::CheckpointRef { step: 7, tree: types::ContentHash([1; 32]) };
    let attempt = tables.state.job(guests[0]).unwrap().live_attempt().unwrap().clone();
    let saved = Command::RecordCheckpoint { key: attempt.key(guests[0], 0), token: attempt.token, checkpoint };
    assert_eq!(tables.apply(&saved), Outcome::Done);
    tables.now = tables.now.plus(Millis(1_000));
    let owner = tables.submit(|spec| {
        spec.queue = "owner".into();
        gpu(spec);
    });
    assert_eq!(tables.plan(), [], "a guest has to go first");
    let stopped = tables.state.job(guests[0]).unwrap();
    let gives_way = types::AttemptPhase::Stopping(types::EndCause::Preempted { by: owner });
    assert_eq!(stopped.live_attempt().unwrap().phase, gives_way, "it had saved most");
    let why = tables.explain(owner);
    assert_eq!(why.obstacle, "victims_leaving", "{}", why.summary);
    tables.now = tables.now.plus(Millis(500));
    tables.end(guests[0], &ended());
    assert_eq!(tables.plan(), [owner]);
    let waiting = tables.state.job(guests[0]).unwrap();
    assert_eq!((waiting.phase, waiting.attempts[0].lost_device_ms), (JobPhase::Queued, 1_500));
    tables.end(owner, &ended());
    assert_eq!(tables.plan(), [guests[0]]);
    let again = tables.state.job(guests[0]).unwrap().live_attempt().unwrap().clone();
    assert_eq!(again.resumed_from.as_ref().map(|checkpoint| checkpoint.step), Some(7));
}

#[test]
fn a_job_that_must_not_be_stopped_is_not() {
    let (mut tables, guests) = borrowed();
    for guest in guests {
        tables.end(guest, &ended());
    }
    let firm = |spec: &mut JobSpec| {
        (spec.queue, spec.preemptible) = ("guest".into(), false);
        gpu(spec);
    };
    let firm = [tables.submit(firm), tables.submit(firm)];
    assert_eq!(plan_all(&mut tables), firm);
    tables.now = tables.now.plus(Millis(3_600_000));
    let owner = tables.submit(|spec| {
        spec.queue = "owner".into();
        gpu(spec);
    });
    assert_eq!(tables.plan(), []);
    assert!(firm.iter().all(|job| tables.state.job(*job).unwrap().phase == JobPhase::Running));
    assert_eq!(tables.explain(owner).obstacle, "no_capacity");
}

#[test]
fn a_ceiling_holds_and_is_named() {
    let (mut tables, guests) = borrowed();
    tables.end(guests[0], &ended());
    let quota = QueueQuota { guaranteed: 0, ceiling: Some(1), lend: None };
    let queue = Queue { quotas: [("gpu".to_owned(), quota)].into(), ..Queue::named("guest") };
    assert_eq!(tables.apply(&Command::SetQueue { queue, how: SetQueue::Update }), Outcome::Done);
    let over = tables.submit(|spec| {
        spec.queue = "guest".into();
        gpu(spec);
    });
    assert_eq!(tables.plan(), []);
    let why = tables.explain(over);
    assert_eq!(why.obstacle, "quota_used");
    assert_eq!(why.summary.split(';').next(), Some("needs 1 gpu devices"), "{}", why.summary);
    let deleted = tables.apply(&Command::DeleteQueue { name: "guest".into() });
    assert!(matches!(deleted, Outcome::Refused(_)), "jobs are in it");
}

#[test]
fn nothing_is_placed_that_would_outlast_a_window() {
    let mut tables = Tables::default();
    tables.worker("a", 2, &[]);
    let window = Window { from: Timestamp(600_000), to: Timestamp(1_200_000) };
    let worker = WorkerId::new("a").unwrap();
    assert_eq!(tables.apply(&Command::PlanWindow { worker: worker.clone(), window }), Outcome::Done);
    let long = tables.submit(|spec| spec.timeout = Some(Millis(3_600_000)));
    let short = tables.submit(|spec| spec.timeout = Some(Millis(300_000)));
    assert_eq!(tables.plan(), [short]);
    let why = tables.explain(long);
    assert_eq!(why.obstacle, "closing", "{}", why.summary);
    let taken_back = Window { to: window.from, ..window };
    assert_eq!(tables.apply(&Command::PlanWindow { worker, window: taken_back }), Outcome::Done);
    assert_eq!(tables.plan(), [long]);
}

#[test]
fn a_job_that_ends_while_its_start_is_on_its_way_is_forgotten() {
    let mut tables = Tables::default();
    tables.worker("a", 1, &[]);
    let job = tables.submit(|_| ());
    let mut schedule = Schedule::new(&Policy::default(), &tables.state, tables.now);
    let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
    assert!(matches!(tables.apply(&Command::CancelJob { job }), Outcome::Canceled(JobPhase::Canceled)));
    assert!(matches!(tables.apply(&cycle.commands(&tables.state)[0]), Outcome::Refused(_)));
    schedule.follow(&tables.state, tables.now).unwrap();
    schedule.take_back(&[job], tables.now).unwrap();
    let next = tables.submit(|_| ());
    schedule.follow(&tables.state, tables.now).unwrap();
    let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
    assert_eq!(cycle.started().collect::<Vec<_>>(), [next]);
}

#[test]
fn a_stopped_rank_of_a_preempted_job_is_no_fault_of_the_job() {
    let (mut tables, guests) = borrowed();
    tables.now = tables.now.plus(Millis(600_000));
    let owner = tables.submit(|spec| {
        spec.queue = "owner".into();
        gpu(spec);
    });
    assert_eq!(tables.plan(), []);
    let live = tables.state.live().map(|job| job.id).collect::<Vec<_>>();
    let stopped = guests.into_iter().find(|job| {
        let phase = tables.state.job(*job).unwrap().live_attempt().unwrap().phase.clone();
        matches!(phase, types::AttemptPhase::Stopping(_))
    });
    let stopped = stopped.unwrap();
    assert!(live.contains(&stopped));
    let rank = types::RankEnd {
        rank: types::RankIndex(0),
        exit: RankExit::Signal(15),
        out_of_memory: false,
        ended: tables.now,
        stderr_tail: String::new(),
        streams: vec![],
        final_metrics: vec![],
        blames: None,
        rendezvous: None,
    };
    tables.end(stopped, &MemberEnd::Exited { ranks: vec![rank], outputs: vec![] });
    let job = tables.state.job(stopped).unwrap();
    assert_eq!((job.phase, job.failures), (JobPhase::Queued, 0));
    assert_eq!(tables.plan(), [owner]);
}
