//! What ranks wrote is forgotten by an entry of the log: oldest jobs, never one that runs or that somebody keeps.

use super::*;

fn forget(log: &mut Log, jobs: &[JobId]) {
    assert_eq!(log.apply(Command::ForgetStreams { jobs: jobs.to_vec() }), Outcome::Done);
}

fn forgotten(log: &Log, job: JobId) -> Option<Timestamp> {
    log.state.job(job).unwrap().forgotten
}

#[test]
fn only_what_has_ended_and_nobody_keeps_is_forgotten_and_once() {
    let mut log = Log::with_workers(1);
    let [waits, runs, stops, kept, over] = [0; 5].map(|_| log.submit(&spec(1, 1, 0, 0)));
    for job in [runs, stops] {
        assert!(matches!(log.place(job, &[0], 0), Outcome::PlanTaken(_)));
        log.start(job);
    }
    log.apply(Command::CancelJob { job: stops });
    for job in [kept, over] {
        log.apply(Command::CancelJob { job });
    }
    assert_eq!(log.apply(Command::KeepJob { job: kept, keep: true }), Outcome::Done);
    let all = [waits, runs, stops, kept, over, JobId(99)];
    forget(&mut log, &all);
    let now = Timestamp(log.now);
    assert_eq!(
        all[..5].iter().map(|job| forgotten(&log, *job)).collect::<Vec<_>>(),
        [None, None, None, None, Some(now)]
    );
    assert_eq!(log.state.job(over).unwrap().changed, LogIndex(log.index), "whoever holds its streams is told");
    // One that is on its way out keeps what it writes until nothing of it runs.
    log.end(stops, 0, ended(RankExit::Signal(15)));
    assert_eq!(log.apply(Command::KeepJob { job: kept, keep: false }), Outcome::Done);
    forget(&mut log, &all);
    assert_eq!(forgotten(&log, over), Some(now), "when, the first time");
    assert!(forgotten(&log, stops).is_some() && forgotten(&log, kept).is_some());
    assert_eq!((forgotten(&log, waits), forgotten(&log, runs)), (None, None));
}

#[test]
fn what_is_forgotten_cannot_be_kept_any_more_and_keeping_is_idempotent() {
    let mut log = Log::with_workers(1);
    let job = log.submit(&spec(1, 1, 0, 0));
    assert_eq!(log.apply(Command::KeepJob { job, keep: true }), Outcome::Done);
    let changed = log.state.job(job).unwrap().changed;
    assert_eq!(log.apply(Command::KeepJob { job, keep: true }), Outcome::Done);
    assert_eq!(log.state.job(job).unwrap().changed, changed, "the same again changes nothing");
    log.apply(Command::CancelJob { job });
    log.apply(Command::KeepJob { job, keep: false });
    forget(&mut log, &[job]);
    let late = log.apply(Command::KeepJob { job, keep: true });
    assert_eq!(late, Outcome::Refused(Refusal::StreamsForgotten(job)));
    assert_eq!(log.apply(Command::KeepJob { job, keep: false }), Outcome::Done);
    let unknown = log.apply(Command::KeepJob { job: JobId(99), keep: true });
    assert_eq!(unknown, Outcome::Refused(Refusal::UnknownJob(JobId(99))));
}
