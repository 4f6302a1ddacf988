//! Which attempts and jobs ended since the loop last looked, so that each is counted once while this coordinator leads.

use cluster_state::State;
use std::collections::BTreeMap;
use types::{AttemptPhase, JobId, JobPhase, LogIndex};

/// How many ended attempts of unfinished jobs have been counted; jobs without any are left out.
#[derive(Debug, Default)]
pub(super) struct Ends(BTreeMap<JobId, usize>);

/// What ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// An attempt, because of this.
    Attempt(&'static str),
    /// A job, in this phase.
    Job(JobPhase),
}

impl Ends {
    /// What ended before this leadership is its predecessor's to count.
    pub(super) fn begin(state: &State) -> Self {
        let unfinished = state.waiting().chain(state.live());
        let counts =
            unfinished.map(|job| (job.id, job.attempts.iter().filter(|attempt| !attempt.phase.is_live()).count()));
        Self(counts.filter(|(_, count)| *count > 0).collect())
    }

    /// What ended in entries after this one. Costs as much as changed.
    pub(super) fn look(&mut self, state: &State, after: LogIndex) -> Vec<Ended> {
        let mut all = Vec::new();
        for (_, job) in state.changed_after(after) {
            let counted = self.0.remove(&job.id).unwrap_or(0);
            let causes = job.attempts.iter().filter_map(|attempt| match &attempt.phase {
                AttemptPhase::Ended(cause) => Some(cause.kind()),
                AttemptPhase::Preparing | AttemptPhase::Running | AttemptPhase::Stopping(_) => None,
            });
            let before = all.len();
            all.extend(causes.skip(counted).map(Ended::Attempt));
            let count = counted + all.len() - before;
            if job.phase.is_final() {
                all.push(Ended::Job(job.phase));
            } else if count > 0 {
                self.0.insert(job.id, count);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use types::{MemberEnd, RankEnd, RankExit, RankIndex, Timestamp};

    fn exited(code: i32) -> MemberEnd {
        let rank = RankEnd {
            rank: RankIndex(0),
            exit: RankExit::Code(code),
            out_of_memory: false,
            ended: Timestamp(1),
            stderr_tail: String::new(),
            streams: vec![],
            final_metrics: vec![],
            blames: None,
            rendezvous: None,
        };
        MemberEnd::Exited { ranks: vec![rank], outputs: vec![] }
    }

    #[test]
    fn each_end_is_counted_once_and_a_former_leaders_not_at_all() {
        let mut tables = Tables::default();
        tables.worker("a", 1, &[]);
        let job = tables.submit(|_| {});
        tables.plan();
        tables.start(job);
        tables.end(job, &exited(1));
        let mut successor = Ends::begin(&tables.state);
        let mut ends = Ends::default();
        assert_eq!(ends.look(&tables.state, LogIndex(0)), [Ended::Attempt("user_code")]);
        let seen = tables.state.applied();
        tables.now = Timestamp(tables.now.0 + 60_000);
        tables.plan();
        assert!(ends.look(&tables.state, seen).is_empty(), "it was placed again, and nothing ended");
        let placed = tables.state.applied();
        tables.start(job);
        tables.end(job, &exited(0));
        let expected = [Ended::Attempt("success"), Ended::Job(JobPhase::Completed)];
        assert_eq!(ends.look(&tables.state, placed), expected);
        assert!(ends.look(&tables.state, tables.state.applied()).is_empty());
        assert_eq!(successor.look(&tables.state, seen), expected);
        assert!(ends.0.is_empty(), "what has ended is forgotten");
    }
}
