//! A node comes in by its token: once, in time, in the role and under the name that the token is for (`ACCESS-2`).

use super::At;
use crate::{Outcome, Refusal, State};
use types::{Millis, Principal};

/// So long the same node may come again: its answer was lost.
const RETRY_MS: Millis = Millis(600_000);

pub(super) fn apply(state: &mut State, at: At, digest: &[u8; 32], as_whom: &Principal) -> Result<Outcome, Refusal> {
    let refused = |why: String| Refusal::JoinToken(why);
    let token = state.join_token_by_digest(digest).ok_or_else(|| refused("is unknown".to_owned()))?;
    if !token.admits.admits(as_whom) {
        return Err(refused(format!("{} lets {} in, not {as_whom}", token.id, token.admits)));
    }
    if let Some(used) = token.used {
        let is_retry = token.used_by.as_deref() == Some(&as_whom.to_string()) && at.time.since(used) <= RETRY_MS;
        let who = token.used_by.as_deref().unwrap_or_default();
        return if is_retry { Ok(Outcome::Done) } else { Err(refused(format!("{} was used by {who}", token.id))) };
    }
    if !token.is_open(at.time) {
        return Err(refused(format!("{} has expired", token.id)));
    }
    let id = token.id.clone();
    state.access.use_join_token(&id, at.time, as_whom);
    Ok(Outcome::Done)
}
