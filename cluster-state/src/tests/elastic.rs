//! Gangs that run with fewer instances than they would like; promises, taints and strikes, which a new leader must know.

use super::*;

fn elastic() -> Arc<JobSpec> {
    let mut spec = spec(3, 1, 0, 0);
    Arc::make_mut(&mut spec).gang.instances_min = Some(2);
    spec
}

#[test]
fn an_elastic_gang_starts_with_what_it_was_given_within_its_bounds() {
    let mut log = Log::with_workers(3);
    let job = log.submit(&elastic());
    for wrong in [&[0][..], &[0, 1, 2, 0]] {
        assert!(matches!(log.place(job, wrong, 0), Outcome::Refused(Refusal::PlanOutOfDate(_))), "{wrong:?}");
    }
    assert!(matches!(log.place(job, &[0, 1], 0), Outcome::PlanTaken(_)));
    log.start(job);
    assert_eq!(log.state.job(job).unwrap().live_attempt().unwrap().endpoints.len(), 2);
}

#[test]
fn a_change_of_size_is_no_mishap_and_loses_what_was_not_saved() {
    let mut log = Log::with_workers(3);
    let job = log.submit(&elastic());
    assert!(matches!(log.place(job, &[0, 1], 0), Outcome::PlanTaken(_)));
    log.start(job);
    let attempt = log.state.job(job).unwrap().live_attempt().unwrap().clone();
    let cause = EndCause::Resized { instances: 3 };
    assert_eq!(log.apply(Command::StopAttempt { job, token: attempt.token, cause: cause.clone() }), Outcome::Done);
    for node_rank in 0..2 {
        let key = attempt.key(job, node_rank);
        log.apply(Command::EndMember { key, token: attempt.token, end: ended(RankExit::Stopped) });
    }
    let found = log.state.job(job).unwrap();
    assert_eq!((found.phase, found.interruptions, found.failures), (JobPhase::Queued, 0, 0));
    assert_eq!(found.last_cause(), Some(&cause));
    assert_eq!(found.attempts[0].lost_device_ms, 2 * 30, "two slots, since it ran");
    assert!(matches!(log.place(job, &[0, 1, 2], 0), Outcome::PlanTaken(_)));
}

#[test]
fn a_promise_is_kept_in_the_tables_until_the_job_starts() {
    let mut log = Log::with_workers(2);
    let job = log.submit(&spec(2, 1, 0, 0));
    let promise = Promise { start_by: Timestamp(500), workers: vec![worker_id(0), worker_id(1)] };
    let note = |promise: Option<&Promise>| Command::NotePromises { promises: vec![(job, promise.cloned())] };
    log.apply(note(Some(&promise)));
    assert_eq!(log.state.job(job).unwrap().promise, Some(promise.clone()));
    let changed = log.state.job(job).unwrap().changed;
    log.apply(note(Some(&promise)));
    assert_eq!(log.state.job(job).unwrap().changed, changed, "the same again is no change");
    log.apply(note(None));
    assert_eq!(log.state.job(job).unwrap().promise, None);
    log.apply(note(Some(&promise)));
    assert!(matches!(log.place(job, &[0, 1], 0), Outcome::PlanTaken(_)));
    log.apply(note(Some(&promise)));
    assert_eq!(log.state.job(job).unwrap().promise, None, "it does not wait any more");
}

#[test]
fn taints_come_and_go_but_not_those_that_the_worker_was_started_with() {
    let mut log = Log::with_workers(1);
    let mut own = registration(0, 1);
    own.taints = ["own".to_owned()].into();
    log.apply(Command::RegisterWorker { registration: Box::new(own) });
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<std::collections::BTreeSet<_>>();
    let mut taint = |add: &[&str], remove: &[&str]| {
        let outcome = log.apply(Command::Taint { worker: worker_id(0), add: set(add), remove: set(remove) });
        (outcome, log.state.worker(&worker_id(0)).unwrap().all_taints())
    };
    assert_eq!(taint(&["a", "b"], &[]), (Outcome::Done, set(&["a", "b", "own"])));
    assert_eq!(taint(&[], &["a", "unknown"]), (Outcome::Done, set(&["b", "own"])));
    let (refused, left) = taint(&[], &["own", "b"]);
    assert!(matches!(refused, Outcome::Refused(Refusal::Invalid(_))));
    assert_eq!(left, set(&["b", "own"]), "nothing is half done");
    let many: Vec<String> = (0..=types::Limits::TAINTS_MAX).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(taint(&many, &[]).0, Outcome::Refused(Refusal::Invalid(_))));
    let unknown = Command::Taint { worker: worker_id(9), add: set(&["a"]), remove: set(&[]) };
    assert_eq!(log.apply(unknown), Outcome::Refused(Refusal::UnknownWorker(worker_id(9))));
}

#[test]
fn a_machine_that_failed_jobs_has_strikes_until_it_registers_anew_or_is_opened() {
    let mut log = Log::with_workers(2);
    let strikes = |log: &Log| {
        let found = log.state.worker(&worker_id(0)).unwrap().strikes.iter();
        found.map(|strike| (strike.at.0, strike.job)).collect::<Vec<_>>()
    };
    let fail = |log: &mut Log, machine_fault: bool| {
        let job = log.submit(&spec(1, 1, 0, 0));
        assert!(matches!(log.place(job, &[0], 0), Outcome::PlanTaken(_)));
        let attempt = log.state.job(job).unwrap().live_attempt().unwrap().clone();
        let end = MemberEnd::NotPrepared { reason: "the disk is full".into(), machine_fault };
        log.apply(Command::EndMember { key: attempt.key(job, 0), token: attempt.token, end });
        job
    };
    fail(&mut log, false);
    assert_eq!(strikes(&log), []);
    let job = fail(&mut log, true);
    assert_eq!(strikes(&log), [(log.now, job)]);
    let mut set = |availability| {
        log.apply(Command::SetAvailability { worker: worker_id(0), availability });
        strikes(&log).len()
    };
    assert_eq!((set(Availability::Open), set(Availability::Cordoned)), (1, 1), "it was open, or is closed");
    assert_eq!(set(Availability::Open), 0);
    fail(&mut log, true);
    log.apply(Command::RegisterWorker { registration: Box::new(registration(0, 1)) });
    assert_eq!(strikes(&log), []);
    for _ in 0..20 {
        fail(&mut log, true);
    }
    assert_eq!(strikes(&log).len(), 16);
}
