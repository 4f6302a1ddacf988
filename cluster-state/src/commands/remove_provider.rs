//! Lets the users of an identity provider in no more: they, their tokens and their secrets are forgotten. Their jobs stay.

use crate::{Outcome, Refusal, State};

pub(super) fn apply(state: &mut State, name: &str) -> Result<Outcome, Refusal> {
    if state.access.providers.remove(name).is_none() {
        return Err(Refusal::UnknownProvider(name.to_owned()));
    }
    for user in state.access.users_of(name) {
        state.forget_secrets_of(&user);
        state.access.remove_tokens_of(&user);
        state.access.users.remove(&user);
    }
    state.access.version += 1;
    Ok(Outcome::Done)
}
