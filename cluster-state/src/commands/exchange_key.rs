//! The key for secrets, exchanged in steps that each can come twice: a new one is named, each coordinator says that it has it, the
//! values are sealed under it, and the old one is done with. Where any of it is cut short, the next exchange goes on or begins anew.

use super::set_secret::SEAL_BYTES_MAX;
use crate::{KeyExchange, KeyId, Outcome, Refusal, Resealed, State};
use std::sync::Arc;
use types::{CoordinatorId, Limits};

pub(super) fn begin(state: &mut State, to: KeyId) -> Result<Outcome, Refusal> {
    if state.sealing.key == Some(to) {
        return Err(Refusal::Invalid("values are sealed under this key already".to_owned()));
    }
    match &state.sealing.exchange {
        Some(known) if known.to == to => return Ok(Outcome::Done),
        Some(known) if state.secrets().any(|secret| secret.sealed.key == known.to) => {
            return Err(Refusal::Invalid(
                "an exchange goes on, and values are sealed under its key already".to_owned(),
            ));
        }
        _ => {}
    }
    state.sealing.exchange = Some(KeyExchange { to, held_by: Default::default() });
    // Coordinators look when access changes.
    state.access.version += 1;
    Ok(Outcome::Done)
}

pub(super) fn hold(state: &mut State, to: KeyId, by: CoordinatorId) -> Result<Outcome, Refusal> {
    exchange(state, to)?.held_by.insert(by);
    Ok(Outcome::Done)
}

pub(super) fn reseal(state: &mut State, to: KeyId, secrets: &[Resealed]) -> Result<Outcome, Refusal> {
    exchange(state, to)?;
    let most = Limits::SECRET_BYTES_MAX + SEAL_BYTES_MAX;
    if secrets.iter().any(|secret| secret.sealed.key != to || secret.sealed.bytes.len() > most) {
        return Err(Refusal::Invalid("a value is under another key, or is too long".to_owned()));
    }
    for Resealed { name, version, sealed } in secrets {
        if let Some(slot) = state.secrets.get_mut(name).filter(|secret| secret.version == *version) {
            Arc::make_mut(slot).sealed = sealed.clone();
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn end(state: &mut State, to: KeyId) -> Result<Outcome, Refusal> {
    if state.sealing.exchange.is_none() && state.sealing.key == Some(to) {
        return Ok(Outcome::Done);
    }
    exchange(state, to)?;
    if let Some(left) = state.secrets().find(|secret| secret.sealed.key != to) {
        return Err(Refusal::SecretChanged(left.name.clone()));
    }
    state.sealing.key = Some(to);
    state.sealing.exchange = None;
    state.access.version += 1;
    Ok(Outcome::Done)
}

fn exchange(state: &mut State, to: KeyId) -> Result<&mut KeyExchange, Refusal> {
    let exchange = state.sealing.exchange.as_mut().filter(|exchange| exchange.to == to);
    exchange.ok_or_else(|| Refusal::Invalid("there is no exchange for this key: begin again".to_owned()))
}
