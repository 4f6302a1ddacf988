//! One command a file; here only the switch over them.

mod add_authority;
mod as_caller;
mod cancel_job;
mod change_roles;
mod commit_plan;
mod create_join_token;
mod create_token;
mod delete_queue;
mod end_member;
mod exchange_key;
mod forget_streams;
mod form_cluster;
mod keep_audit_head;
mod keep_job;
mod log_in;
mod lose_worker;
mod note_denials;
mod note_promises;
mod note_tokens_used;
mod plan_window;
mod record_checkpoint;
mod register_worker;
mod remove_provider;
mod remove_role;
mod remove_secret;
mod remove_user;
mod remove_workspace;
mod retire_authority;
mod revoke_node;
mod revoke_token;
mod set_availability;
mod set_priority;
mod set_provider;
mod set_queue;
mod set_role;
mod set_secret;
mod set_user;
mod set_workspace;
mod share_secret;
mod start_attempt;
mod stop_attempt;
mod submit_job;
mod taint;
mod use_join_token;

use crate::{Command, Outcome, Refusal, State};
use types::{Caller, LogIndex, Timestamp};

/// Where and when a command stands in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) index: LogIndex,
    pub(crate) time: Timestamp,
}

/// `caller` is who asked; nobody when the cluster does it of itself.
pub(crate) fn apply(state: &mut State, at: At, caller: Option<&Caller>, command: &Command) -> Result<Outcome, Refusal> {
    match command {
        Command::FormCluster { cluster } => form_cluster::apply(state, *cluster),
        Command::SubmitJob { request, spec } => submit_job::apply(state, at, caller, *request, spec),
        Command::CancelJob { job } => cancel_job::apply(state, at, caller, *job),
        Command::RegisterWorker { registration } => register_worker::apply(state, at, registration),
        Command::SetAvailability { worker, availability } => set_availability::apply(state, at, worker, *availability),
        Command::LoseWorker { worker, registered_by } => lose_worker::apply(state, at, worker, *registered_by),
        Command::CommitPlan { based_on: _, gangs } => commit_plan::apply(state, at, gangs),
        Command::StartAttempt { job, token, endpoints } => start_attempt::apply(state, at, *job, *token, endpoints),
        Command::EndMember { key, token, end } => end_member::apply(state, at, *key, *token, end),
        Command::StopAttempt { job, token, cause } => stop_attempt::apply(state, at, *job, *token, cause),
        Command::RecordCheckpoint { key, token, checkpoint } => {
            record_checkpoint::apply(state, at, *key, *token, checkpoint)
        }
        Command::SetQueue { queue, how } => set_queue::apply(state, queue, *how),
        Command::DeleteQueue { name } => delete_queue::apply(state, name),
        Command::SetPriority { job, priority } => set_priority::apply(state, at, caller, *job, *priority),
        Command::KeepJob { job, keep } => keep_job::apply(state, at, caller, *job, *keep),
        Command::ForgetStreams { jobs } => Ok(forget_streams::apply(state, at, jobs)),
        Command::Taint { worker, add, remove } => taint::apply(state, worker, add, remove),
        Command::NotePromises { promises } => Ok(note_promises::apply(state, at, promises)),
        Command::PlanWindow { worker, window } => plan_window::apply(state, at, worker, *window),
        Command::As { caller, command } => as_caller::apply(state, at, caller, command),
        Command::NoteMembers { .. } | Command::NoteSecretsUsed { .. } | Command::NoteBackup => Ok(Outcome::Done),
        Command::NoteDenials { denials } => note_denials::apply(state, at, denials),
        Command::AddAuthority { certificate, vouched } => add_authority::apply(state, at, certificate, vouched),
        Command::RetireAuthority { fingerprint } => retire_authority::apply(state, fingerprint),
        Command::SetSecret { name, note, version, sealed } => {
            set_secret::apply(state, at, caller, name, note.as_deref(), *version, sealed)
        }
        Command::ShareSecret { name, add, remove } => share_secret::apply(state, caller, name, add, remove),
        Command::RemoveSecret { name } => remove_secret::apply(state, caller, name),
        Command::BeginKeyExchange { to } => exchange_key::begin(state, *to),
        Command::NoteKeyHeld { to, by } => exchange_key::hold(state, *to, *by),
        Command::ResealSecrets { to, secrets } => exchange_key::reseal(state, *to, secrets),
        Command::EndKeyExchange { to } => exchange_key::end(state, *to),
        Command::SetUser { name, roles, how, waiting_max } => {
            set_user::apply(state, at, name, roles, *how, *waiting_max)
        }
        Command::RemoveUser { name } => remove_user::apply(state, name),
        Command::CreateToken { token } => create_token::apply(state, at, token),
        Command::NoteTokensUsed { used } => note_tokens_used::apply(state, at, used),
        Command::RevokeToken { id } => revoke_token::apply(state, id),
        Command::CreateJoinToken { token } => create_join_token::apply(state, at, token),
        Command::UseJoinToken { digest, as_whom } => use_join_token::apply(state, at, digest, as_whom),
        Command::RevokeNode { node } => revoke_node::apply(state, at, caller, node),
        Command::SetProvider { provider } => set_provider::apply(state, at, provider),
        Command::RemoveProvider { name } => remove_provider::apply(state, name),
        Command::LogIn(log_in) => log_in::apply(state, at, log_in),
        Command::SetWorkspace { name, note } => set_workspace::apply(state, at, name, note),
        Command::RemoveWorkspace { name } => remove_workspace::apply(state, name),
        Command::SetRole { role, note } => set_role::apply(state, at, role, note.as_deref()),
        Command::RemoveRole { name } => remove_role::apply(state, name),
        Command::KeepAuditHead(head) => keep_audit_head::apply(state, head),
        Command::ChangeRoles { name, add, remove } => change_roles::apply(state, name, add, remove),
    }
}
