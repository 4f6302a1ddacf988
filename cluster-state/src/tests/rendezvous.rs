//! A framework's own rendezvous that failed: tried again once, whatever the job's restarts are, then told by name.

use super::*;
use types::RendezvousFault;

const IN_USE: &str = "PyTorch's rendezvous could not bind 127.0.0.1:5000 (address in use)";

fn told(mut end: MemberEnd, rank: u32, at: u64, what: &str, in_use: bool) -> MemberEnd {
    let MemberEnd::Exited { ranks, .. } = &mut end else { panic!("{end:?}") };
    (ranks[0].rank, ranks[0].ended) = (RankIndex(rank), Timestamp(at));
    ranks[0].rendezvous = Some(RendezvousFault { what: what.into(), in_use });
    end
}

/// Starts the job's next attempt and ends it so.
fn attempt(log: &mut Log, job: JobId, end: MemberEnd) {
    log.place(job, &[0], 0);
    log.start(job);
    log.end(job, 0, end);
}

#[test]
fn one_in_a_row_is_free_and_the_second_is_a_failure_with_its_name() {
    let mut log = Log::with_workers(1);
    let job = log.submit(&spec(1, 1, 0, 0));
    let in_use = || told(ended(RankExit::Code(1)), 0, 1, IN_USE, true);
    attempt(&mut log, job, in_use());
    let waiting = log.state.job(job).unwrap();
    assert_eq!((waiting.phase, waiting.failures), (JobPhase::Queued, 0), "no restart of the job's own is spent");
    assert_eq!(waiting.last_cause().unwrap().kind(), "rendezvous");
    assert!(
        waiting.last_cause().unwrap().to_string().starts_with(&format!("{IN_USE}: rank 0 on w0 exited with code 1"))
    );
    attempt(&mut log, job, in_use());
    let failed = log.state.job(job).unwrap();
    assert_eq!((failed.phase, failed.failures, failed.attempts.len()), (JobPhase::Failed, 1, 2));
    let reason = failed.last_cause().unwrap().to_string();
    assert!(reason.starts_with(&format!("{IN_USE}, twice: rank 0 on w0 exited with code 1")), "{reason}");
}

#[test]
fn after_another_end_one_is_free_again_and_the_jobs_own_faults_count_as_ever() {
    let mut log = Log::with_workers(1);
    let job = log.submit(&spec(1, 1, 0, 1));
    let in_use = || told(ended(RankExit::Code(1)), 0, 1, IN_USE, true);
    attempt(&mut log, job, in_use());
    attempt(&mut log, job, ended(RankExit::Code(1)));
    assert_eq!(log.state.job(job).unwrap().failures, 1);
    log.now += 100_000;
    attempt(&mut log, job, in_use());
    assert_eq!((log.phase(job), log.state.job(job).unwrap().failures), (JobPhase::Queued, 1));
    log.now += 100_000;
    attempt(&mut log, job, ended(RankExit::Code(1)));
    assert_eq!((log.phase(job), log.state.job(job).unwrap().failures), (JobPhase::Failed, 2));
}

#[test]
fn who_could_not_bind_is_at_fault_though_others_fell_first_and_it_was_stopped() {
    let cause = |first: MemberEnd, second: MemberEnd| {
        let mut log = Log::with_workers(2);
        let job = log.submit(&spec(2, 1, 0, 0));
        log.place(job, &[0, 1], 0);
        log.start(job);
        log.end(job, 1, first);
        log.end(job, 0, second);
        log.state.job(job).unwrap().last_cause().unwrap().to_string()
    };
    // Rank 1 came to the stranger at that address and noticed at once.
    let reset = || {
        let MemberEnd::Exited { mut ranks, outputs } = ended(RankExit::Code(1)) else { unreachable!() };
        (ranks[0].rank, ranks[0].ended) = (RankIndex(1), Timestamp(5));
        MemberEnd::Exited { ranks, outputs }
    };
    let said = cause(reset(), told(ended(RankExit::Code(1)), 0, 900, IN_USE, true));
    assert!(said.starts_with(&format!("{IN_USE}: rank 0 on w0 exited")), "{said}");
    let said = cause(reset(), told(ended(RankExit::Stopped), 0, 900, IN_USE, true));
    assert!(said.starts_with(&format!("{IN_USE}: rank 0 on w0 was stopped with the others")), "{said}");
    // Who got no answer may have got none because of the other.
    let said = cause(reset(), told(ended(RankExit::Code(1)), 0, 900, "gloo's rendezvous got no answer", false));
    assert!(said.starts_with("rank 1 on w1 exited"), "{said}");
}
