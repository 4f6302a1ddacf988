//! What a leader takes over from the one before it: promises, and which machines failed jobs.

use super::*;
use types::Placement;

fn limited(minutes: u64) -> impl FnOnce(&mut JobSpec) {
    move |spec: &mut JobSpec| spec.timeout = Some(Millis(minutes * 60_000))
}

/// Two workers of one slot, held for 30 and 40 minutes; a gang of two has waited long enough for a promise.
fn promised() -> (Tables, JobId) {
    let mut tables = Tables::default();
    tables.worker("a", 1, &[]);
    tables.worker("b", 1, &[]);
    for minutes in [30, 40] {
        tables.submit(limited(minutes));
    }
    assert_eq!(plan_all(&mut tables).len(), 2);
    let large = tables.submit(|spec| {
        limited(10)(spec);
        (spec.gang.instances, spec.preemptible) = (2, false);
    });
    tables.now = tables.now.plus(Millis(11 * 60_000));
    assert_eq!(tables.plan(), []);
    (tables, large)
}

#[test]
fn a_promise_stands_in_the_tables_and_the_next_leader_keeps_it() {
    let (mut tables, large) = promised();
    let promise = tables.state.job(large).unwrap().promise.clone().unwrap();
    assert_eq!(promise.start_by, Timestamp(40 * 60_000));
    let mut names: Vec<String> = promise.workers.iter().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    tables.forget_schedule();
    // Whoever asks first is told of the promise, before the new leader has planned anything.
    let why = tables.explain(large);
    assert_eq!((why.start_basis.as_str(), why.start_ms), ("promised", promise.start_by.0));
    let holder = JobId(1);
    tables.end(holder, &ended());
    let long = tables.submit(limited(60));
    assert_eq!(tables.plan(), [], "it would run past the promise");
    assert_eq!(tables.explain(long).obstacle, "held_for");
    tables.end(JobId(2), &ended());
    assert_eq!(tables.plan(), [large]);
    assert_eq!(tables.state.job(large).unwrap().promise, None);
}

#[test]
fn a_promise_that_is_given_up_leaves_the_tables() {
    let (mut tables, large) = promised();
    assert!(tables.state.job(large).unwrap().promise.is_some());
    // A ceiling below what it needs.
    let quota = QueueQuota { guaranteed: 0, ceiling: Some(1), lend: None };
    let queue = Queue { quotas: [(String::new(), quota)].into(), ..Queue::named("default") };
    assert_eq!(tables.apply(&Command::SetQueue { queue, how: SetQueue::Update }), Outcome::Done);
    tables.now = tables.now.plus(Millis(60_000));
    assert_eq!(tables.plan(), []);
    assert_eq!(tables.explain(large).obstacle, "over_ceiling");
    assert_eq!(tables.state.job(large).unwrap().promise, None);
}

#[test]
fn a_machine_that_was_set_aside_stays_so_under_the_next_leader() {
    let mut tables = Tables::default();
    tables.worker("a", 1, &[]);
    for _ in 0..3 {
        let job = tables.submit(|_| ());
        assert_eq!(tables.plan(), [job]);
        tables.end(job, &unprepared("the disk is full"));
        assert!(matches!(tables.apply(&Command::CancelJob { job }), Outcome::Canceled(_)));
    }
    let last = tables.submit(|_| ());
    assert_eq!(tables.plan(), []);
    tables.forget_schedule();
    assert_eq!(tables.plan(), []);
    let mut schedule = tables.take_schedule();
    let aside = schedule.set_aside(tables.now);
    assert_eq!(aside, [(WorkerId::new("a").unwrap(), Timestamp(3_600_000))]);
    schedule.follow(&tables.state, tables.now).unwrap();
    tables.put_schedule(schedule);
    tables.worker("a", 1, &[]);
    assert_eq!(tables.plan(), [last], "it registered anew");
}

#[test]
fn taints_keep_gangs_away_that_do_not_tolerate_them() {
    let mut tables = Tables::default();
    tables.worker("a", 4, &[]);
    let taint = |add: &[&str], remove: &[&str]| {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Command::Taint { worker: WorkerId::new("a").unwrap(), add: set(add), remove: set(remove) }
    };
    let before = tables.submit(|_| ());
    assert_eq!(tables.plan(), [before]);
    assert_eq!(tables.apply(&taint(&["vision"], &[])), Outcome::Done);
    let (kept_out, tolerant) = (
        tables.submit(|_| ()),
        tables.submit(|spec| spec.constraints.tolerations = ["vision".to_owned(), "other".to_owned()].into()),
    );
    assert_eq!(tables.plan(), [tolerant]);
    assert!(tables.state.job(before).unwrap().live_attempt().is_some(), "what runs goes on");
    assert_eq!(tables.explain(kept_out).obstacle, "never_fits");
    assert_eq!(tables.apply(&taint(&[], &["vision"])), Outcome::Done);
    assert_eq!(tables.plan(), [kept_out]);
}

#[test]
fn ranks_get_devices_of_one_island_where_they_can() {
    let mut tables = Tables::default();
    let mut registration = crate::testing::registration("a", 8, &[true; 8]);
    for device in &mut registration.inventory.devices {
        device.island = device.index % 2;
    }
    assert_eq!(tables.apply(&Command::RegisterWorker { registration: Box::new(registration) }), Outcome::Done);
    let devices = |placement: &Placement| -> Vec<u32> {
        placement.members.iter().flat_map(|member| &member.ranks).flat_map(|rank| rank.devices.clone()).collect()
    };
    for expected in [vec![0, 2], vec![4, 6], vec![1, 3, 5, 7]] {
        let job = tables.submit(|spec| spec.gang.per_rank.gpus = expected.len() as u32);
        assert_eq!(tables.plan(), [job]);
        let placement = tables.state.job(job).unwrap().live_attempt().unwrap().placement.clone();
        assert_eq!(devices(&placement), expected);
    }
}

#[test]
fn the_last_checkpoint_counts_however_many_there_were_and_whoever_leads() {
    let (mut tables, guests) = borrowed();
    let attempt = tables.state.job(guests[0]).unwrap().live_attempt().unwrap().clone();
    // More than the tables keep.
    for step in 1..=120 {
        tables.now = tables.now.plus(Millis(60_000));
        let checkpoint = types::CheckpointRef { step, tree: types::ContentHash([1; 32]) };
        let saved = Command::RecordCheckpoint { key: attempt.key(guests[0], 0), token: attempt.token, checkpoint };
        assert_eq!(tables.apply(&saved), Outcome::Done);
        assert_eq!(tables.plan(), []);
    }
    let due = tables.now.plus(Millis(60_000));
    tables.now = tables.now.plus(Millis(10_000));
    tables.submit(|spec| {
        spec.queue = "owner".into();
        gpu(spec);
    });
    let mut schedule = tables.take_schedule();
    schedule.follow(&tables.state, tables.now).unwrap();
    for mut schedule in [Schedule::new(&Policy::default(), &tables.state, tables.now), schedule] {
        let cycle = schedule.cycle(tables.now, || Ok(AttemptSecret([0; 32]))).unwrap();
        assert_eq!((cycle.stops[0].job, cycle.stops[0].after_checkpoint), (guests[0], Some(due)));
    }
}
