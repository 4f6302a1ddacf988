//! Which attempts are over their time, and who is to blame.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::testing::Tables;
use types::{Availability, JobId, JobPhase, MemberEnd, MemberKey, MemberState, MemberStatus, WorkerId};

/// Two workers with a slot each, and a gang of two that prepares.
fn preparing(timeout: Option<Millis>) -> (Tables, JobId) {
    let mut tables = Tables::default();
    tables.worker("a", 1, &[]);
    tables.worker("b", 1, &[]);
    let job = tables.submit(|spec| {
        spec.gang.instances = 2;
        spec.timeout = timeout;
    });
    tables.now = Timestamp(1_000);
    assert_eq!(tables.plan(), [job]);
    (tables, job)
}

fn prepared(reports: &mut Reports, tables: &Tables, job: JobId, node_rank: u32) {
    let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
    let key: MemberKey = attempt.key(job, node_rank);
    let status = MemberStatus { key, token: attempt.token, state: MemberState::Prepared(Vec::new()) };
    reports.take(&attempt.placement.members[node_rank as usize].worker, status);
}

/// The one cause that is proposed, if any.
fn cause(tables: &Tables, reports: &Reports, now: u64) -> Option<EndCause> {
    match over_time(&tables.state, reports, Timestamp(now)).as_slice() {
        [] => None,
        [(Fact::OverTime(_), Command::StopAttempt { cause, .. })] => Some(cause.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_gang_that_does_not_get_ready_is_given_up() {
    let (mut tables, job) = preparing(None);
    let mut reports = Reports::default();
    prepared(&mut reports, &tables, job, 0);
    let end = 1_000 + PREPARE_MAX.0;
    assert_eq!(cause(&tables, &reports, end), None);
    let late = cause(&tables, &reports, end + 1).unwrap();
    let worker = WorkerId::new("b").unwrap();
    let reason = "not prepared within 10 min 0 s".to_owned();
    assert_eq!(late, EndCause::NotPrepared { worker, reason, machine_fault: true }, "the one that is not ready");

    // The gang is stopped once; when its members are gone it is tried again, and no restart of its own is spent.
    let (_, stop) = over_time(&tables.state, &reports, Timestamp(end + 1)).remove(0);
    tables.now = Timestamp(end + 1);
    tables.apply(&stop);
    assert_eq!(cause(&tables, &reports, end + 2), None);
    tables.end(job, &MemberEnd::Exited { ranks: Vec::new(), outputs: Vec::new() });
    let job = tables.state.job(job).unwrap();
    assert_eq!((job.phase, job.failures, job.last_cause()), (JobPhase::Queued, 0, Some(&late)));
}

#[test]
fn what_still_runs_at_a_drains_deadline_is_stopped_then_and_not_before() {
    let (mut tables, job) = preparing(None);
    tables.start(job);
    let (worker, deadline) = (WorkerId::new("b").unwrap(), Timestamp(9_000));
    let availability = Availability::Draining { deadline };
    tables.apply(&Command::SetAvailability { worker: worker.clone(), availability });
    assert_eq!(undrained(&tables.state, Timestamp(8_999)).len(), 0);
    let due = undrained(&tables.state, deadline);
    let [(Fact::OverTime(found), stop @ Command::StopAttempt { cause: EndCause::Drained { worker: at }, .. })] =
        &due[..]
    else {
        panic!("{due:?}")
    };
    assert_eq!((found, at), (&job, &worker));
    tables.now = deadline;
    tables.apply(stop);
    assert_eq!(undrained(&tables.state, Timestamp(9_001)).len(), 0, "it is stopping");
}

#[test]
fn a_gang_that_runs_may_run_for_ever_without_a_limit() {
    let (mut tables, job) = preparing(None);
    tables.start(job);
    assert_eq!(cause(&tables, &Reports::default(), u64::MAX), None);
}

#[test]
fn preparing_and_running_each_have_the_limit_of_the_job() {
    let limit = Millis(5_000);
    let over = EndCause::TimeLimit { limit_ms: limit.0 };
    let (mut tables, job) = preparing(Some(limit));
    let reports = Reports::default();
    assert_eq!(cause(&tables, &reports, 6_000), None);
    assert_eq!(cause(&tables, &reports, 6_001), Some(over.clone()));
    tables.now = Timestamp(6_000);
    tables.start(job);
    assert_eq!(cause(&tables, &reports, 11_000), None);
    assert_eq!(cause(&tables, &reports, 11_001), Some(over));
}
