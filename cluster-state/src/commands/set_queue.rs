//! Makes or changes a queue; the tree stays one whose leaves alone have jobs.

use crate::{Outcome, Refusal, SetQueue, State};
use std::sync::Arc;
use types::{Limits, Queue};

pub(super) fn apply(state: &mut State, queue: &Queue, how: SetQueue) -> Result<Outcome, Refusal> {
    if let Some(fault) = queue.faults().into_iter().next() {
        return Err(Refusal::Invalid(fault));
    }
    match (state.queue(&queue.name), how) {
        (Some(known), SetQueue::Create) if **known == *queue => return Ok(Outcome::Done),
        (Some(_), SetQueue::Create) => return Err(Refusal::QueueExists(queue.name.clone())),
        (None, SetQueue::Update) => return Err(state.unknown_queue(&queue.name)),
        (None, SetQueue::Create) => check_place(state, queue)?,
        (Some(_), SetQueue::Update) => {}
    }
    state.queues.insert(queue.name.clone(), Arc::new(queue.clone()));
    Ok(Outcome::Done)
}

fn check_place(state: &State, queue: &Queue) -> Result<(), Refusal> {
    if state.queues.len() >= Limits::QUEUES_MAX {
        return Err(Refusal::Invalid(format!("there are {} queues already, which is the most", Limits::QUEUES_MAX)));
    }
    let Some(parent) = queue.parent() else { return Ok(()) };
    if state.queue(parent).is_none() {
        return Err(state.unknown_queue(parent));
    }
    // Its jobs would wait in a queue that is no leaf any more.
    let why = match state.unfinished_in(parent) {
        0 if parent != types::DEFAULT_QUEUE => return Ok(()),
        0 => "stays without queues below it: jobs that name no queue wait there".to_owned(),
        jobs => format!("has {jobs} jobs that have not ended, so no queue can be made below it"),
    };
    Err(Refusal::QueueInUse { name: parent.to_owned(), why })
}
