//! Which jobs' streams the leader forgets: those that ended longest ago, past an age, or until the rest fits.

use types::{JobId, Millis, Timestamp};

/// Jobs that one entry forgets.
const AT_ONCE_MAX: usize = 1_000;

/// How long, and how much, of what ranks wrote is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// After the end of a job that says nothing else; none = for ever.
    pub(crate) span: Option<Millis>,
    /// Of all jobs' files, on the leader's disk; none = without a bound.
    pub(crate) bytes_max: Option<u64>,
}

/// A job that holds streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) job: JobId,
    /// Bytes of its files.
    pub(super) bytes: u64,
    /// When it ended, if its streams may be forgotten.
    pub(super) ended: Option<Timestamp>,
    /// How long after that, where the job says so itself.
    pub(super) span: Option<Millis>,
}

impl Retention {
    /// Is anything to be forgotten ever, of jobs that do not say so themselves?
    pub(super) fn is_asked_for(&self) -> bool {
        self.span.is_some() || self.bytes_max.is_some()
    }

    /// Whose streams are to be forgotten now: those past their age, and of the others the longest ended, until the rest fits.
    pub(super) fn due(&self, holders: &[Holder], now: Timestamp) -> Vec<JobId> {
        let mut held: u64 = holders.iter().map(|holder| holder.bytes).sum();
        let mut ended: Vec<(bool, Timestamp, Holder)> = holders
            .iter()
            .filter_map(|holder| {
                let ended = holder.ended?;
                let is_old = holder.span.or(self.span).is_some_and(|span| ended.plus(span) <= now);
                Some((!is_old, ended, *holder))
            })
            .collect();
        ended.sort_unstable_by_key(|(is_young, ended, holder)| (*is_young, *ended, holder.job));
        let mut due = Vec::new();
        for (is_young, _, holder) in ended {
            let is_too_much = self.bytes_max.is_some_and(|max| held > max);
            if due.len() >= AT_ONCE_MAX || (is_young && !is_too_much) {
                break;
            }
            held -= holder.bytes;
            due.push(holder.job);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(job: u64, bytes: u64, ended: Option<u64>) -> Holder {
        Holder { job: JobId(job), bytes, ended: ended.map(Timestamp), span: None }
    }

    fn due(span: Option<u64>, bytes_max: Option<u64>, holders: &[Holder]) -> Vec<u64> {
        let retention = Retention { span: span.map(Millis), bytes_max };
        retention.due(holders, Timestamp(1_000)).into_iter().map(|job| job.0).collect()
    }

    #[test]
    fn the_longest_ended_goes_first_and_what_may_not_go_stays() {
        // 1 runs or is kept; 2 ended last.
        let holders =
            [holder(1, 50, None), holder(2, 10, Some(900)), holder(3, 20, Some(100)), holder(4, 30, Some(500))];
        assert!(due(None, None, &holders).is_empty(), "for ever, unless asked for");
        assert_eq!(due(Some(500), None, &holders), [3, 4], "what ended 500 or more ago");
        assert!(due(Some(901), None, &holders).is_empty());
        assert!(due(None, Some(110), &holders).is_empty(), "it fits to the byte");
        assert_eq!(due(None, Some(109), &holders), [3]);
        assert_eq!(due(None, Some(89), &holders), [3, 4]);
        assert_eq!(due(None, Some(0), &holders), [3, 4, 2], "more cannot go");
        assert_eq!(due(Some(900), Some(70), &holders), [3, 4], "either bound suffices");
    }

    #[test]
    fn a_job_that_says_how_long_is_kept_so_long_whatever_the_others_have() {
        let own = |span, holder| Holder { span: Some(Millis(span)), ..holder };
        let holders = [
            holder(1, 10, Some(100)),
            own(5_000, holder(2, 10, Some(200))),
            own(50, holder(3, 10, Some(900))),
            own(500, holder(4, 10, Some(900))),
        ];
        assert_eq!(due(None, None, &holders), [3], "also where the cluster has no age");
        assert_eq!(due(Some(500), None, &holders), [1, 3]);
        assert_eq!(due(None, Some(20), &holders), [3, 1], "for room the oldest goes, however long it was to be kept");
        assert_eq!(due(None, Some(10), &holders), [3, 1, 2]);
    }

    #[test]
    fn one_entry_forgets_so_many_at_most() {
        let holders: Vec<Holder> = (1..=5_000).map(|job| holder(job, 1, Some(job))).collect();
        let jobs = due(Some(0), None, &holders);
        assert_eq!((jobs.len(), jobs.first().copied(), jobs.last().copied()), (1_000, Some(1), Some(1_000)));
    }
}
