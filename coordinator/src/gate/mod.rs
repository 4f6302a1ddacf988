//! The one place where callers are known and allowed or refused: every call on the gRPC port passes it, and `/metrics`.
//!
//! ```text
//!  certificate or token ─> who ─> roles ─> does the method's `needs` allow it? ─ no ─> refused, and into the audit trail
//!                                                 │ yes                 └─ looked at again whenever access changes, for
//!                                                 v                        as long as a stream is open
//!                                            the service, with `Caller` in the request's extensions
//! ```
//!
//! Default deny. A token that this copy of the tables does not know is looked for once more in a copy that is surely recent.

mod denials;
mod federation;
mod guard;
mod key_sets;
mod quotas;
mod strangers;
mod uses;

pub(crate) use guard::{GuardLayer, bearer};
pub(crate) use quotas::Quota;

use crate::observe::{Denied, Observed};
use crate::raft::Node;
use cluster_state::State;
use denials::Denials;
use federation::{Failure, Federation};
use identity::{Peer, digest};
use proto::needs::{Method, method};
use quotas::{Permit, Quotas};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use strangers::Strangers;
use tokio::sync::watch;
use tonic::Status;
use types::{Caller, Grant, Permission, Principal, Timestamp};
use uses::Uses;

/// Health checks: they say no more than that a coordinator serves.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Reflection: the public API's description, for whoever is known.
const REFLECTION: &str = "/grpc.reflection.";

const UNKNOWN_TOKEN: &str = "the token is unknown, revoked or expired";
const REVOKED: &str = "its certificate was revoked";

/// Knows callers and what they may do. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    node: Node,
    denials: Denials,
    uses: Uses,
    strangers: Arc<Strangers>,
    quotas: Quotas,
    federation: Federation,
    /// Rises with every change of users, tokens, roles and revocations.
    version: watch::Receiver<u64>,
    observed: Arc<Observed>,
}

/// What a path asks of its caller.
#[derive(Clone, Copy)]
enum Wanted {
    Nothing,
    Known,
    Method(&'static Method),
}

impl Gate {
    /// Watches the tables from now on.
    pub(crate) fn new(node: Node, observed: Arc<Observed>, quota: Quota) -> Self {
        let (sender, version) = watch::channel(node.look(State::access_version));
        tokio::spawn(follow(node.clone(), sender));
        let denials = Denials::start(node.clone(), observed.clone());
        let (uses, federation) = (Uses::start(node.clone()), Federation::new(node.clone()));
        let (strangers, quotas) = (Arc::default(), Quotas::new(quota));
        Self { node, denials, uses, strangers, quotas, federation, version, observed }
    }

    /// Who calls: by the certificate of the connection, or by the token of the call.
    pub(crate) async fn identify(&self, peer: &Peer, bearer: Option<&str>) -> Result<Caller, Status> {
        let from = peer.from.map(|address| address.to_string()).unwrap_or_default();
        let principal = match (&peer.node, bearer) {
            (Some((subject, issued)), _) => {
                let principal = subject.principal();
                if self.node.cluster().is_some_and(|cluster| cluster != subject.cluster()) {
                    return Err(Status::unauthenticated(format!("{subject} belongs to another cluster")));
                }
                if self.node.look(|state| is_revoked(state, &principal, *issued)) {
                    let caller = Caller { principal, from };
                    return Err(self.reject(Denied::Certificate, caller, REVOKED, REVOKED));
                }
                principal
            }
            (None, Some(bearer)) => {
                let user = self.bearer(peer, bearer).await?;
                peer.proved();
                user
            }
            (None, None) => Principal::Stranger,
        };
        Ok(Caller { principal, from })
    }

    async fn bearer(&self, peer: &Peer, bearer: &str) -> Result<Principal, Status> {
        let digest = digest(bearer);
        let now = daemon::clock::now();
        if let Some((user, last)) = self.node.look(|state| user_and_use(state, &digest, now)) {
            self.uses.note(&user, last, now);
            return Ok(user);
        }
        self.strangers.admit(peer.from, now).inspect_err(|_| self.observed.denied(Denied::Throttled))?;
        let recent = self.node.linearizable().await.map_err(|error| Status::unavailable(error.to_string()))?;
        if recent.authorities().is_empty() {
            return Err(Status::unavailable("the cluster is being formed"));
        }
        if let Some((user, last)) = user_and_use(&recent, &digest, now) {
            self.uses.note(&user, last, now);
            return Ok(user);
        }
        let from = peer.from.map(|address| address.to_string()).unwrap_or_default();
        let (told, noted) = match self.federation.log_in(&recent, bearer, &from).await {
            Ok(user) => return Ok(user),
            Err(Failure::NotOne) => (UNKNOWN_TOKEN.to_owned(), UNKNOWN_TOKEN),
            Err(Failure::Unavailable(why)) => return Err(Status::unavailable(why)),
            Err(Failure::Refused { told, noted }) => (told, noted),
        };
        self.strangers.failed(peer.from, now);
        let stranger = Caller { principal: Principal::Stranger, from };
        Err(self.reject(Denied::Token, stranger, &told, noted))
    }

    /// Refuses who is not known.
    fn reject(&self, kind: Denied, caller: Caller, told: &str, noted: &'static str) -> Status {
        self.denials.note(kind, caller, "call", "", noted);
        Status::unauthenticated(format!("{told}: `muster login` with a token that counts"))
    }

    /// Lets the caller through to the method of this path, or refuses in words that say what would be needed.
    fn allow(&self, caller: &Caller, path: &str) -> Result<(), Status> {
        let wanted = wanted(path)?;
        let Err(status) = self.node.look(|state| allowed(state, caller, wanted)) else { return Ok(()) };
        // One kind for each address, whatever it calls: nobody unknown can fill the trail, which keeps the newest records only.
        let action = match caller.principal {
            Principal::Stranger => "call",
            _ => path.trim_start_matches('/'),
        };
        self.denials.note(kind_of(caller), caller.clone(), action, "", status.message());
        Err(status)
    }

    /// Lets a user make one more call, for as long as the permit is held; the trail has it when there are too many.
    fn one_more(&self, caller: &Caller, path: &str, is_stream: bool) -> Result<Option<Permit>, Status> {
        let Principal::User { name, .. } = &caller.principal else { return Ok(None) };
        self.quotas.admit(name, is_stream, tokio::time::Instant::now()).map(Some).map_err(|exceeded| {
            if exceeded.is_news {
                let action = path.trim_start_matches('/');
                self.denials.note(Denied::Quota, caller.clone(), action, "", exceeded.status.message());
            } else {
                self.observed.denied(Denied::Quota);
            }
            exceeded.status
        })
    }

    /// Lets the caller have what no gRPC method stands for.
    pub(crate) fn permit(&self, caller: &Caller, permission: Permission, what: &str) -> Result<(), Status> {
        if self.node.look(|state| may(state, &caller.principal, permission)) {
            return Ok(());
        }
        let status = refusal(caller, permission.name());
        self.denials.note(kind_of(caller), caller.clone(), what, "", status.message());
        Err(status)
    }

    /// Refuses what this caller may not have of a method that it may call otherwise; the trail has it.
    pub(crate) fn deny(&self, caller: &Caller, action: &'static str, object: &str, why: String) -> Status {
        self.denials.note(Denied::Permission, caller.clone(), action, object, &why);
        Status::permission_denied(why)
    }

    /// The trail has it that this caller asked for something of a workspace that it may not see.
    pub(crate) fn hide(&self, caller: &Caller, object: String) {
        self.denials.note(Denied::Permission, caller.clone(), "workspaces/look", &object, "no role gives it there");
    }

    /// What its user may do now; nothing for who is no user.
    fn grants(&self, caller: &Caller) -> BTreeSet<Grant> {
        self.node.look(|state| roles(state, &caller.principal).cloned().collect())
    }

    /// The method of this path was answered after so long.
    fn took(&self, path: &str, took: Duration) {
        if let Some(method) = method(path) {
            self.observed.took(method.path, took);
        }
    }

    /// How long the token of the caller counts from now on; nothing for who has none.
    fn remaining(&self, caller: &Caller) -> Option<Duration> {
        let Principal::User { token, .. } = &caller.principal else { return None };
        let expires = self.node.look(|state| state.token(token).map(|token| token.expires))?;
        Some(Duration::from_millis(expires.0.saturating_sub(daemon::clock::now().0)))
    }

    /// Is what was allowed when a stream began still allowed? Asked when access has changed.
    fn still(&self, peer: &Peer, caller: &Caller, path: &str, then: &BTreeSet<Grant>) -> Result<(), Status> {
        let ended = || Status::permission_denied("access was taken back while the stream was open");
        // Of which workspace the stream is, only its method knows: its caller asks again, and the method looks again.
        let less = || Status::unavailable("roles were taken back while the stream was open");
        let (wanted, now) = (wanted(path)?, daemon::clock::now());
        self.node.look(|state| {
            if peer.node.as_ref().is_some_and(|(_, issued)| is_revoked(state, &caller.principal, *issued)) {
                return Err(ended());
            }
            if let Principal::User { token, .. } = &caller.principal
                && state.token(token).is_none_or(|token| token.expires <= now)
            {
                return Err(ended());
            }
            allowed(state, caller, wanted).map_err(|_| ended())?;
            let now = roles(state, &caller.principal).cloned().collect();
            if State::may_grant(&now, then) { Ok(()) } else { Err(less()) }
        })
    }
}

fn kind_of(refused: &Caller) -> Denied {
    match refused.principal {
        Principal::Stranger => Denied::NoCredentials,
        _ => Denied::Permission,
    }
}

fn wanted(path: &str) -> Result<Wanted, Status> {
    match method(path) {
        Some(method) => Ok(Wanted::Method(method)),
        None if path.starts_with(HEALTH) => Ok(Wanted::Nothing),
        None if path.starts_with(REFLECTION) => Ok(Wanted::Known),
        None => Err(Status::unimplemented(format!("there is no method {path}"))),
    }
}

fn allowed(state: &State, caller: &Caller, wanted: Wanted) -> Result<(), Status> {
    let known = !matches!(caller.principal, Principal::Stranger);
    match wanted {
        Wanted::Nothing => Ok(()),
        Wanted::Known if known => Ok(()),
        Wanted::Known => Err(refusal(caller, "a token or a node's certificate")),
        Wanted::Method(method) if method.allows(&caller.principal, roles(state, &caller.principal)) => Ok(()),
        Wanted::Method(method) => Err(refusal(caller, &method.wanted())),
    }
}

fn refusal(caller: &Caller, needs: &str) -> Status {
    match caller.principal {
        Principal::Stranger => {
            Status::unauthenticated("nobody is served without a token: `muster login`, or set MUSTER_ACCESS_TOKEN")
        }
        _ => Status::permission_denied(format!("{} may not do this: it needs {needs}", caller.principal)),
    }
}

/// The user whose token has this digest, while both count.
fn user_of(state: &State, digest: &[u8; 32], now: Timestamp) -> Option<Principal> {
    let token = state.token_by_digest(digest).filter(|token| now < token.expires)?;
    Some(Principal::User { name: token.user.clone(), token: token.id.clone() })
}

/// The same, and when the token was last used.
fn user_and_use(state: &State, digest: &[u8; 32], now: Timestamp) -> Option<(Principal, Option<Timestamp>)> {
    let user = user_of(state, digest, now)?;
    let used = state.token_by_digest(digest).and_then(|token| state.token_used(&token.id));
    Some((user, used))
}

/// Does what this node shows count no more?
fn is_revoked(state: &State, node: &Principal, issued: Timestamp) -> bool {
    state.revocation(node).is_some_and(|revoked| issued <= revoked.at)
}

/// The roles that count for a caller; only users have any.
pub(crate) fn roles<'a>(state: &'a State, principal: &Principal) -> impl Iterator<Item = &'a Grant> + Clone + use<'a> {
    state.grants_of(principal)
}

/// Does some role of the caller give this of what belongs to the whole cluster?
pub(crate) fn may(state: &State, principal: &Principal, permission: Permission) -> bool {
    roles(state, principal).any(|grant| grant.gives(permission))
}

/// Tells open streams that access has changed.
async fn follow(node: Node, version: watch::Sender<u64>) {
    let mut applied = node.applied();
    let state = move || node.look(State::access_version);
    loop {
        let now = state();
        version.send_if_modified(|known| std::mem::replace(known, now) != now);
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = version.closed() => return,
        }
    }
}
