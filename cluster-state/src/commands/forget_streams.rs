//! Retention: what ranks wrote is forgotten by all coordinators alike; what is known of the job otherwise stays.

use super::At;
use crate::{Outcome, State};
use types::JobId;

/// A job that runs, is kept, or is forgotten already is passed over: it may have become so since this was proposed.
pub(super) fn apply(state: &mut State, at: At, jobs: &[JobId]) -> Outcome {
    for id in jobs {
        if state.job(*id).is_some_and(|job| job.may_be_forgotten().is_some()) {
            state.update_job(at.index, *id, |job| job.forgotten = Some(at.time));
        }
    }
    Outcome::Done
}
