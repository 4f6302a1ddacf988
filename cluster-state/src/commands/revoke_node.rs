//! Certificates of a node count no more; those that are issued to its name later do.

use super::At;
use crate::{Outcome, Refusal, Revocation, State};
use types::{Caller, Principal};

/// Ten times the workers of the largest cluster.
const REVOCATIONS_MAX: usize = 100_000;

pub(super) fn apply(state: &mut State, at: At, caller: Option<&Caller>, node: &Principal) -> Result<Outcome, Refusal> {
    if !matches!(node, Principal::Coordinator(_) | Principal::Worker(_)) {
        return Err(Refusal::Invalid(format!("{node} is no node: coordinators and workers have certificates")));
    }
    let known = state.revocation(node);
    if known.is_none() && state.access.revocations.len() >= REVOCATIONS_MAX {
        return Err(Refusal::Invalid(format!("{REVOCATIONS_MAX} nodes are revoked already, which is the most")));
    }
    // The next leader's clock may be behind: what was revoked stays so.
    let until = known.map_or(at.time, |known| known.at.max(at.time));
    let by = caller.map(|caller| caller.principal.to_string()).unwrap_or_default();
    state.access.revocations.insert(node.clone(), Revocation { at: until, by });
    state.access.version += 1;
    Ok(Outcome::Done)
}
