//! Who may do what and by which proof: users, tokens, join tokens, certificate authorities and nodes that were revoked.
//!
//! Secrets never come here, only their digests. What holds at every entry: once there was an owner there is one; tokens
//! belong to users that are there; no two tokens have one id or one digest.

use crate::{Provider, RoleRecord, State, WorkspaceRecord};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use types::{Admits, ContentHash, Grant, Millis, Principal, Role, Timestamp, Workspace, provider_of};

/// Jobs of one user that may wait at once, unless it was set for the user: beyond this the tables would be one user's.
pub const JOBS_WAITING_MAX: u32 = 200_000;
/// Users of a cluster.
pub const USERS_MAX: usize = 10_000;
/// Tokens of one user that have not expired.
pub const TOKENS_OF_USER_MAX: usize = 64;
/// Longest life of a token: a year, and a day to renew it.
pub const TOKEN_DAYS_MAX: u64 = 366;
/// Tokens in one note of when they were used.
pub const TOKEN_USES_MAX: usize = 1_024;
/// To within this it is known when a token was last used, so that a busy one changes the tables seldom.
const TOKEN_USE_EVERY: Millis = Millis(5 * 60_000);

pub(crate) const DAY: Millis = Millis(24 * 3_600_000);
/// Bytes of the note of a token and of its maker's name.
pub(crate) const NOTE_BYTES_MAX: usize = 200;
pub(crate) const TOKEN_ID_RULE: &str = "the id of a token is 1 to 32 of a-z and 0-9";
/// Longest name of a token.
const TOKEN_ID_BYTES_MAX: usize = 32;

static NO_ROLES: BTreeSet<Grant> = BTreeSet::new();

/// A person or program that calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Unique.
    pub name: String,
    /// At least one; those in workspaces name some that are there.
    pub roles: BTreeSet<Grant>,
    /// When it was made.
    pub created: Timestamp,
    /// Jobs of this user that may wait at once; none = [`JOBS_WAITING_MAX`].
    pub waiting_max: Option<u32>,
}

/// By which a user is let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// The part that is no secret, unique: 1 to 32 of a-z and 0-9.
    pub id: String,
    /// Whose.
    pub user: String,
    /// SHA-256 of the secret text. The secret has 256 random bits, so a slow hash would add nothing.
    pub digest: [u8; 32],
    /// What it is for, in its user's words.
    pub note: String,
    /// When it was made.
    pub created: Timestamp,
    /// From then on it lets nobody in.
    pub expires: Timestamp,
    /// It gives no more than these, and of them those that its user has; none = all that its user may.
    pub roles: Option<BTreeSet<Grant>>,
}

/// By which one node is let in, once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The part that is no secret, unique: 1 to 32 of a-z and 0-9.
    pub id: String,
    /// SHA-256 of the secret text.
    pub digest: [u8; 32],
    /// Which node.
    pub admits: Admits,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created: Timestamp,
    /// From then on it lets nobody in.
    pub expires: Timestamp,
    /// When it let somebody in.
    pub used: Option<Timestamp>,
    /// Whom.
    pub used_by: Option<String>,
}

/// A certificate authority that nodes trust.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// In DER.
    pub certificate: Vec<u8>,
    /// The certificate of its key by the authority before it, in DER, for who knows that one only; empty without one.
    pub vouched: Vec<u8>,
    /// When it came to be trusted.
    pub created: Timestamp,
}

/// Certificates of a node that count no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// All that were issued up to then and including it; the name may join again later.
    pub at: Timestamp,
    /// Who revoked them; empty when the cluster did of itself.
    pub by: String,
}

impl ApiToken {
    /// False from its end on.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires
    }
}

impl JoinToken {
    /// True while it can let somebody in.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.used.is_none() && now < self.expires
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, user, note, created, expires, roles, digest: _ } = self;
        f.debug_struct("ApiToken")
            .field("id", id)
            .field("user", user)
            .field("note", note)
            .field("created", created)
            .field("expires", expires)
            .field("roles", roles)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, admits, created_by, created, expires, used, used_by, digest: _ } = self;
        f.debug_struct("JoinToken")
            .field("id", id)
            .field("admits", admits)
            .field("created_by", created_by)
            .field("created", created)
            .field("expires", expires)
            .field("used", used)
            .field("used_by", used_by)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", ContentHash(self.fingerprint))
    }
}

/// True for what the id of a token may be: 1 to 32 of a-z and 0-9, so that no secret passes for one.
pub fn is_token_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=TOKEN_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// Is this use of a token worth a change of the tables, which have `last`?
pub fn is_new_use(last: Option<Timestamp>, now: Timestamp) -> bool {
    last.is_none_or(|last| now.since(last) >= TOKEN_USE_EVERY)
}

/// The tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    /// Rises with each change of what follows, join tokens aside.
    pub(crate) version: u64,
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) users: OrdMap<String, Arc<User>>,
    /// By id.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) tokens: OrdMap<String, Arc<ApiToken>>,
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) token_digests: OrdMap<[u8; 32], String>,
    /// When a token that is there last let somebody in; no part of `version`.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) token_uses: OrdMap<String, Timestamp>,
    /// User and id.
    #[serde(deserialize_with = "crate::bounded::list")]
    pub(crate) tokens_of: OrdSet<(String, String)>,
    /// The newest is the last.
    pub(crate) authorities: Vec<Arc<Authority>>,
    /// Certificates of nodes that were issued before count no more: their authority was retired.
    pub(crate) certificates_from: Timestamp,
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) revocations: OrdMap<Principal, Revocation>,
    /// By id.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) joins: OrdMap<String, Arc<JoinToken>>,
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) join_digests: OrdMap<[u8; 32], String>,
    /// In the order in which they expire.
    #[serde(deserialize_with = "crate::bounded::list")]
    pub(crate) join_expiries: OrdSet<(Timestamp, String)>,
    /// By name.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) providers: OrdMap<String, Arc<Provider>>,
    /// By name; the default one is there without a record.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) workspaces: OrdMap<Workspace, Arc<WorkspaceRecord>>,
    /// The cluster's own roles by name; each grant of one has what it gives now.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) roles: OrdMap<String, Arc<RoleRecord>>,
}

impl Access {
    pub(crate) fn insert_token(&mut self, token: ApiToken) {
        self.token_digests.insert(token.digest, token.id.clone());
        self.tokens_of.insert((token.user.clone(), token.id.clone()));
        self.tokens.insert(token.id.clone(), Arc::new(token));
        self.version += 1;
    }

    pub(crate) fn remove_token(&mut self, id: &str) -> Option<Arc<ApiToken>> {
        let token = self.tokens.remove(id)?;
        self.token_digests.remove(&token.digest);
        self.token_uses.remove(id);
        self.tokens_of.remove(&(token.user.clone(), token.id.clone()));
        self.version += 1;
        Some(token)
    }

    pub(crate) fn insert_join_token(&mut self, token: JoinToken) {
        self.join_digests.insert(token.digest, token.id.clone());
        self.join_expiries.insert((token.expires, token.id.clone()));
        self.joins.insert(token.id.clone(), Arc::new(token));
    }

    /// Changes neither id, digest nor expiry.
    pub(crate) fn use_join_token(&mut self, id: &str, used: Timestamp, by: &Principal) {
        if let Some(slot) = self.joins.get_mut(id) {
            let token = Arc::make_mut(slot);
            (token.used, token.used_by) = (Some(used), Some(by.to_string()));
        }
    }

    /// Forgets join tokens, used or not, that expired more than a day ago.
    pub(crate) fn forget_join_tokens(&mut self, now: Timestamp) {
        while let Some((expires, id)) = self.join_expiries.get_min().cloned() {
            if now.since(expires) <= DAY {
                return;
            }
            self.join_expiries.remove(&(expires, id.clone()));
            if let Some(token) = self.joins.remove(&id) {
                self.join_digests.remove(&token.digest);
            }
        }
    }
}

impl State {
    /// One user.
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.access.users.get(name)
    }

    /// All users by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.access.users.values()
    }

    /// What a user is; none for one who is not known.
    pub fn roles_of(&self, name: &str) -> &BTreeSet<Grant> {
        self.user(name).map_or(&NO_ROLES, |user| &user.roles)
    }

    /// What a caller is: the roles of a user, or those of them that the caller's token gives. Nobody else has any. A role of a token counts
    /// while its user's roles cover it.
    pub fn grants_of<'a>(&'a self, caller: &Principal) -> impl Iterator<Item = &'a Grant> + Clone + use<'a> {
        let (roles, narrowed) = match caller {
            Principal::User { name, token } => {
                let narrowed = self.token(token).and_then(|token| token.roles.as_ref());
                (self.roles_of(name), narrowed)
            }
            _ => (&NO_ROLES, None),
        };
        let counts = move |grant: &&Grant| narrowed.is_none() || types::covers(roles, grant);
        narrowed.unwrap_or(roles).iter().filter(counts)
    }

    /// One token by its id.
    pub fn token(&self, id: &str) -> Option<&Arc<ApiToken>> {
        self.access.tokens.get(id)
    }

    /// When this token last let somebody in, to within some minutes; none = never.
    pub fn token_used(&self, id: &str) -> Option<Timestamp> {
        self.access.token_uses.get(id).copied()
    }

    /// One token by the digest of its secret. It may have expired: ask `is_live`.
    pub fn token_by_digest(&self, digest: &[u8; 32]) -> Option<&Arc<ApiToken>> {
        self.access.token_digests.get(digest).and_then(|id| self.token(id))
    }

    /// All tokens, by user and id.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<ApiToken>> {
        self.access.tokens_of.iter().filter_map(|(_, id)| self.token(id))
    }

    /// Tokens of one user by id.
    pub fn tokens_of(&self, user: &str) -> impl Iterator<Item = &Arc<ApiToken>> {
        let (from, name) = ((user.to_owned(), String::new()), user.to_owned());
        let ids = self.access.tokens_of.range(from..).take_while(move |(owner, _)| *owner == name);
        ids.filter_map(|(_, id)| self.token(id))
    }

    /// Join tokens that are not forgotten, by id.
    pub fn join_tokens(&self) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.access.joins.values()
    }

    /// One join token by the digest of its secret.
    pub fn join_token_by_digest(&self, digest: &[u8; 32]) -> Option<&Arc<JoinToken>> {
        self.access.join_digests.get(digest).and_then(|id| self.join_token(id))
    }

    /// One join token by its id.
    pub fn join_token(&self, id: &str) -> Option<&Arc<JoinToken>> {
        self.access.joins.get(id)
    }

    /// Certificate authorities that nodes trust, the oldest first; the last one signs.
    pub fn authorities(&self) -> &[Arc<Authority>] {
        &self.access.authorities
    }

    /// Certificates of nodes that were issued before count no more, whoever's.
    pub fn certificates_from(&self) -> Timestamp {
        self.access.certificates_from
    }

    /// Up to when certificates of a coordinator or worker count no more.
    pub fn revocation(&self, node: &Principal) -> Option<&Revocation> {
        self.access.revocations.get(node)
    }

    /// Rises whenever anything of users, roles, tokens, authorities or revocations changed.
    pub fn access_version(&self) -> u64 {
        self.access.version
    }

    /// True when somebody with the roles `granting` may give `roles`: nobody gives what they lack.
    pub fn may_grant(granting: &BTreeSet<Grant>, roles: &BTreeSet<Grant>) -> bool {
        roles.iter().all(|role| types::covers(granting, role))
    }

    /// True when without this one nobody could give roles any more. Users of identity providers do not count: what their
    /// providers say of them can change at any time.
    pub(crate) fn is_last_owner(&self, name: &str) -> bool {
        let own = self.users().filter(|user| provider_of(&user.name).is_none());
        let mut owners = own.filter(|user| user.roles.contains(&Role::Owner.into()));
        owners.next().is_some_and(|owner| owner.name == name) && owners.next().is_none()
    }
}
