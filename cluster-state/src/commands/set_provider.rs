//! Lets the users of an identity provider in, or changes the terms: who came in by others must log in again.

use super::At;
use crate::{Outcome, PROVIDERS_MAX, Provider, Refusal, State};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn apply(state: &mut State, at: At, provider: &Provider) -> Result<Outcome, Refusal> {
    let mut faults = provider.faults();
    if let Some(known) = state.provider_by_issuer(&provider.issuer).filter(|known| known.name != provider.name) {
        faults.push(format!("issuer {:?} is that of provider {:?} already", provider.issuer, known.name));
    }
    let known = state.provider(&provider.name);
    if known.is_none() && state.access.providers.len() >= PROVIDERS_MAX {
        faults.push(format!("there are {PROVIDERS_MAX} providers already, which is the most"));
    }
    let mut groups = BTreeMap::new();
    for (group, roles) in &provider.groups {
        match state.settle(roles) {
            Ok(roles) => drop(groups.insert(group.clone(), roles)),
            Err(unknown) => faults.push(unknown.to_string()),
        }
    }
    if !faults.is_empty() {
        return Err(Refusal::Invalid(faults.join("; ")));
    }
    let provider = Provider { groups, ..provider.clone() };
    if known.is_some_and(|known| Provider { since: known.since, ..provider.clone() } == **known) {
        return Ok(Outcome::Done);
    }
    for user in state.access.users_of(&provider.name) {
        state.access.remove_tokens_of(&user);
    }
    let provider = Provider { since: at.index, ..provider };
    state.access.providers.insert(provider.name.clone(), Arc::new(provider));
    state.access.version += 1;
    Ok(Outcome::Done)
}
