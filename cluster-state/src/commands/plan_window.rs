//! Maintenance windows of a worker: known ahead, so that nothing is placed that would still run then.

use super::At;
use crate::{Outcome, Refusal, State};
use types::{Limits, Window, WorkerId};

pub(super) fn apply(state: &mut State, at: At, id: &WorkerId, window: Window) -> Result<Outcome, Refusal> {
    let known = state.worker(id).ok_or_else(|| Refusal::UnknownWorker(id.clone()))?;
    let mut windows: Vec<Window> =
        known.windows.iter().filter(|other| other.from != window.from && other.to > at.time).copied().collect();
    if window.to > window.from {
        windows.push(window);
    }
    if windows.len() > Limits::WINDOWS_MAX {
        return Err(Refusal::Invalid(format!("worker {id} has {} windows already", Limits::WINDOWS_MAX)));
    }
    windows.sort_unstable();
    state.update_worker(id, |worker| worker.windows = windows);
    Ok(Outcome::Done)
}
