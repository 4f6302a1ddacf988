//! Deletes a queue that nothing hangs on.

use crate::{Outcome, Refusal, State};
use types::DEFAULT_QUEUE;

pub(super) fn apply(state: &mut State, name: &str) -> Result<Outcome, Refusal> {
    if state.queue(name).is_none() {
        return Err(state.unknown_queue(name));
    }
    let jobs = state.unfinished_in(name);
    let why = if name == DEFAULT_QUEUE {
        Some("stays: jobs that name no queue wait there".to_owned())
    } else if !state.is_leaf(name) {
        Some("has queues below it".to_owned())
    } else {
        (jobs > 0).then(|| format!("has {jobs} jobs that have not ended"))
    };
    if let Some(why) = why {
        return Err(Refusal::QueueInUse { name: name.to_owned(), why });
    }
    state.queues.remove(name);
    Ok(Outcome::Done)
}
