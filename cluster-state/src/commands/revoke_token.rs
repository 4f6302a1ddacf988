//! Takes a token away, from this entry on.

use crate::access::TOKEN_ID_RULE;
use crate::{Outcome, Refusal, State, is_token_id};

pub(super) fn apply(state: &mut State, id: &str) -> Result<Outcome, Refusal> {
    if !is_token_id(id) {
        // It is not repeated: it may be the secret of one.
        return Err(Refusal::Invalid(TOKEN_ID_RULE.to_owned()));
    }
    state.access.remove_token(id).map(|_| Outcome::Done).ok_or_else(|| Refusal::UnknownToken(id.to_owned()))
}
