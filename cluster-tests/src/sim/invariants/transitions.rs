//! I5: a job's phase changes as it may and a final one never; tokens rise and no attempt but the last is live (`FENCE-1`,
//! `GANG-2`, `JOB-2`).

use cluster_state::{Job, State};
use types::{JobPhase, LogIndex};

/// What the entry at `index` did that it must not.
pub fn faults(before: &State, after: &State, index: u64) -> Vec<String> {
    let changed = after.changed_after(LogIndex(index.saturating_sub(1)));
    changed.filter_map(|(_, job)| fault(before.job(job.id).map(AsRef::as_ref), job)).collect()
}

fn fault(before: Option<&Job>, job: &Job) -> Option<String> {
    let from = before.map(|before| before.phase);
    if !is_legal(from, job.phase) {
        return Some(format!("I5: job {} went from {from:?} to {}", job.id, job.phase));
    }
    if before.is_some_and(|before| before.attempts.len() > job.attempts.len()) {
        return Some(format!("I5: job {} lost an attempt", job.id));
    }
    let mut last = None;
    for (at, attempt) in job.attempts.iter().enumerate() {
        if last.is_some_and(|last| last >= attempt.token) {
            return Some(format!("I5: the tokens of job {} do not rise", job.id));
        }
        last = Some(attempt.token);
        if attempt.phase.is_live() && at + 1 < job.attempts.len() {
            return Some(format!("I5: job {} has a live attempt before its last", job.id));
        }
    }
    None
}

fn is_legal(from: Option<JobPhase>, to: JobPhase) -> bool {
    use JobPhase::{CancelRequested, Canceled, Completed, Failed, Queued, Running, Starting};
    match from {
        None => to == Queued,
        Some(Queued) => matches!(to, Queued | Starting | Running | Canceled),
        Some(Starting) => matches!(to, Starting | Running | Queued | CancelRequested | Failed | Completed),
        Some(Running) => matches!(to, Running | Queued | CancelRequested | Completed | Failed),
        Some(CancelRequested) => matches!(to, CancelRequested | Canceled | Completed),
        Some(last @ (Completed | Failed | Canceled)) => to == last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_phase_is_final_and_a_job_begins_by_waiting() {
        for last in [JobPhase::Completed, JobPhase::Failed, JobPhase::Canceled] {
            for to in JobPhase::ALL {
                assert_eq!(is_legal(Some(last), to), to == last);
            }
        }
        assert!(is_legal(None, JobPhase::Queued));
        assert!(!is_legal(None, JobPhase::Running));
        assert!(!is_legal(Some(JobPhase::Queued), JobPhase::Completed));
    }
}
