//! Removes a workspace. One that has jobs stays, so that nobody who has its name later sees them; so does one that somebody
//! has a role in, or that has a secret.

use crate::{Outcome, Refusal, State};
use types::{Grant, Workspace};

pub(super) fn apply(state: &mut State, name: &Workspace) -> Result<Outcome, Refusal> {
    if !state.access.workspaces.contains_key(name) {
        return Err(Refusal::UnknownWorkspace(name.clone()));
    }
    let in_use = |why: String| Err(Refusal::WorkspaceInUse { name: name.clone(), why });
    if name.as_str() != Workspace::DEFAULT {
        let is_there = |grant: &Grant| grant.workspace.as_ref() == Some(name);
        match state.jobs_in(name) {
            0 => {}
            1 => return in_use("has a job, which keeps it".to_owned()),
            jobs => return in_use(format!("has {jobs} jobs, which keep it")),
        }
        if let Some(secret) = state.secrets().find(|secret| secret.workspace().as_ref() == Some(name)) {
            return in_use(format!("has secret {:?}: `muster secrets remove` forgets it", secret.name));
        }
        if let Some(user) = state.users().find(|user| user.roles.iter().any(is_there)) {
            return in_use(format!("is where user {:?} has a role: `muster users withdraw` takes it back", user.name));
        }
        if let Some(one) = state.providers().find(|one| one.groups.values().flatten().any(is_there)) {
            return in_use(format!("is where identity provider {:?} gives a role", one.name));
        }
    }
    state.access.workspaces.remove(name);
    Ok(Outcome::Done)
}
