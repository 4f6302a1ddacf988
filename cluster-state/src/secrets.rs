//! Secrets of jobs: sealed values, and who may give them to a job (`SECRET-1`: a job is given no secret that its submitter may
//! not use). What a value is only a coordinator with the key can say; nothing here has it.

use crate::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use types::{Caller, CoordinatorId, Grant, Permission, Principal, Timestamp, Workspace};

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
    /// Unique. `NAME@WORKSPACE` of one that is a workspace's.
    pub name: String,
    /// The user who made it; of a workspace's no more than that.
    pub owner: String,
    /// Who else may give it to their jobs; [`EVERYBODY`] for all. Nobody of a workspace's.
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
    /// The workspace whose jobs have it, whoever submitted them; none = it is its owner's.
    pub fn workspace(&self) -> Option<Workspace> {
        types::workspace_of_secret(&self.name)
    }

    /// Is it this user's, or shared with them?
    fn is_for(&self, user: &str) -> bool {
        self.owner == user || self.users.contains(user) || self.users.contains(EVERYBODY)
    }
}

impl State {
    /// One secret.
    pub fn secret(&self, name: &str) -> Option<&Arc<Secret>> {
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
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }

    /// May this caller give the secret another value, share or remove it?
    pub fn may_change_secret(&self, caller: &Caller, secret: &Secret) -> bool {
        user_of(Some(caller)).is_some_and(|user| {
            let is_own = secret.owner == user && secret.workspace().is_none();
            is_own || self.manages_secrets(caller, secret.workspace().as_ref())
        })
    }

    /// May this caller know that the secret is there?
    pub fn may_see_secret(&self, caller: &Caller, secret: &Secret) -> bool {
        user_of(Some(caller)).is_some_and(|user| {
            let workspace = secret.workspace();
            let is_for = match &workspace {
                None => secret.is_for(user),
                Some(place) => self.submits_in(self.grants_of(&caller.principal), place),
            };
            is_for || self.manages_secrets(caller, workspace.as_ref())
        })
    }

    /// May this caller make and change secrets of that workspace, or without one everybody's?
    fn manages_secrets(&self, caller: &Caller, workspace: Option<&Workspace>) -> bool {
        self.grants_of(&caller.principal).any(|grant| match workspace {
            None => grant.gives(Permission::SecretsManage),
            Some(place) => grant.gives_in(Permission::SecretsManage, place),
        })
    }

    fn submits_in<'a>(&self, mut grants: impl Iterator<Item = &'a Grant>, place: &Workspace) -> bool {
        self.has_workspace(place) && grants.any(|grant| grant.gives_in(Permission::JobsSubmit, place))
    }

    /// Of these, the ones that a job of this user in that workspace cannot have, because they are not there or not for it.
    pub fn secrets_denied<'a>(
        &self,
        user: Option<&str>,
        workspace: &Workspace,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Vec<String> {
        let user = user.filter(|user| self.user(user).is_some());
        let is_for = |secret: &Secret, user: &str| match secret.workspace() {
            None => secret.is_for(user),
            Some(place) => place == *workspace && self.submits_in(self.roles_of(user).iter(), &place),
        };
        let is_served = |name: &str| user.is_some_and(|user| self.secret(name).is_some_and(|one| is_for(one, user)));
        let denied: BTreeSet<&String> = names.into_iter().filter(|name| !is_served(name)).collect();
        denied.into_iter().cloned().collect()
    }
}

impl State {
    /// Forgets what was a user's alone, so that whoever has the name later has none of it; a workspace's stays.
    pub(crate) fn forget_secrets_of(&mut self, user: &str) {
        let is_of = |secret: &Secret| secret.owner == user && secret.workspace().is_none();
        let concerned: Vec<_> =
            self.secrets.values().filter(|secret| is_of(secret) || secret.users.contains(user)).cloned().collect();
        for secret in concerned {
            if is_of(&secret) {
                self.secrets.remove(&secret.name);
            } else {
                let mut kept = (*secret).clone();
                kept.users.remove(user);
                self.secrets.insert(kept.name.clone(), Arc::new(kept));
            }
        }
    }
}

/// The user among callers.
pub(crate) fn user_of(caller: Option<&Caller>) -> Option<&str> {
    match &caller?.principal {
        Principal::User { name, .. } => Some(name),
        _ => None,
    }
}
