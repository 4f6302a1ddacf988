//! Who is who and who may do what: users, tokens, nodes that join, the audit trail.

use crate::call::{Patience, timed};
use crate::error::Error;
use crate::pool::{Channel, Client};
use crate::v1;
use proto::v1::access_client::AccessClient;
use tonic::{Request, Response, Status};

impl Client {
    async fn access<Q, A, F, Fut>(&self, patience: Patience, question: Q, send: F) -> Result<A, Error>
    where
        Q: Clone,
        F: Fn(AccessClient<Channel>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_for(patience, |channel, span| send(AccessClient::new(channel), timed(question.clone(), span))).await
    }

    /// As whom this client calls, and what that may do.
    pub async fn who_am_i(&self) -> Result<v1::WhoAmIResponse, Error> {
        self.access(
            self.patience,
            v1::WhoAmIRequest {},
            |mut access, request| async move { access.who_am_i(request).await },
        )
        .await
    }

    /// The certificate authorities that nodes believe, the one that signs now last.
    pub async fn authorities(&self) -> Result<Vec<v1::Authority>, Error> {
        let wanted = v1::AuthoritiesRequest {};
        let asked =
            self.access(self.patience, wanted, |mut access, request| async move { access.authorities(request).await });
        Ok(asked.await?.authorities)
    }

    /// A new authority in the place of this one, which counts until it is retired. Repeated, it does nothing more.
    pub async fn rotate_authority(&self, replaces: Vec<u8>) -> Result<Vec<v1::Authority>, Error> {
        let wanted = v1::RotateAuthorityRequest { replaces: replaces.into() };
        let asked = self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.rotate_authority(request).await
        });
        Ok(asked.await?.authorities)
    }

    /// What this authority signed counts no more; with `now` though nodes may still live by it.
    pub async fn retire_authority(&self, fingerprint: Vec<u8>, now: bool) -> Result<Vec<v1::Authority>, Error> {
        let wanted = v1::RetireAuthorityRequest { fingerprint: fingerprint.into(), now };
        let asked = self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.retire_authority(request).await
        });
        Ok(asked.await?.authorities)
    }

    /// A single-use token for a node that joins.
    pub async fn create_join_token(
        &self,
        wanted: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, Error> {
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.create_join_token(request).await
        })
        .await
    }

    /// A node's certificates count no more.
    pub async fn revoke_node(&self, node: v1::revoke_node_request::Node) -> Result<(), Error> {
        let wanted = v1::RevokeNodeRequest { node: Some(node) };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.revoke_node(request).await
        })
        .await
        .map(drop)
    }

    /// A token; its secret is in this answer and nowhere else. A lost answer leaves a token that nobody knows: revoke it.
    pub async fn create_token(&self, wanted: v1::CreateTokenRequest) -> Result<v1::CreateTokenResponse, Error> {
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.create_token(request).await
        })
        .await
    }

    /// Tokens, of one user or of all that may be seen.
    pub async fn tokens(&self, user: &str) -> Result<Vec<v1::Token>, Error> {
        let wanted = v1::ListTokensRequest { user: user.to_owned() };
        let answer =
            self.access(self.patience, wanted, |mut access, request| async move { access.list_tokens(request).await });
        answer.await.map(|answer| answer.tokens)
    }

    /// A token counts no more.
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        let wanted = v1::RevokeTokenRequest { id: id.to_owned() };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.revoke_token(request).await
        })
        .await
        .map(drop)
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<v1::User>, Error> {
        let wanted = v1::ListUsersRequest {};
        let answer =
            self.access(self.patience, wanted, |mut access, request| async move { access.list_users(request).await });
        answer.await.map(|answer| answer.users)
    }

    /// Makes a user, or gives it other roles.
    pub async fn set_user(&self, wanted: v1::SetUserRequest) -> Result<v1::User, Error> {
        self.access(
            self.patience.one_by_one(),
            wanted,
            |mut access, request| async move { access.set_user(request).await },
        )
        .await
    }

    /// Gives a user roles (`reader`, `reader@vision`) and takes others back.
    pub async fn change_roles(&self, user: &str, add: Vec<String>, remove: Vec<String>) -> Result<v1::User, Error> {
        let wanted = v1::ChangeRolesRequest { user: user.to_owned(), add, remove };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.change_roles(request).await
        })
        .await
    }

    /// All roles: the built-in ones, then the cluster's own by name.
    pub async fn roles(&self) -> Result<Vec<v1::RoleInfo>, Error> {
        let wanted = v1::ListRolesRequest {};
        let answer =
            self.access(self.patience, wanted, |mut access, request| async move { access.list_roles(request).await });
        answer.await.map(|answer| answer.roles)
    }

    /// Makes a role of the cluster's own, or changes what one gives.
    pub async fn set_role(&self, wanted: v1::SetRoleRequest) -> Result<v1::RoleInfo, Error> {
        self.access(
            self.patience.one_by_one(),
            wanted,
            |mut access, request| async move { access.set_role(request).await },
        )
        .await
    }

    /// Removes a role of the cluster's own that nobody has.
    pub async fn remove_role(&self, name: &str) -> Result<(), Error> {
        let wanted = v1::RemoveRoleRequest { name: name.to_owned() };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.remove_role(request).await
        })
        .await
        .map(drop)
    }

    /// Workspaces in which the caller may see jobs.
    pub async fn workspaces(&self) -> Result<Vec<v1::WorkspaceInfo>, Error> {
        let wanted = v1::ListWorkspacesRequest {};
        let answer = self
            .access(self.patience, wanted, |mut access, request| async move { access.list_workspaces(request).await });
        answer.await.map(|answer| answer.workspaces)
    }

    /// Makes a workspace, or notes something else of it.
    pub async fn set_workspace(&self, name: &str, note: &str) -> Result<v1::WorkspaceInfo, Error> {
        let wanted = v1::SetWorkspaceRequest { name: name.to_owned(), note: note.to_owned() };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.set_workspace(request).await
        })
        .await
    }

    /// Removes a workspace that has no jobs and in which nobody has a role.
    pub async fn remove_workspace(&self, name: &str) -> Result<(), Error> {
        let wanted = v1::RemoveWorkspaceRequest { name: name.to_owned() };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.remove_workspace(request).await
        })
        .await
        .map(drop)
    }

    /// Removes a user with all tokens.
    pub async fn remove_user(&self, name: &str) -> Result<(), Error> {
        let wanted = v1::RemoveUserRequest { name: name.to_owned() };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.remove_user(request).await
        })
        .await
        .map(drop)
    }

    /// Identity providers whose users are let in.
    pub async fn providers(&self) -> Result<Vec<v1::Provider>, Error> {
        let wanted = v1::ListProvidersRequest {};
        let answer = self
            .access(self.patience, wanted, |mut access, request| async move { access.list_providers(request).await });
        answer.await.map(|answer| answer.providers)
    }

    /// Lets the users of an identity provider in, or changes the terms.
    pub async fn set_provider(&self, provider: v1::Provider) -> Result<v1::Provider, Error> {
        let wanted = v1::SetProviderRequest { provider: Some(provider) };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.set_provider(request).await
        })
        .await
    }

    /// Lets the users of an identity provider in no more.
    pub async fn remove_provider(&self, name: &str) -> Result<(), Error> {
        let wanted = v1::RemoveProviderRequest { name: name.to_owned() };
        self.access(self.patience.one_by_one(), wanted, |mut access, request| async move {
            access.remove_provider(request).await
        })
        .await
        .map(drop)
    }

    /// Where the audit trail ends now, signed.
    pub async fn audit_head(&self) -> Result<v1::SignedAuditHead, Error> {
        self.access(self.patience, v1::AuditHeadRequest {}, |mut access, request| async move {
            access.audit_head(request).await
        })
        .await
    }
}
