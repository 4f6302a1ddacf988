//! Whom a plan reaches however long the queue is, and what those who wait are told.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::Tables;
use types::{MemberEnd, Millis};

/// More than any bound that was ever put on the queue's head.
const MANY: usize = 2_001;

fn summary(tables: &Tables, job: JobId) -> String {
    explain(&tables.state, tables.state.job(job).unwrap(), tables.now).summary
}

#[test]
fn jobs_that_cannot_start_hide_nobody_however_many_they_are() {
    let mut tables = Tables::default();
    tables.worker("cpu", 4, &[]);
    let first = tables.submit(|spec| spec.gang.per_rank.gpus = 1);
    for _ in 1..MANY {
        tables.submit(|spec| spec.gang.per_rank.gpus = 1);
    }
    let last = tables.submit(|_| ());
    assert_eq!(summary(&tables, last), "it fits now and starts with the next scheduling cycle");
    assert_eq!(tables.plan(), [last]);
    for job in [first, JobId(last.0 - 1)] {
        assert_eq!(summary(&tables, job), "no open worker has 1 GPUs for one instance (the largest has 0)");
    }
    assert_eq!(tables.plan(), []);
}

#[test]
fn jobs_that_wait_out_a_back_off_hide_nobody_however_many_they_are() {
    let mut tables = Tables::default();
    tables.worker("a", 100, &[]);
    let fault = MemberEnd::NotPrepared { reason: "no disk".into(), machine_fault: true };
    let patient: Vec<JobId> = (0..MANY).map(|_| tables.submit(|spec| spec.restart.backoff = Millis(60_000))).collect();
    loop {
        let placed = tables.plan();
        if placed.is_empty() {
            break;
        }
        for job in placed {
            tables.end(job, &fault);
        }
    }
    let last = tables.submit(|_| ());
    assert_eq!(tables.plan(), [last]);
    assert_eq!(summary(&tables, patient[0]), "waits 1 min 0 s before its next attempt");
    assert_eq!(summary(&tables, patient[MANY - 1]), "waits 1 min 0 s before its next attempt");
    let again = command(&tables.state, tables.now, || Ok(AttemptSecret([0; 32]))).unwrap().next_ready;
    assert_eq!(again, Some(Timestamp(60_000)), "nothing to do before");
    tables.now = Timestamp(60_000);
    assert_eq!(tables.plan(), patient[..99], "the last one holds a slot");
}

#[test]
fn jobs_that_wait_for_gpus_hide_none_that_needs_none() {
    let mut tables = Tables::default();
    tables.worker("cpu", 4, &[]);
    tables.worker("gpu", 4, &[true]);
    let holder = tables.submit(|spec| spec.gang.per_rank.gpus = 1);
    assert_eq!(tables.plan(), [holder]);
    let head = tables.submit(|spec| spec.gang.per_rank.gpus = 1);
    for _ in 1..MANY {
        tables.submit(|spec| spec.gang.per_rank.gpus = 1);
    }
    let last = tables.submit(|_| ());
    assert_eq!(tables.plan(), [last]);
    assert_eq!(summary(&tables, head), "needs 1 instances at once; room for 0 now, others hold the rest");
}

#[test]
fn a_job_is_tried_elsewhere_after_a_machine_failed_to_prepare_it() {
    let mut tables = Tables::default();
    for name in ["a", "b", "c"] {
        tables.worker(name, 4, &[]);
    }
    let job = tables.submit(|_| ());
    let fault = MemberEnd::NotPrepared { reason: "no space left on device".into(), machine_fault: true };
    let mut tried = Vec::new();
    for _ in 0..5 {
        tables.now = tables.now.plus(Millis(300_000));
        assert_eq!(tables.plan(), [job]);
        let attempt = tables.state.job(job).unwrap().live_attempt().unwrap().clone();
        tried.push(attempt.placement.members[0].worker.to_string());
        tables.end(job, &fault);
    }
    assert_eq!(tried, ["a", "b", "c", "a", "b"]);
}

#[test]
fn a_queue_is_looked_at_only_while_somebody_could_be_placed() {
    let mut tables = Tables::default();
    assert!(!has_room(&tables.state), "nobody is there");
    tables.worker("a", 2, &[]);
    assert!(has_room(&tables.state));
    let first = tables.submit(|_| ());
    tables.submit(|_| ());
    assert_eq!(tables.plan().len(), 2);
    assert!(!has_room(&tables.state), "every slot is taken");
    tables.end(first, &MemberEnd::Exited { ranks: vec![], outputs: vec![] });
    assert!(has_room(&tables.state));
    tables.cordon("a");
    assert!(!has_room(&tables.state), "nobody is open");
}
