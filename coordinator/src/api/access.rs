//! `muster.v1.Access`: nodes that join, users, roles, tokens, and the audit trail.

use super::{Context, caller};
use crate::gate;
use cluster_state::{Command, JoinToken, State};
use futures::stream::BoxStream;
use identity::{Secret, SecretKind, Subject};
use proto::v1;
use proto::v1::access_server::Access;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use types::{Admits, Caller, CoordinatorId, Permission, Principal, Timestamp, WorkerId};

pub(crate) mod audit;
mod authority;
mod join;
mod providers;
mod roles;
mod tokens;
mod users;
mod workspaces;

pub(crate) use join::Signer;

const ACCESS: &str = "muster.v1.Access";
const JOIN_LIFE: Duration = Duration::from_hours(1);
const JOIN_LIFE_MAX: Duration = Duration::from_hours(24);

/// Who is who and who may do what.
pub(crate) struct Service(pub(crate) Context);

#[tonic::async_trait]
impl Access for Service {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let caller = caller(&request)?;
        let result = join::join(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "Join", result)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let caller = caller(&request)?;
        let result = join::renew(&self.0, &caller, request.into_inner()).await;
        self.0.observe(ACCESS, "Renew", result)
    }

    async fn authorities(
        &self,
        _request: Request<v1::AuthoritiesRequest>,
    ) -> Result<Response<v1::AuthoritiesResponse>, Status> {
        let result = self.0.read(false).await.map(|state| authority::list(&state, &self.0.signer));
        self.0.observe(ACCESS, "Authorities", result)
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::AuthoritiesResponse>, Status> {
        let caller = caller(&request)?;
        let result = authority::rotate(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "RotateAuthority", result)
    }

    async fn retire_authority(
        &self,
        request: Request<v1::RetireAuthorityRequest>,
    ) -> Result<Response<v1::AuthoritiesResponse>, Status> {
        let caller = caller(&request)?;
        let result = authority::retire(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "RetireAuthority", result)
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let caller = caller(&request)?;
        self.0.observe(ACCESS, "WhoAmI", Ok(who_am_i(&self.0.node.state(), &caller)))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let caller = caller(&request)?;
        let result = create_join_token(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "CreateJoinToken", result)
    }

    async fn audit_head(&self, _: Request<v1::AuditHeadRequest>) -> Result<Response<v1::SignedAuditHead>, Status> {
        let result = audit::head(&self.0).await;
        self.0.observe(ACCESS, "AuditHead", result)
    }

    async fn revoke_node(
        &self,
        request: Request<v1::RevokeNodeRequest>,
    ) -> Result<Response<v1::RevokeNodeResponse>, Status> {
        let caller = caller(&request)?;
        let result = revoke_node(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "RevokeNode", result)
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = caller(&request)?;
        let result = tokens::create(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "CreateToken", result)
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let caller = caller(&request)?;
        let result = tokens::list(&self.0, &caller, &request.into_inner().user).await;
        self.0.observe(ACCESS, "ListTokens", result)
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let caller = caller(&request)?;
        let result = tokens::revoke(&self.0, caller, request.into_inner().id).await;
        self.0.observe(ACCESS, "RevokeToken", result)
    }

    async fn list_users(
        &self,
        _request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let result =
            self.0.read(false).await.map(|state| v1::ListUsersResponse {
                users: state.users().map(|one| users::wire(&state, one)).collect(),
            });
        self.0.observe(ACCESS, "ListUsers", result)
    }

    async fn set_user(&self, request: Request<v1::SetUserRequest>) -> Result<Response<v1::User>, Status> {
        let caller = caller(&request)?;
        let result = users::set(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "SetUser", result)
    }

    async fn change_roles(&self, request: Request<v1::ChangeRolesRequest>) -> Result<Response<v1::User>, Status> {
        let caller = caller(&request)?;
        let result = users::change_roles(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "ChangeRoles", result)
    }

    async fn list_roles(&self, _: Request<v1::ListRolesRequest>) -> Result<Response<v1::ListRolesResponse>, Status> {
        let result = self.0.read(false).await.map(|state| roles::list(&state));
        self.0.observe(ACCESS, "ListRoles", result)
    }

    async fn set_role(&self, request: Request<v1::SetRoleRequest>) -> Result<Response<v1::RoleInfo>, Status> {
        let caller = caller(&request)?;
        let result = roles::set(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "SetRole", result)
    }

    async fn remove_role(
        &self,
        request: Request<v1::RemoveRoleRequest>,
    ) -> Result<Response<v1::RemoveRoleResponse>, Status> {
        let caller = caller(&request)?;
        let command = Command::RemoveRole { name: request.into_inner().name };
        let result = self.0.write_as(caller, command).await.map(|_| v1::RemoveRoleResponse {});
        self.0.observe(ACCESS, "RemoveRole", result)
    }

    async fn list_workspaces(
        &self,
        request: Request<v1::ListWorkspacesRequest>,
    ) -> Result<Response<v1::ListWorkspacesResponse>, Status> {
        let caller = caller(&request)?;
        let result = self.0.read(false).await.map(|state| workspaces::list(&state, &caller.principal));
        self.0.observe(ACCESS, "ListWorkspaces", result)
    }

    async fn set_workspace(
        &self,
        request: Request<v1::SetWorkspaceRequest>,
    ) -> Result<Response<v1::WorkspaceInfo>, Status> {
        let caller = caller(&request)?;
        let result = workspaces::set(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "SetWorkspace", result)
    }

    async fn remove_workspace(
        &self,
        request: Request<v1::RemoveWorkspaceRequest>,
    ) -> Result<Response<v1::RemoveWorkspaceResponse>, Status> {
        let caller = caller(&request)?;
        let result = workspaces::remove(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "RemoveWorkspace", result)
    }

    async fn remove_user(
        &self,
        request: Request<v1::RemoveUserRequest>,
    ) -> Result<Response<v1::RemoveUserResponse>, Status> {
        let caller = caller(&request)?;
        let result = users::remove(&self.0, caller, request.into_inner().name).await;
        self.0.observe(ACCESS, "RemoveUser", result)
    }

    async fn list_providers(
        &self,
        _: Request<v1::ListProvidersRequest>,
    ) -> Result<Response<v1::ListProvidersResponse>, Status> {
        let result = self.0.read(false).await.map(|state| providers::list(&state));
        self.0.observe(ACCESS, "ListProviders", result)
    }

    async fn set_provider(&self, request: Request<v1::SetProviderRequest>) -> Result<Response<v1::Provider>, Status> {
        let caller = caller(&request)?;
        let result = providers::set(&self.0, caller, request.into_inner()).await;
        self.0.observe(ACCESS, "SetProvider", result)
    }

    async fn remove_provider(
        &self,
        request: Request<v1::RemoveProviderRequest>,
    ) -> Result<Response<v1::RemoveProviderResponse>, Status> {
        let caller = caller(&request)?;
        let result = providers::remove(&self.0, caller, request.into_inner().name).await;
        self.0.observe(ACCESS, "RemoveProvider", result)
    }

    type AuditHeadsStream = BoxStream<'static, Result<v1::SignedAuditHead, Status>>;

    async fn audit_heads(
        &self,
        request: Request<v1::AuditHeadsRequest>,
    ) -> Result<Response<Self::AuditHeadsStream>, Status> {
        let result = audit::heads(&self.0, request.into_inner()).await;
        self.0.observe(ACCESS, "AuditHeads", result)
    }

    type AuditStream = BoxStream<'static, Result<v1::AuditRecord, Status>>;

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<Self::AuditStream>, Status> {
        let result = audit::audit(&self.0, request.into_inner()).await;
        self.0.observe(ACCESS, "Audit", result)
    }
}

fn who_am_i(state: &State, caller: &Caller) -> v1::WhoAmIResponse {
    let roles = gate::roles(state, &caller.principal);
    // What is given in a workspace only says in which.
    let given = Permission::ALL.iter().flat_map(|permission| {
        let grants = roles.clone().filter(|grant| grant.gives_somewhere(*permission));
        let everywhere = grants.clone().any(|grant| grant.gives(*permission));
        let places = grants.filter(move |_| !everywhere).filter_map(|grant| grant.workspace.as_ref());
        let places: BTreeSet<_> = places.map(|place| format!("{permission}@{place}")).collect();
        everywhere.then(|| permission.to_string()).into_iter().chain(places)
    });
    let token = match &caller.principal {
        Principal::User { token, .. } => state.token(token),
        _ => None,
    };
    v1::WhoAmIResponse {
        principal: caller.principal.to_string(),
        permissions: given.collect(),
        roles: roles.clone().map(ToString::to_string).collect(),
        token_id: token.map(|token| token.id.clone()).unwrap_or_default(),
        token_expires_ms: token.map_or(0, |token| token.expires.0),
        authority: state.authorities().last().map(|one| one.fingerprint.to_vec().into()).unwrap_or_default(),
    }
}

/// A life within its bound; the default for 0.
fn life(asked_ms: u64, default: Duration, most: Duration) -> Result<u64, Status> {
    let most = most.as_millis() as u64;
    match asked_ms {
        0 => Ok(default.as_millis() as u64),
        asked if asked <= most => Ok(asked),
        _ => Err(Status::invalid_argument(format!("a life of {asked_ms} ms is more than the most, {most} ms"))),
    }
}

/// A name for a token that is no secret.
pub(crate) fn token_id() -> Result<String, Status> {
    let random = daemon::random::bytes::<6>().map_err(|error| Status::internal(error.to_string()))?;
    Ok(format!("{:012x}", random.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte))))
}

fn secret(state: &State, kind: SecretKind) -> Result<Secret, Status> {
    let authority = state.authorities().last().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    Secret::generate(kind, identity::Fingerprint(authority.fingerprint))
        .map_err(|error| Status::internal(error.to_string()))
}

/// What admitting or revoking this kind of node needs.
fn over_nodes(context: &Context, caller: &Caller, coordinator: bool) -> Result<(), Status> {
    let needed = if coordinator { Permission::ClusterWrite } else { Permission::ComputeWrite };
    context.gate.permit(caller, needed, "nodes")
}

async fn create_join_token(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::CreateJoinTokenRequest,
) -> Result<v1::CreateJoinTokenResponse, Status> {
    over_nodes(context, &caller, request.coordinator)?;
    let admits = match (request.coordinator, request.worker.as_str()) {
        (true, "") => Admits::Coordinator,
        (true, _) => {
            return Err(Status::invalid_argument("a token is for a coordinator or for a worker, not for both"));
        }
        (false, "") => Admits::Worker(None),
        (false, name) => Admits::Worker(Some(worker_id(name)?)),
    };
    let now = daemon::clock::now();
    let secret = secret(&context.node.state(), SecretKind::Join)?;
    let made = JoinToken {
        id: token_id()?,
        digest: secret.digest(),
        admits,
        created_by: caller.principal.to_string(),
        created: now,
        expires: Timestamp(now.0 + life(request.life_ms, JOIN_LIFE, JOIN_LIFE_MAX)?),
        used: None,
        used_by: None,
    };
    let (id, expires_ms) = (made.id.clone(), made.expires.0);
    context.write_as(caller, Command::CreateJoinToken { token: made }).await?;
    Ok(v1::CreateJoinTokenResponse { id, token: secret.expose(), expires_ms })
}

fn worker_id(name: &str) -> Result<WorkerId, Status> {
    WorkerId::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
}

async fn revoke_node(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::RevokeNodeRequest,
) -> Result<v1::RevokeNodeResponse, Status> {
    use v1::revoke_node_request::Node;
    let node = match request.node {
        Some(Node::Worker(name)) => Principal::Worker(worker_id(&name)?),
        Some(Node::Coordinator(id)) => Principal::Coordinator(CoordinatorId(id)),
        None => return Err(Status::invalid_argument("no node is named")),
    };
    over_nodes(context, &caller, matches!(node, Principal::Coordinator(_)))?;
    context.write_as(caller, Command::RevokeNode { node }).await?;
    Ok(v1::RevokeNodeResponse {})
}
