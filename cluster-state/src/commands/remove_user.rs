//! Removes a user with all tokens and secrets, so that none of them is had by anybody who has the name later.

use crate::{Outcome, Refusal, State};

pub(super) fn apply(state: &mut State, name: &str) -> Result<Outcome, Refusal> {
    if state.user(name).is_none() {
        return Err(Refusal::UnknownUser(name.to_owned()));
    }
    if state.is_last_owner(name) {
        return Err(Refusal::LastOwner(name.to_owned()));
    }
    state.forget_secrets_of(name);
    state.access.remove_tokens_of(name);
    state.access.users.remove(name);
    state.access.version += 1;
    Ok(Outcome::Done)
}
