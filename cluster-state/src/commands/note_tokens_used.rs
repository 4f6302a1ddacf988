//! When tokens last let somebody in, as the coordinators saw it. A token that was noted a short while ago is left as it is, so that
//! however many of them note it, the tables change once.

use super::At;
use crate::access::is_new_use;
use crate::{Outcome, Refusal, State, TOKEN_USES_MAX};
use types::Timestamp;

pub(super) fn apply(state: &mut State, at: At, used: &[(String, Timestamp)]) -> Result<Outcome, Refusal> {
    if used.len() > TOKEN_USES_MAX {
        return Err(Refusal::Invalid(format!("{} tokens at once are more than {TOKEN_USES_MAX}", used.len())));
    }
    for (id, when) in used {
        // A clock that is ahead must not keep later uses out.
        let when = (*when).min(at.time);
        if state.token(id).is_some() && is_new_use(state.token_used(id), when) {
            state.access.token_uses.insert(id.clone(), when);
        }
    }
    Ok(Outcome::Done)
}
