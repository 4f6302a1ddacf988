//! Tokens of users: made, listed and taken back; nobody makes one that may do more than they may.

use super::super::Context;
use super::{life, secret, token_id, users};
use crate::gate;
use cluster_state::{ApiToken, Command};
use identity::SecretKind;
use proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use types::{Caller, Permission, Principal, Timestamp};

const TOKEN_LIFE: Duration = Duration::from_hours(30 * 24);
const TOKEN_LIFE_MAX: Duration = Duration::from_hours(366 * 24);
/// Longest note of a token in bytes.
const NOTE_BYTES_MAX: usize = 200;

fn wire(token: &ApiToken, used: Option<Timestamp>) -> v1::Token {
    v1::Token {
        id: token.id.clone(),
        user: token.user.clone(),
        note: token.note.clone(),
        created_ms: token.created.0,
        used_ms: used.map_or(0, |used| used.0),
        expires_ms: token.expires.0,
        roles: token.roles.as_ref().map(users::texts).unwrap_or_default(),
    }
}

/// The user that is meant, where the caller may act for it: oneself always, others with the permission.
fn whose(context: &Context, caller: &Caller, named: &str, needed: Permission) -> Result<String, Status> {
    let own = match &caller.principal {
        Principal::User { name, .. } => name.as_str(),
        _ => "",
    };
    let named = if named.is_empty() { own } else { named };
    if named.is_empty() {
        return Err(Status::invalid_argument("a node has no tokens: name a user"));
    }
    if named != own {
        context.gate.permit(caller, needed, "tokens")?;
    }
    Ok(named.to_owned())
}

pub(super) async fn create(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, Status> {
    let user = whose(context, &caller, &request.user, Permission::AccessWrite)?;
    if request.note.len() > NOTE_BYTES_MAX {
        return Err(Status::invalid_argument(format!("the note has more than {NOTE_BYTES_MAX} bytes")));
    }
    let (state, now) = (context.read(false).await?, daemon::clock::now());
    let known = state.user(&user).ok_or_else(|| Status::not_found(format!("there is no user {user:?}")))?;
    let roles = (!request.roles.is_empty()).then(|| users::grants(&state, &request.roles)).transpose()?;
    if let Some(beyond) = roles.iter().flatten().find(|role| !types::covers(&known.roles, role)) {
        return Err(Status::invalid_argument(format!("user/{user} is no {beyond}: a token gives what its user has")));
    }
    // Without roles of its own it gives all that its user may do: nobody makes one that may do more than they may.
    users::grantable(&state, &caller, roles.as_ref().unwrap_or(&known.roles))?;
    let secret = secret(&state, SecretKind::Access)?;
    let made = ApiToken {
        id: token_id()?,
        user,
        digest: secret.digest(),
        note: request.note,
        created: now,
        expires: Timestamp(now.0 + life(request.life_ms, TOKEN_LIFE, TOKEN_LIFE_MAX)?),
        roles,
    };
    let made_wire = wire(&made, None);
    context.write_as(caller, Command::CreateToken { token: made }).await?;
    Ok(v1::CreateTokenResponse { token: Some(made_wire), secret: secret.expose() })
}

pub(super) async fn list(context: &Context, caller: &Caller, named: &str) -> Result<v1::ListTokensResponse, Status> {
    let state = context.read(false).await?;
    let all = named.is_empty() && gate::may(&state, &caller.principal, Permission::AccessRead);
    let only = if all { None } else { Some(whose(context, caller, named, Permission::AccessRead)?) };
    let seen = state.tokens().filter(|token| only.as_ref().is_none_or(|user| token.user == *user));
    let mut tokens: Vec<v1::Token> = seen.map(|one| wire(one, state.token_used(&one.id))).collect();
    tokens.sort_by(|a, b| (&a.user, a.created_ms, &a.id).cmp(&(&b.user, b.created_ms, &b.id)));
    Ok(v1::ListTokensResponse { tokens })
}

pub(super) async fn revoke(
    context: &Context,
    caller: Arc<Caller>,
    id: String,
) -> Result<v1::RevokeTokenResponse, Status> {
    let state = context.read(false).await?;
    let missing = || Status::not_found(format!("there is no token {id:?}"));
    let user = &state.token(&id).ok_or_else(missing)?.user;
    // Whoever may not see it is told what they would be told if it were not there.
    whose(context, &caller, user, Permission::AccessWrite).map_err(|_| missing())?;
    let is_own = matches!(&caller.principal, Principal::User { name, .. } if name == user);
    if !is_own {
        users::grantable(&state, &caller, state.roles_of(user))?;
    }
    context.write_as(caller, Command::RevokeToken { id: id.clone() }).await?;
    Ok(v1::RevokeTokenResponse {})
}
