//! Identity providers whose users are let in: what of their tokens counts here, and which roles their groups give (`ACCESS-3`: a user of
//! a provider has the roles that its groups gave at the last log-in under the present terms, and no token from before these).

use crate::State;
use crate::access::Access;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::{Grant, LogIndex, is_provider_name, provider_of};

/// Identity providers of a cluster.
pub const PROVIDERS_MAX: usize = 16;
/// Groups and audiences of one provider.
const ENTRIES_MAX: usize = 256;
/// Bytes of each text of a provider, its keys aside.
const TEXT_BYTES_MAX: usize = 512;
/// Bytes of keys that are given.
pub const KEY_SET_BYTES_MAX: usize = 64 << 10;
/// The group that every user of a provider is in.
pub const EVERY_GROUP: &str = "*";

/// Where the keys come from that sign a provider's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeySource {
    /// A JSON Web Key Set, as it is.
    Given(String),
    /// Each coordinator fetches it: a JSON Web Key Set, or a description of the provider that names one.
    From(String),
}

/// An OpenID Connect provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Unique; the first part of its users' names here.
    pub name: String,
    /// As its tokens say it (`iss`); unique.
    pub issuer: String,
    /// Its tokens must be for one of them (`aud`).
    pub audiences: BTreeSet<String>,
    /// The claim that tells its users apart.
    pub user_claim: String,
    /// The claim that lists a user's groups.
    pub groups_claim: String,
    /// What each group gives; [`EVERY_GROUP`] is everybody's.
    pub groups: BTreeMap<String, BTreeSet<Grant>>,
    /// Its keys.
    pub keys: KeySource,
    /// The entry that set it so: a log-in by other terms does not count.
    pub since: LogIndex,
}

impl Provider {
    /// What is wrong with it, all of it; what others of the tables forbid aside.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !is_provider_name(&self.name) {
            faults.push("a provider's name is 1 to 32 of a-z, 0-9 and '-', beginning with a letter".to_owned());
        }
        let texts = [("issuer", &self.issuer), ("user claim", &self.user_claim), ("groups claim", &self.groups_claim)];
        let texts = texts.into_iter().chain(self.audiences.iter().map(|text| ("audience", text)));
        for (what, text) in texts.chain(self.groups.keys().map(|text| ("group", text))) {
            if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
                faults.push(format!("the {what} has 1 to {TEXT_BYTES_MAX} visible characters"));
            }
        }
        if self.audiences.is_empty() || self.audiences.len() > ENTRIES_MAX {
            faults.push(format!(
                "a provider has 1 to {ENTRIES_MAX} audiences: tokens for others must let nobody in here"
            ));
        }
        if self.groups.is_empty() || self.groups.len() > ENTRIES_MAX || self.groups.values().any(BTreeSet::is_empty) {
            faults.push(format!("a provider has 1 to {ENTRIES_MAX} groups, each with a role at least"));
        }
        let bytes = match &self.keys {
            KeySource::Given(keys) if keys.len() <= KEY_SET_BYTES_MAX => None,
            KeySource::Given(_) => Some(KEY_SET_BYTES_MAX),
            KeySource::From(address) if address.len() <= TEXT_BYTES_MAX => None,
            KeySource::From(_) => Some(TEXT_BYTES_MAX),
        };
        faults.extend(bytes.map(|most| format!("its keys, or where they are, have at most {most} bytes")));
        faults
    }

    /// What these groups give, everybody's share included.
    pub fn roles(&self, groups: &BTreeSet<String>) -> BTreeSet<Grant> {
        let given = self.groups.iter().filter(|(group, _)| *group == EVERY_GROUP || groups.contains(*group));
        given.flat_map(|(_, roles)| roles).cloned().collect()
    }
}

impl Access {
    /// Names of a provider's users.
    pub(crate) fn users_of(&self, provider: &str) -> Vec<String> {
        let from = format!("{provider}:");
        let names = self.users.range(from..).map(|(name, _)| name);
        names.take_while(|name| provider_of(name) == Some(provider)).cloned().collect()
    }

    /// Takes all tokens of a user back.
    pub(crate) fn remove_tokens_of(&mut self, user: &str) {
        let from = (user.to_owned(), String::new());
        let ids = self.tokens_of.range(from..).take_while(|(owner, _)| owner == user).map(|(_, id)| id.clone());
        let ids: Vec<String> = ids.collect();
        for id in ids {
            self.remove_token(&id);
        }
    }
}

impl State {
    /// Identity providers by name.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.access.providers.values()
    }

    /// One identity provider.
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.access.providers.get(name)
    }

    /// The identity provider that issues tokens under this name.
    pub fn provider_by_issuer(&self, issuer: &str) -> Option<&Arc<Provider>> {
        self.providers().find(|provider| provider.issuer == issuer)
    }

    /// How many users of a provider have logged in.
    pub fn users_of_provider(&self, provider: &str) -> usize {
        self.access.users_of(provider).len()
    }
}
