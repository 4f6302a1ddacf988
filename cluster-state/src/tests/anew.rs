//! A cluster that begins anew from an older copy of its tables.

use super::*;
use crate::{Anew, ENTRIES_LEFT_OUT};
use types::{Caller, CoordinatorId, Principal, Workspace};

fn anew(log: &Log) -> Anew {
    Anew {
        index: LogIndex(log.index + ENTRIES_LEFT_OUT),
        time: Timestamp(log.now + 1_000),
        jobs_left_out: 500,
        caller: Arc::new(Caller { principal: Principal::Coordinator(CoordinatorId(1)), from: String::new() }),
        action: "cluster/restore",
        object: "a copy".into(),
    }
}

#[test]
fn what_ran_when_it_was_copied_starts_again_and_nothing_of_before_counts() {
    let mut log = Log::with_workers(2);
    let done = log.submit(&spec(1, 1, 0, 0));
    log.place(done, &[0], 0);
    log.start(done);
    log.end(done, 0, ended(RankExit::Code(0)));
    let runs = log.submit(&spec(2, 1, 0, 0));
    log.place(runs, &[0, 1], 0);
    log.start(runs);
    let attempt = log.state.job(runs).unwrap().live_attempt().unwrap().clone();
    let tree = ContentHash([9; 32]);
    let checkpoint = CheckpointRef { step: 3, tree };
    let record = Command::RecordCheckpoint { key: attempt.key(runs, 0), token: attempt.token, checkpoint };
    assert_eq!(log.apply(record.clone()), Outcome::Done);
    // What the cluster went on to do after the copy.
    let copy = log.state.clone();
    let (index, now) = (log.index, log.now);
    log.end(runs, 0, ended(RankExit::Signal(9)));
    log.end(runs, 1, ended(RankExit::Stopped));
    let unknown = log.submit(&spec(1, 1, 0, 0));

    let mut again = Log { state: copy, index, now };
    let begin = anew(&again);
    again.state.begin_anew(&begin);
    (again.index, again.now) = (begin.index.0, begin.time.0);
    assert_eq!(again.state.applied(), begin.index);
    assert_eq!((again.phase(done), again.phase(runs)), (JobPhase::Completed, JobPhase::Queued));
    assert!(again.is_lost(0) && again.is_lost(1), "until they register");
    assert_eq!(again.state.worker(&worker_id(0)).unwrap().held, crate::Held::default());
    assert!(matches!(again.apply(record), Outcome::Refused(Refusal::StaleToken { .. })), "FENCE-2");
    assert_eq!(again.state.trees(), [(Workspace::default(), [tree].into())].into());
    let new = again.submit(&spec(1, 1, 0, 0));
    assert_eq!(new, JobId(runs.0 + 501));
    assert!(new > unknown);
    for n in 0..2 {
        again.apply(Command::RegisterWorker { registration: Box::new(registration(n, 2)) });
    }
    again.now += 60_000;
    assert!(matches!(again.place(runs, &[0, 1], 0), Outcome::PlanTaken(_)));
    let next = again.state.job(runs).unwrap().live_attempt().unwrap().clone();
    assert_eq!((next.number.0, next.resumed_from.as_ref().unwrap().step), (2, 3));
    // Whatever was started after the copy has a lower token than what starts now.
    assert!(next.token.0 > log.index);
    let last = again.state.audit().last().cloned().unwrap();
    assert_eq!((last.action.as_str(), last.result.as_str()), ("cluster/restore", "ok"));
}
