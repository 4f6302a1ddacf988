//! Makes a role of the cluster's own, or changes what one gives: to everybody who has it, at once. Idempotent.

use super::At;
use crate::access::NOTE_BYTES_MAX;
use crate::{Outcome, ROLES_MAX, Refusal, RoleRecord, State};
use std::sync::Arc;
use types::{CustomRole, ROLE_NAME_RULE, is_role_name};

pub(super) fn apply(state: &mut State, at: At, role: &CustomRole, note: Option<&str>) -> Result<Outcome, Refusal> {
    let mut faults = Vec::new();
    if !is_role_name(&role.name) {
        faults.push(format!("a role's name is {ROLE_NAME_RULE}"));
    }
    if role.permissions.is_empty() {
        faults.push("a role gives one permission at least".to_owned());
    }
    if note.is_some_and(|note| note.len() > NOTE_BYTES_MAX || note.chars().any(char::is_control)) {
        faults.push(format!("the note of a role has at most {NOTE_BYTES_MAX} bytes and no control characters"));
    }
    let known = state.custom_role(&role.name);
    if known.is_none() && state.access.roles.len() >= ROLES_MAX {
        faults.push(format!("there are {ROLES_MAX} roles of the cluster's own already, which is the most"));
    }
    if !faults.is_empty() {
        return Err(Refusal::Invalid(faults.join("; ")));
    }
    let is_same = known.is_some_and(|known| known.role == *role);
    let created = known.map_or(at.time, |known| known.created);
    let note = note.or(known.map(|known| known.note.as_str())).unwrap_or_default().to_owned();
    let record = RoleRecord { role: role.clone(), note, created };
    state.access.roles.insert(role.name.clone(), Arc::new(record));
    if !is_same {
        state.access.regrant(role);
        state.access.version += 1;
    }
    Ok(Outcome::Done)
}
