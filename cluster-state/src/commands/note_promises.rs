//! What waiting jobs were promised: a new leader keeps the promises of the one before.

use super::At;
use crate::{Outcome, Promise, State};
use types::{JobId, JobPhase};

/// A job that no longer waits needs no promise: it was kept, or is out of date.
pub(super) fn apply(state: &mut State, at: At, promises: &[(JobId, Option<Promise>)]) -> Outcome {
    for (id, promise) in promises {
        let is_news = state.job(*id).is_some_and(|job| job.phase == JobPhase::Queued && job.promise != *promise);
        if is_news {
            state.update_job(at.index, *id, |job| job.promise.clone_from(promise));
        }
    }
    Outcome::Done
}
