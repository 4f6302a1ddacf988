//! Gives roles to a user and takes others back, whatever else of the user changes at the same time; one role stays at least, and
//! somebody who can give roles (`ACCESS-1`).

use crate::{Outcome, Refusal, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{Grant, Role, provider_of};

pub(super) fn apply(
    state: &mut State,
    name: &str,
    add: &BTreeSet<Grant>,
    remove: &BTreeSet<Grant>,
) -> Result<Outcome, Refusal> {
    let known = state.user(name).ok_or_else(|| Refusal::UnknownUser(name.to_owned()))?;
    if let Some(provider) = provider_of(name) {
        let what = format!("the roles of {name:?} come from identity provider {provider:?}");
        return Err(Refusal::Invalid(what));
    }
    if let Some(both) = add.iter().find(|given| remove.iter().any(|taken| taken.is_named_as(given))) {
        return Err(Refusal::Invalid(format!("{both} cannot be given and taken back at once")));
    }
    let add = state.settle(add)?;
    let mut roles = known.roles.clone();
    roles.retain(|role| !remove.iter().any(|taken| taken.is_named_as(role)));
    roles.extend(add);
    if roles == known.roles {
        return Ok(Outcome::Done);
    }
    if roles.is_empty() {
        let what = format!("user {name:?} needs at least one role: `muster users remove` removes the user");
        return Err(Refusal::Invalid(what));
    }
    if !roles.contains(&Role::Owner.into()) && state.is_last_owner(name) {
        return Err(Refusal::LastOwner(name.to_owned()));
    }
    let user = crate::User { roles, ..(**known).clone() };
    state.access.users.insert(name.to_owned(), Arc::new(user));
    state.access.version += 1;
    Ok(Outcome::Done)
}
