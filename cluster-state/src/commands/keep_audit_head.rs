//! Keeps a signature of where the audit trail stood. Whose it is the reader checks: the tables know no keys.

use crate::{Outcome, Refusal, SignedHead, State};

pub(super) fn apply(state: &mut State, head: &SignedHead) -> Result<Outcome, Refusal> {
    if state.audit.keep_head(head) {
        return Ok(Outcome::Done);
    }
    Err(Refusal::Invalid(format!(
        "record {} of the audit trail is not there so, or has a later signature",
        head.number
    )))
}
