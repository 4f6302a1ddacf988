//! A token by which one node is let in, within a day.

use super::At;
use crate::access::{DAY, NOTE_BYTES_MAX, TOKEN_ID_RULE};
use crate::{JoinToken, Outcome, Refusal, State, is_token_id};

/// Join tokens that can still let somebody in: one for each worker of the largest cluster.
const OPEN_MAX: usize = 10_000;

pub(super) fn apply(state: &mut State, at: At, token: &JoinToken) -> Result<Outcome, Refusal> {
    if let Some(known) = state.join_token(&token.id).filter(|known| known.digest == token.digest) {
        let JoinToken { admits, created, expires, .. } = &**known;
        if (admits, created, expires) == (&token.admits, &token.created, &token.expires) {
            return Ok(Outcome::Done);
        }
    }
    check(state, at, token).map_err(Refusal::Invalid)?;
    // Those that expired lately stay for a while, so that who looks can see what became of them.
    state.access.forget_join_tokens(at.time);
    state.access.insert_join_token(token.clone());
    Ok(Outcome::Done)
}

fn check(state: &State, at: At, token: &JoinToken) -> Result<(), String> {
    if !is_token_id(&token.id) {
        return Err(TOKEN_ID_RULE.to_owned());
    }
    if state.join_token(&token.id).is_some() {
        return Err(format!("there is a join token {:?} already", token.id));
    }
    if state.join_token_by_digest(&token.digest).is_some() {
        return Err("another join token has this secret already".to_owned());
    }
    if token.created_by.len() > NOTE_BYTES_MAX {
        return Err(format!("the name of its maker has at most {NOTE_BYTES_MAX} bytes"));
    }
    if !token.is_open(at.time) || token.used_by.is_some() {
        return Err("a new join token is neither used nor expired".to_owned());
    }
    if token.expires <= token.created || token.expires.since(token.created) > DAY {
        return Err("a join token expires within 24 hours".to_owned());
    }
    // Most are used or expired: they are looked at only when there are many.
    let is_full = state.access.joins.len() >= OPEN_MAX
        && state.join_tokens().filter(|known| known.is_open(at.time)).count() >= OPEN_MAX;
    if is_full {
        return Err(format!("there are {OPEN_MAX} unused join tokens already, which is the most"));
    }
    Ok(())
}
