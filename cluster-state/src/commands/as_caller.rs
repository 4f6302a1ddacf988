//! A command in somebody's name: what it does, and one record of that in the audit trail, whether it was refused or not.

use super::At;
use crate::audit::Deed;
use crate::{Command, Outcome, Refusal, State};
use std::sync::Arc;
use types::Caller;

pub(super) fn apply(state: &mut State, at: At, caller: &Arc<Caller>, command: &Command) -> Result<Outcome, Refusal> {
    if matches!(command, Command::As { .. }) {
        return Err(Refusal::Invalid("a command is made in one name only".to_owned()));
    }
    // Before it is done: afterwards a removed thing has no name any more.
    let mut object = command.object(state);
    let done = super::apply(state, at, Some(caller), command);
    let result = match &done {
        // A retry whose first answer was lost did nothing.
        Ok(Outcome::Submitted { repeated: true, .. }) => return done,
        Ok(Outcome::Submitted { job, .. }) => {
            object = job.to_string();
            "ok".to_owned()
        }
        Ok(Outcome::Refused(refusal)) | Err(refusal) => format!("refused: {refusal}"),
        Ok(_) => "ok".to_owned(),
    };
    let deed = Deed { caller, action: command.action(), object: &object, result: &result, times: 1 };
    state.audit.append(at.time, &deed);
    done
}
