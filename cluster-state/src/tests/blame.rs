//! Whom the end of a gang is blamed on.

use super::*;

#[test]
fn the_rank_that_failed_first_is_to_blame_whoever_reported_first() {
    let failed = |rank: u32, exit, at| {
        let mut end = ended(exit);
        let MemberEnd::Exited { ranks, .. } = &mut end else { unreachable!() };
        (ranks[0].rank, ranks[0].ended) = (RankIndex(rank), Timestamp(at));
        end
    };
    // The dead rank's end comes second: earlier by the clock, then in the same millisecond.
    for (survivor_at, dead_at) in [(107, 105), (105, 105)] {
        let mut log = Log::with_workers(2);
        let job = log.submit(&spec(2, 1, 0, 0));
        log.place(job, &[0, 1], 0);
        log.start(job);
        log.end(job, 0, failed(0, RankExit::Code(1), survivor_at));
        log.end(job, 1, failed(1, RankExit::Signal(9), dead_at));
        let cause = log.state.job(job).unwrap().last_cause().unwrap().clone();
        let EndCause::UserCode { rank, worker, signal, .. } = cause else { panic!("{cause}") };
        assert_eq!((rank, worker, signal), (RankIndex(1), worker_id(1), Some(9)));
    }
    // Canceled stays canceled, whatever its ranks did.
    let mut log = Log::with_workers(1);
    let job = log.submit(&spec(1, 1, 0, 0));
    log.place(job, &[0], 0);
    log.start(job);
    log.apply(Command::CancelJob { job });
    log.end(job, 0, failed(0, RankExit::Signal(9), 1));
    assert_eq!(log.phase(job), JobPhase::Canceled);
}

#[test]
fn a_rank_that_fell_with_a_lost_worker_is_not_to_blame() {
    let mut log = Log::with_workers(2);
    let job = log.submit(&spec(2, 1, 0, 0));
    log.place(job, &[0, 1], 0);
    log.start(job);
    // Its peer's connection broke, so this rank gave up before the lease of the silent worker was over.
    log.end(job, 0, ended(RankExit::Code(1)));
    assert_eq!(log.phase(job), JobPhase::Running, "the silent worker's member has not ended");
    log.lose(1);
    assert_eq!(log.phase(job), JobPhase::Queued, "no restart of the job's own is spent");
    let cause = log.state.job(job).unwrap().last_cause().unwrap().clone();
    assert_eq!(cause, EndCause::WorkerLost { worker: worker_id(1) });
}

#[test]
fn ranks_that_missed_one_killed_with_its_workers_lease_are_not_to_blame() {
    let killed = |others: RankExit| {
        let (mut end, other) = (ended(RankExit::LeaseOver), ended(others));
        let (MemberEnd::Exited { ranks, .. }, MemberEnd::Exited { ranks: others, .. }) = (&mut end, other) else {
            unreachable!()
        };
        ranks.extend(others);
        end
    };
    // The worker is back before it is called lost; beside the killed rank one has exited because that was gone, or none has.
    for others in [RankExit::Code(1), RankExit::LeaseOver] {
        for killed_first in [false, true] {
            let mut log = Log::with_workers(2);
            let job = log.submit(&spec(2, 2, 0, 0));
            log.place(job, &[0, 1], 0);
            log.start(job);
            let mut ends = [(0, ended(RankExit::Code(1))), (1, killed(others))];
            if killed_first {
                ends.reverse();
            }
            for (node_rank, end) in ends {
                log.end(job, node_rank, end);
            }
            assert_eq!(log.phase(job), JobPhase::Queued, "no restart of the job's own is spent");
            let cause = log.state.job(job).unwrap().last_cause().unwrap().clone();
            assert_eq!(cause, EndCause::WorkerLost { worker: worker_id(1) });
        }
    }
}

#[test]
fn who_blames_another_is_not_at_fault_and_alone_names_the_other_first() {
    let blaming = |rank: u32, at: u64, blames: Option<u32>| {
        let mut end = ended(RankExit::Code(1));
        let MemberEnd::Exited { ranks, .. } = &mut end else { unreachable!() };
        (ranks[0].rank, ranks[0].ended, ranks[0].blames) = (RankIndex(rank), Timestamp(at), blames.map(RankIndex));
        end
    };
    let cause = |first: MemberEnd, second: MemberEnd| {
        let mut log = Log::with_workers(2);
        let job = log.submit(&spec(2, 1, 0, 0));
        log.place(job, &[0, 1], 0);
        log.start(job);
        log.end(job, 0, first);
        log.end(job, 1, second);
        log.state.job(job).unwrap().last_cause().unwrap().to_string()
    };
    let told = cause(blaming(0, 100, Some(1)), blaming(1, 900, None));
    assert!(told.starts_with("rank 1 on "), "{told}");
    let told = cause(blaming(0, 100, Some(1)), ended(RankExit::Stopped));
    assert!(told.starts_with("rank 1 is at fault, by the word of another: rank 0 on "), "{told}");
}
