//! Calls that were denied before they became commands: one record for each kind of them.

use super::At;
use crate::audit::{DENIALS_MAX, Deed};
use crate::{Denial, Outcome, Refusal, State};
use std::sync::Arc;

pub(super) fn apply(state: &mut State, at: At, denials: &[Denial]) -> Result<Outcome, Refusal> {
    if denials.len() > DENIALS_MAX {
        return Err(Refusal::Invalid(format!("{} denials at once are more than {DENIALS_MAX}", denials.len())));
    }
    for Denial { caller, action, object, why, times } in denials {
        let result = format!("denied: {why}");
        let caller = Arc::new(caller.clone());
        state.audit.append(at.time, &Deed { caller: &caller, action, object, result: &result, times: *times });
    }
    Ok(Outcome::Done)
}
