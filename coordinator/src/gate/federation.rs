//! Users of identity providers: a token of theirs is checked once, by any coordinator, and from then on known to all like one of ours.

use super::key_sets::KeySets;
use super::user_of;
use crate::raft::Node;
use cluster_state::{Command, LogIn, Outcome, Provider, State};
use identity::{Claims, JwtError, is_jwt};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use types::{Caller, Principal, Timestamp, federated_name};

/// Tokens that are checked at once, the fetching of keys included; the rest wait.
const CHECKS_MAX: usize = 8;
const TAKEN_BACK: &str = "the token was taken back right after it was let in";
/// For a check to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a token lets nobody in.
pub(super) enum Failure {
    /// It is no token of an identity provider.
    NotOne,
    /// It is, and does not count.
    Refused {
        /// Why, for who showed it: may hold what the token says of itself.
        told: String,
        /// Why, for the trail: one of a few texts, so that nobody unknown can fill it.
        noted: &'static str,
    },
    /// That cannot be said at the moment.
    Unavailable(String),
}

impl From<JwtError> for Failure {
    fn from(error: JwtError) -> Self {
        let noted = match &error {
            JwtError::Form(_) => "an identity provider's token is not well formed",
            JwtError::Algorithm(_) => "an identity provider's token has an algorithm that is not taken",
            JwtError::UnknownKey(_) => "an identity provider's token is signed by an unknown key",
            JwtError::Signature => "an identity provider's token has a false signature",
            JwtError::Claims(_) => "an identity provider's token does not count here and now",
        };
        Failure::Refused { told: format!("the identity provider's token is refused: {error}"), noted }
    }
}

/// Lets users of identity providers in. Clones share their keys.
#[derive(Clone)]
pub(super) struct Federation {
    node: Node,
    keys: Arc<KeySets>,
    checks: Arc<Semaphore>,
}

impl Federation {
    pub(super) fn new(node: Node) -> Self {
        Self { node, keys: Arc::default(), checks: Arc::new(Semaphore::new(CHECKS_MAX)) }
    }

    /// Checks a token that the tables do not know, and has them know it.
    pub(super) async fn log_in(&self, state: &State, bearer: &str, from: &str) -> Result<Principal, Failure> {
        if !is_jwt(bearer) {
            return Err(Failure::NotOne);
        }
        let busy = |_| Failure::Unavailable("too many tokens of identity providers are being checked".to_owned());
        let place = tokio::time::timeout(PATIENCE, self.checks.acquire()).await.map_err(busy)?;
        let _place = place.map_err(|_| Failure::Unavailable("this coordinator is stopping".to_owned()))?;
        let (digest, now) = (identity::digest(bearer), daemon::clock::now());
        // Another call with the same token may have been before this one.
        if let Some(user) = self.node.look(|state| user_of(state, &digest, now)) {
            return Ok(user);
        }
        let claimed = Claims::unproven(bearer)?;
        let issuer = claimed.issuer().unwrap_or_default();
        let unknown = || {
            let shown: String = issuer.chars().take(100).collect();
            let told = format!("no identity provider {shown:?} is known here");
            Failure::Refused { told, noted: "no such identity provider is known here" }
        };
        let provider = state.provider_by_issuer(issuer).cloned().ok_or_else(unknown)?;
        let claims = self.prove(&provider, bearer).await?;
        let log_in = terms(&provider, &claims, digest, now)?;
        self.enter(log_in, from).await?;
        self.node
            .look(|state| user_of(state, &digest, now))
            .ok_or_else(|| Failure::Refused { told: TAKEN_BACK.to_owned(), noted: TAKEN_BACK })
    }

    /// What the token says, once its provider's signature is seen; an unknown key may be a new one.
    async fn prove(&self, provider: &Provider, bearer: &str) -> Result<Claims, Failure> {
        let keys = self.keys.of(provider, false).await.map_err(Failure::Unavailable)?;
        match Claims::proven(bearer, &keys) {
            Err(JwtError::UnknownKey(_)) => {
                let keys = self.keys.of(provider, true).await.map_err(Failure::Unavailable)?;
                Ok(Claims::proven(bearer, &keys)?)
            }
            proven => Ok(proven?),
        }
    }

    async fn enter(&self, log_in: LogIn, from: &str) -> Result<(), Failure> {
        let name = federated_name(&log_in.provider, &log_in.user).unwrap_or_default();
        let principal = Principal::User { name, token: log_in.id.clone() };
        let caller = Arc::new(Caller { principal, from: from.to_owned() });
        let command = Command::As { caller, command: Box::new(Command::LogIn(Box::new(log_in))) };
        let committed =
            self.node.propose(vec![command]).await.map_err(|error| Failure::Unavailable(error.to_string()))?;
        if let Some(Outcome::Refused(refusal)) = committed.outcomes.into_iter().next() {
            let noted = "a user of an identity provider is not let in";
            return Err(Failure::Refused { told: refusal.to_string(), noted });
        }
        // What this call may do is looked up here.
        self.node.at_least(committed.index).await.map_err(|error| Failure::Unavailable(error.to_string()))?;
        Ok(())
    }
}

/// What of the claims lets the user in.
fn terms(provider: &Provider, claims: &Claims, digest: [u8; 32], now: Timestamp) -> Result<LogIn, Failure> {
    let end = claims.check(&provider.issuer, &provider.audiences, now.0 / 1_000)?;
    let groups: BTreeSet<String> = claims
        .groups(&provider.groups_claim)
        .filter(|group| provider.groups.contains_key(*group))
        .map(str::to_owned)
        .collect();
    let id = crate::api::token_id().map_err(|status| Failure::Unavailable(status.message().to_owned()))?;
    let user = claims.user(&provider.user_claim)?.to_owned();
    let expires = Timestamp(end.saturating_mul(1_000));
    Ok(LogIn { provider: provider.name.clone(), since: provider.since, user, groups, id, digest, expires })
}
