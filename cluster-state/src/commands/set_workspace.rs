//! Makes a workspace, or notes something else of it. Idempotent.

use super::At;
use crate::access::NOTE_BYTES_MAX;
use crate::{Outcome, Refusal, State, WORKSPACES_MAX, WorkspaceRecord};
use std::sync::Arc;
use types::Workspace;

pub(super) fn apply(state: &mut State, at: At, name: &Workspace, note: &str) -> Result<Outcome, Refusal> {
    if note.len() > NOTE_BYTES_MAX || note.chars().any(char::is_control) {
        let what = format!("the note of a workspace has at most {NOTE_BYTES_MAX} bytes and no control characters");
        return Err(Refusal::Invalid(what));
    }
    let known = state.access.workspaces.get(name);
    if known.is_none() && state.access.workspaces.len() >= WORKSPACES_MAX {
        return Err(Refusal::Invalid(format!("there are {WORKSPACES_MAX} workspaces already, which is the most")));
    }
    let created = known.map_or(at.time, |known| known.created);
    let record = WorkspaceRecord { name: name.clone(), note: note.to_owned(), created };
    state.access.workspaces.insert(name.clone(), Arc::new(record));
    Ok(Outcome::Done)
}
