//! Gives the log its identity, once.

use crate::{Outcome, Refusal, State};
use types::ClusterId;

pub(super) fn apply(state: &mut State, cluster: ClusterId) -> Result<Outcome, Refusal> {
    match state.cluster {
        Some(formed) if formed != cluster => Err(Refusal::FormedAlready(formed)),
        _ => {
            state.cluster = Some(cluster);
            Ok(Outcome::Done)
        }
    }
}
