//! One more token of a user, with an end that is not far.

use super::At;
use crate::access::{DAY, NOTE_BYTES_MAX, TOKEN_ID_RULE};
use crate::{ApiToken, Outcome, Refusal, State, TOKEN_DAYS_MAX, TOKENS_OF_USER_MAX, is_token_id};
use types::{Millis, provider_of};

const LIFE_MAX: Millis = Millis(TOKEN_DAYS_MAX * DAY.0);

pub(super) fn apply(state: &mut State, at: At, token: &ApiToken) -> Result<Outcome, Refusal> {
    if !is_token_id(&token.id) {
        return Err(Refusal::Invalid(TOKEN_ID_RULE.to_owned()));
    }
    if let Some(provider) = provider_of(&token.user) {
        let what = format!(
            "users of identity provider {provider:?} come in by its tokens alone, so that none outlives what it says"
        );
        return Err(Refusal::Invalid(what));
    }
    if state.user(&token.user).is_none() {
        return Err(Refusal::UnknownUser(token.user.clone()));
    }
    let roles = token.roles.as_ref().map(|roles| state.settle(roles)).transpose()?;
    let token = &ApiToken { roles, ..token.clone() };
    match state.token(&token.id) {
        Some(known) if **known == *token => return Ok(Outcome::Done),
        Some(_) => return Err(Refusal::Invalid(format!("there is a token {:?} already", token.id))),
        None if state.token_by_digest(&token.digest).is_some() => {
            return Err(Refusal::Invalid("another token has this secret already".to_owned()));
        }
        None => {}
    }
    if token.note.len() > NOTE_BYTES_MAX {
        return Err(Refusal::Invalid(format!("the note of a token has at most {NOTE_BYTES_MAX} bytes")));
    }
    if !token.is_live(at.time) || token.expires <= token.created || token.expires.since(token.created) > LIFE_MAX {
        return Err(Refusal::Invalid(format!("a token expires later than now and within {TOKEN_DAYS_MAX} days")));
    }
    let (live, over): (Vec<_>, Vec<_>) = state.tokens_of(&token.user).partition(|known| known.is_live(at.time));
    if live.len() >= TOKENS_OF_USER_MAX {
        let text = format!("user {:?} has {TOKENS_OF_USER_MAX} tokens already: revoke one first", token.user);
        return Err(Refusal::Invalid(text));
    }
    let over: Vec<String> = over.into_iter().map(|token| token.id.clone()).collect();
    for id in over {
        state.access.remove_token(&id);
    }
    state.access.insert_token(token.clone());
    Ok(Outcome::Done)
}
