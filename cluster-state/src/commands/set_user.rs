//! Makes a user or changes one's roles; somebody who can give roles stays (`ACCESS-1`).

use super::At;
use crate::{Outcome, Refusal, SetUser, State, USERS_MAX, User};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{Grant, Role, Timestamp, USER_NAME_BYTES_MAX, is_user_name, provider_of};

pub(super) fn apply(
    state: &mut State,
    at: At,
    name: &str,
    roles: &BTreeSet<Grant>,
    how: SetUser,
    waiting_max: Option<u32>,
) -> Result<Outcome, Refusal> {
    if let Some(provider) = provider_of(name) {
        let known = state.user(name).ok_or_else(|| Refusal::UnknownUser(name.to_owned()))?;
        if how == SetUser::Create || known.roles != *roles {
            let what = format!("the roles of {name:?} come from identity provider {provider:?}");
            return Err(Refusal::Invalid(what));
        }
    } else if !is_user_name(name) {
        let rule = format!("a user's name is 1 to {USER_NAME_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_', '@' and '-'");
        return Err(Refusal::Invalid(format!("{rule}, beginning with a letter or digit")));
    }
    if roles.is_empty() {
        return Err(Refusal::Invalid(format!("user {name:?} needs at least one role")));
    }
    let roles = state.settle(roles)?;
    let before = state.user(name).and_then(|known| known.waiting_max);
    let waiting_max = waiting_max.map_or(before, |wanted| Some(wanted).filter(|wanted| *wanted > 0));
    let created = match (state.user(name), how) {
        (Some(known), _) if known.roles == roles && known.waiting_max == waiting_max => return Ok(Outcome::Done),
        (Some(_), SetUser::Create) => return Err(Refusal::UserExists(name.to_owned())),
        (None, SetUser::Update) => return Err(Refusal::UnknownUser(name.to_owned())),
        (None, SetUser::Create) => place_for_one(state, at)?,
        (Some(_), SetUser::Update) if !roles.contains(&Role::Owner.into()) && state.is_last_owner(name) => {
            return Err(Refusal::LastOwner(name.to_owned()));
        }
        (Some(known), SetUser::Update) => known.created,
    };
    let user = User { name: name.to_owned(), roles, created, waiting_max };
    state.access.users.insert(name.to_owned(), Arc::new(user));
    state.access.version += 1;
    Ok(Outcome::Done)
}

fn place_for_one(state: &State, at: At) -> Result<Timestamp, Refusal> {
    if state.access.users.len() >= USERS_MAX {
        return Err(Refusal::Invalid(format!("there are {USERS_MAX} users already, which is the most")));
    }
    Ok(at.time)
}
