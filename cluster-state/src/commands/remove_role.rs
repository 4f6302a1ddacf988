//! Removes a role of the cluster's own that nobody has.

use crate::{Outcome, Refusal, State};

pub(super) fn apply(state: &mut State, name: &str) -> Result<Outcome, Refusal> {
    if state.custom_role(name).is_none() {
        return Err(Refusal::UnknownRole(name.to_owned()));
    }
    if let Some(why) = state.who_has(name) {
        return Err(Refusal::RoleInUse { name: name.to_owned(), why });
    }
    state.access.roles.remove(name);
    state.access.version += 1;
    Ok(Outcome::Done)
}
