//! What the audit trail calls a command, and what it says that it was done to; never a secret nor the digest of one.

use crate::{Command, KeyId, MemberChange, State, is_token_id};
use std::collections::BTreeSet;
use std::fmt::Display;
use types::{ContentHash, CustomRole, Permission, Principal};

impl Command {
    /// Kind of thing and what is done with it; of a command in somebody's name, what that one does.
    pub fn action(&self) -> &'static str {
        match self {
            Command::FormCluster { .. } => "cluster/form",
            Command::SubmitJob { .. } => "jobs/submit",
            Command::CancelJob { .. } => "jobs/cancel",
            Command::SetPriority { .. } => "jobs/priority",
            Command::RegisterWorker { .. } => "workers/register",
            Command::SetAvailability { .. } => "workers/availability",
            Command::LoseWorker { .. } => "workers/lose",
            Command::PlanWindow { .. } => "workers/window",
            Command::Taint { .. } => "workers/taint",
            Command::CommitPlan { .. } => "plans/commit",
            Command::NotePromises { .. } => "plans/promise",
            Command::StartAttempt { .. } => "attempts/start",
            Command::EndMember { .. } => "attempts/end-member",
            Command::StopAttempt { .. } => "attempts/stop",
            Command::RecordCheckpoint { .. } => "attempts/checkpoint",
            Command::SetQueue { .. } => "queues/set",
            Command::DeleteQueue { .. } => "queues/delete",
            Command::As { command, .. } => command.action(),
            Command::NoteMembers { change: MemberChange::Add(_) } => "members/add",
            Command::NoteMembers { change: MemberChange::Remove(_) } => "members/remove",
            Command::NoteMembers { change: MemberChange::Transfer(_) } => "leadership/transfer",
            Command::NoteDenials { .. } => "audit/denials",
            Command::AddAuthority { .. } => "authorities/add",
            Command::RetireAuthority { .. } => "authorities/retire",
            Command::SetUser { .. } => "users/set",
            Command::RemoveUser { .. } => "users/remove",
            Command::CreateToken { .. } => "tokens/create",
            Command::RevokeToken { .. } => "tokens/revoke",
            Command::NoteTokensUsed { .. } => "tokens/use",
            Command::CreateJoinToken { .. } => "join-tokens/create",
            Command::UseJoinToken { .. } => "join-tokens/use",
            Command::RevokeNode { .. } => "nodes/revoke",
            Command::SetSecret { .. } => "secrets/set",
            Command::ShareSecret { .. } => "secrets/share",
            Command::RemoveSecret { .. } => "secrets/remove",
            Command::BeginKeyExchange { .. } => "secrets-key/begin",
            Command::NoteKeyHeld { .. } => "secrets-key/hold",
            Command::ResealSecrets { .. } => "secrets-key/reseal",
            Command::EndKeyExchange { .. } => "secrets-key/end",
            Command::NoteSecretsUsed { .. } => "secrets/use",
            Command::NoteBackup => "cluster/backup",
            Command::KeepJob { keep: true, .. } => "jobs/keep",
            Command::KeepJob { keep: false, .. } => "jobs/release",
            Command::ForgetStreams { .. } => "jobs/forget-streams",
            Command::SetProvider { .. } => "providers/set",
            Command::RemoveProvider { .. } => "providers/remove",
            Command::LogIn(_) => "users/log-in",
            Command::KeepAuditHead(_) => "audit/sign",
            Command::SetWorkspace { .. } => "workspaces/set",
            Command::RemoveWorkspace { .. } => "workspaces/remove",
            Command::SetRole { .. } => "roles/set",
            Command::RemoveRole { .. } => "roles/remove",
            Command::ChangeRoles { .. } => "users/roles",
        }
    }

    /// What it is done to, as the tables know it before it is done.
    pub(crate) fn object(&self, state: &State) -> String {
        match self {
            Command::FormCluster { cluster } => cluster.to_string(),
            Command::SubmitJob { request, .. } => format!("request {request}"),
            Command::CancelJob { job }
            | Command::SetPriority { job, .. }
            | Command::KeepJob { job, .. }
            | Command::StartAttempt { job, .. }
            | Command::StopAttempt { job, .. } => job.to_string(),
            Command::EndMember { key, .. } | Command::RecordCheckpoint { key, .. } => key.job.to_string(),
            Command::RegisterWorker { registration } => registration.worker.to_string(),
            Command::SetAvailability { worker, .. }
            | Command::LoseWorker { worker, .. }
            | Command::PlanWindow { worker, .. }
            | Command::Taint { worker, .. } => worker.to_string(),
            Command::CommitPlan { gangs, .. } => format!("{} gangs", gangs.len()),
            Command::ForgetStreams { jobs } => format!("{} jobs", jobs.len()),
            Command::KeepAuditHead(head) => format!("record {}", head.number),
            Command::NotePromises { promises } => format!("{} jobs", promises.len()),
            Command::SetQueue { queue, .. } => queue.name.clone(),
            Command::DeleteQueue { name }
            | Command::SetUser { name, .. }
            | Command::RemoveUser { name }
            | Command::RemoveSecret { name }
            | Command::RemoveProvider { name }
            | Command::RemoveRole { name } => name.clone(),
            Command::As { command, .. } => command.object(state),
            Command::NoteMembers { change } => match change {
                MemberChange::Add(id) | MemberChange::Remove(id) | MemberChange::Transfer(Some(id)) => {
                    Principal::Coordinator(*id).to_string()
                }
                MemberChange::Transfer(None) => "any coordinator".to_owned(),
            },
            Command::NoteDenials { denials } => format!("{} denials", denials.len()),
            Command::AddAuthority { .. } => "authority".to_owned(),
            Command::RetireAuthority { fingerprint } => ContentHash(*fingerprint).to_string(),
            Command::CreateToken { token } => format!("{}/{}", token.user, token_id(&token.id)),
            Command::NoteTokensUsed { used } => format!("{} tokens", used.len()),
            Command::RevokeToken { id } => {
                state.token(id).map_or_else(|| token_id(id).to_owned(), |token| format!("{}/{id}", token.user))
            }
            Command::CreateJoinToken { token } => format!("{} for {}", token_id(&token.id), token.admits),
            Command::UseJoinToken { digest, as_whom } => match state.join_token_by_digest(digest) {
                Some(token) => format!("{} as {as_whom}", token.id),
                None => format!("unknown token as {as_whom}"),
            },
            Command::RevokeNode { node } => node.to_string(),
            Command::SetSecret { name, version, .. } => format!("{name} version {version}"),
            Command::ShareSecret { name, add, remove } => changed(name, add, remove),
            Command::ChangeRoles { name, add, remove } => changed(name, add, remove),
            Command::SetWorkspace { name, .. } | Command::RemoveWorkspace { name } => name.to_string(),
            Command::SetRole { role, .. } => role_text(role),
            Command::BeginKeyExchange { to } | Command::EndKeyExchange { to } => key(*to),
            Command::NoteKeyHeld { to, by } => format!("{} at {}", key(*to), Principal::Coordinator(*by)),
            Command::ResealSecrets { to, secrets } => format!("{} secrets under {}", secrets.len(), key(*to)),
            Command::NoteSecretsUsed { job, names } => format!("{} for job {job}", names.join(", ")),
            Command::NoteBackup => "tables and keys".to_owned(),
            Command::SetProvider { provider } => provider.name.clone(),
            Command::LogIn(log_in) => format!("{}:{}", log_in.provider, log_in.user),
        }
    }
}

/// What a role gives, whole within a record's bound: of most permissions those that are missing.
fn role_text(role: &CustomRole) -> String {
    let text = |given: bool| {
        let named = Permission::ALL.iter().filter(|permission| role.permissions.contains(permission) == given);
        named.map(|permission| permission.name()).collect::<Vec<_>>().join(", ")
    };
    match Permission::ALL.len() - role.permissions.len() {
        0 => format!("{} gives everything", role.name),
        missing if missing < role.permissions.len() => format!("{} gives all but {}", role.name, text(false)),
        _ => format!("{} gives {}", role.name, text(true)),
    }
}

/// `NAME +ADDED -REMOVED`.
fn changed<T: Display>(name: &str, add: &BTreeSet<T>, remove: &BTreeSet<T>) -> String {
    let added = add.iter().map(|one| format!(" +{one}"));
    let removed = remove.iter().map(|one| format!(" -{one}"));
    [name.to_owned()].into_iter().chain(added).chain(removed).collect()
}

/// A key by what names it.
fn key(id: KeyId) -> String {
    format!("key {:016x}", u64::from_be_bytes(id))
}

/// Somebody may have taken a secret for an id.
fn token_id(text: &str) -> &str {
    if is_token_id(text) { text } else { "(no id of a token)" }
}
