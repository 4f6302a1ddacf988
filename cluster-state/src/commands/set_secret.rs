//! Makes a secret, or gives one another value.

use super::At;
use crate::access::NOTE_BYTES_MAX;
use crate::secrets::user_of;
use crate::{Outcome, Refusal, Sealed, Secret, State};
use std::sync::Arc;
use types::{Caller, Limits, Permission, SECRET_NAME_RULE, is_secret_name};

/// What sealing adds to a value.
pub(super) const SEAL_BYTES_MAX: usize = 64;

pub(super) fn apply(
    state: &mut State,
    at: At,
    caller: Option<&Caller>,
    name: &str,
    note: Option<&str>,
    version: u64,
    sealed: &Sealed,
) -> Result<Outcome, Refusal> {
    let Some((caller, user)) = caller.zip(user_of(caller)) else {
        return Err(Refusal::Invalid("a secret is its user's: a node has none".to_owned()));
    };
    if !is_secret_name(name) {
        return Err(Refusal::Invalid(format!("{name:?} is no name of a secret: {SECRET_NAME_RULE}")));
    }
    if note.is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
        return Err(Refusal::Invalid(format!("the note of a secret has at most {NOTE_BYTES_MAX} bytes")));
    }
    if sealed.bytes.len() > Limits::SECRET_BYTES_MAX + SEAL_BYTES_MAX {
        return Err(Refusal::Invalid(format!("a secret has at most {} bytes", Limits::SECRET_BYTES_MAX)));
    }
    if let Some(place) = types::workspace_of_secret(name) {
        // Who does not see its jobs learns what they would of a workspace that is not there.
        state.may_in(caller, Permission::SecretsManage, &place)?;
    }
    let mut secret = match state.secret(name) {
        Some(known) if !state.may_change_secret(caller, known) => {
            return Err(Refusal::NotYours(format!("secret {name:?} is another user's: choose another name")));
        }
        // The second arrival of the same request.
        Some(known) if known.version == version && known.sealed == *sealed => return Ok(Outcome::Done),
        Some(known) => (**known).clone(),
        None if state.secrets.len() >= Limits::SECRETS_MAX => {
            return Err(Refusal::Invalid(format!("there are {} secrets already: remove some", Limits::SECRETS_MAX)));
        }
        None => Secret {
            name: name.to_owned(),
            owner: user.to_owned(),
            users: Default::default(),
            note: String::new(),
            version: 0,
            sealed: sealed.clone(),
            created: at.time,
            changed: at.time,
        },
    };
    // The key was exchanged while this value was sealed.
    if state.sealing_key().is_some_and(|key| sealed.key != key) {
        return Err(Refusal::SecretChanged(name.to_owned()));
    }
    // The version is part of what was sealed.
    if version != secret.version + 1 {
        return Err(Refusal::SecretChanged(name.to_owned()));
    }
    (secret.version, secret.sealed, secret.changed) = (version, sealed.clone(), at.time);
    if let Some(note) = note {
        note.clone_into(&mut secret.note);
    }
    state.secrets.insert(name.to_owned(), Arc::new(secret));
    Ok(Outcome::Done)
}
