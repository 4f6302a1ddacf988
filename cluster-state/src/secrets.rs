//! Secrets of jobs: sealed values, and who may give them to a job (`SECRET-1`: a job is given no secret that its submitter may
//! not use). What a value is only a coordinator with the key can say; nothing here has it.

use crate::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use types::{Caller, CoordinatorId, Permission, Principal, Timestamp};

/// Stands for every user among those that a secret is shared with.
pub const EVERYBODY: &str = "*";

/// A value under a key that the tables do not have.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which key: the first bytes of its SHA-256.
    pub key: [u8; 8],
    /// Never used twice with one key.
    pub nonce: [u8; 12],
    /// The value, and what proves that nobody changed it or put it in another's place.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.bytes.len())
    }
}

/// What names a key without giving it away.
pub type KeyId = [u8; 8];

/// An exchange of the key that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyExchange {
    /// For this one.
    pub to: KeyId,
    /// Who has it already.
    pub held_by: BTreeSet<CoordinatorId>,
}

/// Under which keys values are; the tables have their ids only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealing {
    /// New values are sealed under this one; none before the first exchange.
    pub(crate) key: Option<KeyId>,
    pub(crate) exchange: Option<KeyExchange>,
}

/// A value under another key than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    /// Of which secret.
    pub name: String,
    /// Its version, which stays.
    pub version: u64,
    /// The same value.
    pub sealed: Sealed,
}

/// One secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Unique.
    pub name: String,
    /// The user who made it.
    pub owner: String,
    /// Who else may give it to their jobs; [`EVERYBODY`] for all.
    pub users: BTreeSet<String>,
    /// What it is for, in its owner's words.
    pub note: String,
    /// From 1, with each new value.
    pub version: u64,
    /// The value.
    pub sealed: Sealed,
    /// When it was made.
    pub created: Timestamp,
    /// When it got its present value.
    pub changed: Timestamp,
}

impl Secret {
    /// May this user give it to a job?
    pub fn serves(&self, user: &str) -> bool {
        self.owner == user || self.users.contains(user) || self.users.contains(EVERYBODY)
    }
}

impl State {
    /// One secret.
    pub fn secret(&self, name: &str) -> Option<&std::sync::Arc<Secret>> {
        self.secrets.get(name)
    }

    /// Under which key new values are sealed; none = that which was there first.
    pub fn sealing_key(&self) -> Option<KeyId> {
        self.sealing.key
    }

    /// The exchange that goes on.
    pub fn key_exchange(&self) -> Option<&KeyExchange> {
        self.sealing.exchange.as_ref()
    }

    /// All secrets by name.
    pub fn secrets(&self) -> impl Iterator<Item = &std::sync::Arc<Secret>> {
        self.secrets.values()
    }

    /// May this caller give the secret another value, share or remove it?
    pub fn may_change_secret(&self, caller: &Caller, secret: &Secret) -> bool {
        user_of(Some(caller)).is_some_and(|user| secret.owner == user || self.manages_secrets(caller))
    }

    /// May this caller know that the secret is there?
    pub fn may_see_secret(&self, caller: &Caller, secret: &Secret) -> bool {
        user_of(Some(caller)).is_some_and(|user| secret.serves(user) || self.manages_secrets(caller))
    }

    fn manages_secrets(&self, caller: &Caller) -> bool {
        self.grants_of(&caller.principal).any(|grant| grant.gives(Permission::SecretsManage))
    }

    /// Of these, the ones that a job of this user cannot have, because they are not there or not for it.
    pub fn secrets_denied<'a>(&self, user: Option<&str>, names: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let user = user.filter(|user| self.user(user).is_some());
        let is_served = |name: &str| user.is_some_and(|user| self.secret(name).is_some_and(|one| one.serves(user)));
        let denied: BTreeSet<&String> = names.into_iter().filter(|name| !is_served(name)).collect();
        denied.into_iter().cloned().collect()
    }
}

/// The user among callers.
pub(crate) fn user_of(caller: Option<&Caller>) -> Option<&str> {
    match &caller?.principal {
        Principal::User { name, .. } => Some(name),
        _ => None,
    }
}
