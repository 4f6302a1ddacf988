//! Forgets a secret; jobs that name it are not started any more.

use super::share_secret::own;
use crate::{Outcome, Refusal, State};
use types::Caller;

pub(super) fn apply(state: &mut State, caller: Option<&Caller>, name: &str) -> Result<Outcome, Refusal> {
    own(state, caller, name)?;
    state.secrets.remove(name);
    Ok(Outcome::Done)
}
