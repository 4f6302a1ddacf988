//! A user comes in by a token of an identity provider, which a coordinator has checked: it is kept like a token of ours until it
//! ends, and the user has the roles that the groups in it give (`ACCESS-3`).

use super::At;
use crate::access::DAY;
use crate::{ApiToken, LogIn, Outcome, Refusal, State, TOKENS_OF_USER_MAX, USERS_MAX, User, is_token_id};
use std::sync::Arc;
use types::{Timestamp, federated_name};

pub(super) fn apply(state: &mut State, at: At, log_in: &LogIn) -> Result<Outcome, Refusal> {
    let missing = || Refusal::UnknownProvider(log_in.provider.clone());
    let provider = state.provider(&log_in.provider).ok_or_else(missing)?;
    if provider.since != log_in.since {
        return Err(Refusal::ProviderChanged(log_in.provider.clone()));
    }
    let Some(name) = federated_name(&log_in.provider, &log_in.user) else {
        let what = format!("{:?} can be no user's name here: choose another claim", log_in.user);
        return Err(Refusal::Invalid(what));
    };
    let roles = provider.roles(&log_in.groups);
    if roles.is_empty() {
        return Err(Refusal::NoRole(name));
    }
    let token = checked(at, name.clone(), log_in)?;
    let known = state.user(&name);
    if known.is_none() && state.access.users.len() >= USERS_MAX {
        return Err(Refusal::Invalid(format!("there are {USERS_MAX} users already, which is the most")));
    }
    if let Some(by) = state.token_by_digest(&token.digest) {
        // Another coordinator was as quick, or its answer was lost.
        return if by.user == name {
            Ok(Outcome::Done)
        } else {
            Err(Refusal::Invalid("another has this token".to_owned()))
        };
    }
    if state.token(&token.id).is_some() {
        return Err(Refusal::Invalid(format!("there is a token {:?} already", token.id)));
    }
    if known.is_none_or(|known| known.roles != roles) {
        let waiting_max = known.and_then(|known| known.waiting_max);
        let created = known.map_or(at.time, |known| known.created);
        state.access.users.insert(name.clone(), Arc::new(User { name: name.clone(), roles, created, waiting_max }));
        state.access.version += 1;
    }
    make_room(state, &name, at.time);
    state.access.insert_token(token);
    Ok(Outcome::Done)
}

fn checked(at: At, user: String, log_in: &LogIn) -> Result<ApiToken, Refusal> {
    let LogIn { id, digest, expires, provider, .. } = log_in;
    if !is_token_id(id) || *expires <= at.time {
        return Err(Refusal::Invalid("the token has ended, or no name that it can have".to_owned()));
    }
    // However long its provider lets it count: after a day it is looked at again.
    let expires = (*expires).min(Timestamp(at.time.0.saturating_add(DAY.0)));
    let note = format!("of provider {provider}");
    Ok(ApiToken { id: id.clone(), user, digest: *digest, note, created: at.time, expires, roles: None })
}

/// Tokens that have ended go, and of too many those that end first: these are let in again if they still count.
fn make_room(state: &mut State, user: &str, now: Timestamp) {
    let mut live: Vec<(Timestamp, String)> = Vec::new();
    let mut gone = Vec::new();
    for token in state.tokens_of(user) {
        if token.is_live(now) { live.push((token.expires, token.id.clone())) } else { gone.push(token.id.clone()) }
    }
    live.sort_unstable();
    let too_many = (live.len() + 1).saturating_sub(TOKENS_OF_USER_MAX);
    gone.extend(live.drain(..too_many).map(|(_, id)| id));
    for id in gone {
        state.access.remove_token(&id);
    }
}
