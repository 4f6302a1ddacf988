//! What a member's end does to its attempt and what the attempt's end does to its job.

use crate::{Attempt, Job, JobOutput, State};
use types::{
    AttemptPhase, EndCause, JobId, JobPhase, LogIndex, MemberEnd, Millis, RankEnd, RankExit, RankIndex, Timestamp,
    WorkerId,
};

/// Longest wait before a restart.
const BACKOFF_MAX: Millis = Millis(300_000);

/// Gives an attempt its cause, once: the first cause is the one that people read.
pub(crate) fn stop(attempt: &mut Attempt, cause: EndCause) {
    if matches!(attempt.phase, AttemptPhase::Preparing | AttemptPhase::Running) {
        attempt.phase = AttemptPhase::Stopping(cause);
    }
}

/// A member's worker is gone. A rank elsewhere that failed meanwhile fell with it: had the worker been there, its member
/// would have been stopped and would have said so long before its lease was over.
pub(crate) fn lose(attempt: &mut Attempt, worker: &WorkerId) {
    let cause = EndCause::WorkerLost { worker: worker.clone() };
    match &attempt.phase {
        AttemptPhase::Stopping(EndCause::UserCode { .. }) => attempt.phase = AttemptPhase::Stopping(cause),
        _ => stop(attempt, cause),
    }
}

/// What is wrong with a member's end, if anything is.
pub fn cause_of(worker: &WorkerId, end: &MemberEnd) -> Option<EndCause> {
    let ranks = match end {
        MemberEnd::NotPrepared { reason, machine_fault } => {
            return Some(EndCause::NotPrepared {
                worker: worker.clone(),
                reason: reason.clone(),
                machine_fault: *machine_fault,
            });
        }
        MemberEnd::Unknown => return Some(EndCause::WorkerLost { worker: worker.clone() }),
        MemberEnd::Exited { ranks, .. } => ranks,
    };
    if let Some(rank) = first_failed(ranks) {
        return Some(unless_out_of_lease(fault_of(worker, rank), [(worker, end)].into_iter()));
    }
    // Stopped though nobody here asked: the worker's own lease ended, or it was told to by an operator.
    ranks.iter().any(|rank| rank.exit != RankExit::Code(0)).then(|| EndCause::WorkerLost { worker: worker.clone() })
}

fn fault_of(worker: &WorkerId, rank: &RankEnd) -> EndCause {
    if rank.out_of_memory {
        return EndCause::OutOfMemory { rank: rank.rank, worker: worker.clone() };
    }
    let (code, signal) = match rank.exit {
        RankExit::Code(code) => (Some(code), None),
        RankExit::Signal(signal) => (None, Some(signal)),
        RankExit::NotStarted | RankExit::Stopped | RankExit::LeaseOver => (None, None),
    };
    EndCause::UserCode {
        rank: rank.rank,
        worker: worker.clone(),
        code,
        signal,
        stderr_tail: rank.stderr_tail.clone(),
        blames: rank.blames,
        rendezvous: rank.rendezvous.as_ref().map(|fault| fault.what.clone()),
    }
}

/// The rank at fault among a member's: the first to fail, for those after it mostly fell with it.
pub fn first_failed(ranks: &[RankEnd]) -> Option<&RankEnd> {
    ranks.iter().filter(|rank| rank.has_failed()).min_by_key(|rank| order_of_fault(rank))
}

/// Where a worker's lease ended, as in [`lose`]: a rank that failed meanwhile missed those that were killed with the lease. The
/// worker may have come back before anybody called it lost, and the ranks elsewhere are heard of first.
fn unless_out_of_lease<'a>(fault: EndCause, mut ends: impl Iterator<Item = (&'a WorkerId, &'a MemberEnd)>) -> EndCause {
    let is_out = |end: &MemberEnd| match end {
        MemberEnd::Exited { ranks, .. } => ranks.iter().any(|rank| rank.exit == RankExit::LeaseOver),
        _ => false,
    };
    if !matches!(fault, EndCause::UserCode { .. }) {
        return fault;
    }
    let out = ends.find(|(_, end)| is_out(end));
    out.map_or(fault, |(worker, _)| EndCause::WorkerLost { worker: worker.clone() })
}

/// Who could not bind its address is what the others waited for, however late it ended; who blames another ended because of it,
/// however early. Of two that ended in the same millisecond, the one that was killed: who falls with another mostly exits by itself.
fn order_of_fault(rank: &RankEnd) -> (bool, bool, Timestamp, bool, RankIndex) {
    let could_bind = rank.rendezvous.as_ref().is_none_or(|fault| !fault.in_use);
    (could_bind, rank.blames.is_some(), rank.ended, matches!(rank.exit, RankExit::Code(_)), rank.rank)
}

/// The rank at fault among the whole gang's, once all have ended: the worker that reported first need not be the one whose rank
/// failed first. None when no rank failed.
fn first_fault(attempt: &Attempt) -> Option<EndCause> {
    let members = attempt.placement.members.iter().zip(&attempt.ends);
    let ranks = members.filter_map(|(member, end)| match end {
        Some(MemberEnd::Exited { ranks, .. }) => first_failed(ranks).map(|rank| (&member.worker, rank)),
        _ => None,
    });
    ranks.min_by_key(|(_, rank)| order_of_fault(rank)).map(|(worker, rank)| fault_of(worker, rank))
}

/// Ends the attempt if no member is left, and moves its job on. Call after a member's end was recorded.
pub(crate) fn settle(state: &mut State, at: LogIndex, time: Timestamp, id: JobId) {
    let blamed = state.update_job(at, id, |job| {
        let before = cause_before_last(job);
        let attempt = job.attempts.last_mut()?;
        if !attempt.phase.is_live() || attempt.ends.iter().any(Option::is_none) {
            return None;
        }
        let attempt = std::sync::Arc::make_mut(attempt);
        let cause = match std::mem::replace(&mut attempt.phase, AttemptPhase::Preparing) {
            AttemptPhase::Stopping(cause @ (EndCause::UserCode { .. } | EndCause::OutOfMemory { .. })) => {
                let members = attempt.placement.members.iter().map(|member| &member.worker);
                let ends = members.zip(&attempt.ends).filter_map(|(worker, end)| Some((worker, end.as_ref()?)));
                unless_out_of_lease(first_fault(attempt).unwrap_or(cause), ends)
            }
            AttemptPhase::Stopping(cause) | AttemptPhase::Ended(cause) => cause,
            AttemptPhase::Preparing | AttemptPhase::Running => EndCause::Success,
        };
        let cause = told_twice(cause, before.as_ref());
        attempt.phase = AttemptPhase::Ended(cause.clone());
        attempt.ended = Some(time);
        if cause != EndCause::Success {
            let saved = job.checkpoints.last().filter(|saved| saved.attempt == attempt.number).map(|saved| saved.saved);
            let since = saved.max(attempt.running);
            let per_rank = job.spec.gang.per_rank;
            let each = if per_rank.gpus > 0 { per_rank.gpus } else { per_rank.cpus };
            let width = u64::from(attempt.placement.world_size()) * u64::from(each);
            attempt.lost_device_ms = since.map_or(0, |since| time.since(since).0.saturating_mul(width));
        }
        move_on(job, &cause, before.as_ref(), time);
        match cause {
            EndCause::NotPrepared { worker, machine_fault: true, .. } => Some(worker),
            _ => None,
        }
    });
    if let Some(worker) = blamed.flatten() {
        state.update_worker(&worker, |worker| worker.strike(time, id));
    }
}

fn cause_before_last(job: &Job) -> Option<EndCause> {
    match &job.attempts.iter().rev().nth(1)?.phase {
        AttemptPhase::Ended(cause) => Some(cause.clone()),
        _ => None,
    }
}

fn is_rendezvous(cause: Option<&EndCause>) -> bool {
    matches!(cause, Some(EndCause::UserCode { rendezvous: Some(_), .. }))
}

/// A rendezvous that failed in the attempt before too: other ports did not help.
fn told_twice(mut cause: EndCause, before: Option<&EndCause>) -> EndCause {
    if let EndCause::UserCode { rendezvous: Some(what), .. } = &mut cause
        && is_rendezvous(before)
    {
        what.push_str(", twice");
    }
    cause
}

fn move_on(job: &mut Job, cause: &EndCause, before: Option<&EndCause>, time: Timestamp) {
    let cancelled = job.phase == JobPhase::CancelRequested;
    if *cause == EndCause::Success {
        job.outputs = outputs(job);
        return finish(job, JobPhase::Completed, time);
    }
    if cancelled || *cause == EndCause::Canceled {
        return finish(job, JobPhase::Canceled, time);
    }
    if cause.is_infrastructure() {
        // A change of size is no mishap.
        job.interruptions += u32::from(!matches!(cause, EndCause::Resized { .. }));
        job.phase = JobPhase::Queued;
        // A lost or drained worker is out of placement already; a faulty one is not, so that wait grows.
        let wait = match cause {
            EndCause::NotPrepared { .. } => backoff(job.spec.restart.backoff, job.interruptions),
            _ => Millis(0),
        };
        job.ready_at = time.plus(wait);
        return;
    }
    // The next attempt has other ports: one in a row is not held against the job.
    if is_rendezvous(Some(cause)) && !is_rendezvous(before) {
        job.phase = JobPhase::Queued;
        job.ready_at = time;
        return;
    }
    job.failures += 1;
    job.interruptions = 0;
    if job.failures > job.spec.restart.max_restarts || matches!(cause, EndCause::TimeLimit { .. }) {
        return finish(job, JobPhase::Failed, time);
    }
    job.phase = JobPhase::Queued;
    job.ready_at = time.plus(backoff(job.spec.restart.backoff, job.failures));
}

fn finish(job: &mut Job, phase: JobPhase, time: Timestamp) {
    job.phase = phase;
    job.ended = Some(time);
}

fn backoff(first: Millis, times: u32) -> Millis {
    let factor = 1_u64.checked_shl(times.saturating_sub(1).min(20)).unwrap_or(u64::MAX);
    Millis(first.0.saturating_mul(factor).min(BACKOFF_MAX.0))
}

fn outputs(job: &Job) -> Vec<JobOutput> {
    let Some(attempt) = job.attempts.last() else { return Vec::new() };
    let mut all = Vec::new();
    for (node_rank, end) in attempt.ends.iter().enumerate() {
        if let Some(MemberEnd::Exited { outputs, .. }) = end {
            all.extend(outputs.iter().map(|output| JobOutput { node_rank: node_rank as u32, output: output.clone() }));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        assert_eq!(backoff(Millis(1_000), 1), Millis(1_000));
        assert_eq!(backoff(Millis(1_000), 4), Millis(8_000));
        assert_eq!(backoff(Millis(1_000), 60), BACKOFF_MAX);
    }
}
