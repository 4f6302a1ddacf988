//! Lets more users give a secret to their jobs, and others no longer.

use crate::{EVERYBODY, Outcome, Refusal, Secret, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{Caller, Limits, Permission};

pub(super) fn apply(
    state: &mut State,
    caller: Option<&Caller>,
    name: &str,
    add: &BTreeSet<String>,
    remove: &BTreeSet<String>,
) -> Result<Outcome, Refusal> {
    let mut secret = (*own(state, caller, name)?).clone();
    if let Some(place) = secret.workspace() {
        let what = format!("secret {name:?} is for every job in workspace {place}: it is not shared with users");
        return Err(Refusal::Invalid(what));
    }
    let unknown = add.iter().find(|user| *user != EVERYBODY && state.user(user).is_none());
    if let Some(user) = unknown {
        return Err(Refusal::UnknownUser(user.clone()));
    }
    secret.users.extend(add.iter().cloned());
    secret.users.retain(|user| !remove.contains(user));
    if secret.users.len() > Limits::SECRET_USERS_MAX {
        let most = Limits::SECRET_USERS_MAX;
        return Err(Refusal::Invalid(format!("a secret is shared with at most {most} users: share it with all ('*')")));
    }
    state.secrets.insert(name.to_owned(), Arc::new(secret));
    Ok(Outcome::Done)
}

/// The secret, where the caller may change it; one that the caller may not even see is as one that is not there.
pub(super) fn own(state: &State, caller: Option<&Caller>, name: &str) -> Result<Arc<Secret>, Refusal> {
    let unknown = || Refusal::UnknownSecret(name.to_owned());
    let caller = caller.ok_or_else(unknown)?;
    let secret = state.secret(name).filter(|secret| state.may_see_secret(caller, secret)).ok_or_else(unknown)?;
    if !state.may_change_secret(caller, secret) {
        let whose = match secret.workspace() {
            None => format!("{}'s: they can change it", secret.owner),
            Some(place) => format!("of workspace {place}: it needs {} there", Permission::SecretsManage),
        };
        return Err(Refusal::NotYours(format!("secret {name:?} is {whose}")));
    }
    Ok(secret.clone())
}
