//! Random commands about who may do what, and what must hold of that and of the audit trail after every entry.

use super::super::access::token;
use super::super::audit::caller;
use super::super::federation::{log_in, provider};
use super::super::*;
use crate::{ApiToken, Denial, JoinToken, SetUser, User, verify_chain};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::{Admits, AnyRole, CoordinatorId, CustomRole, Grant, Permission, Principal, Role, Workspace, provider_of};

/// After the first a node may not come again, after the second a token is over, after the last a join token is forgotten.
pub(super) const WAITS_MS: [u64; 3] = [11 * 60_000, 40 * 60_000, 26 * 3_600_000];

/// One random step; few names, so that they meet.
#[derive(Clone, Debug)]
pub(super) enum Step {
    User(u8, Vec<Grant>, bool),
    RemoveUser(u8),
    Token(u8, u8, u8),
    RevokeToken(u8),
    UseTokens(u8),
    Join(u8, u8, u8),
    UseJoin(u8, u8),
    AddAuthority(u8),
    Retire(usize),
    Revoke(u8),
    Denials(u8),
    Provider(u8, u8),
    RemoveProvider(u8),
    LogIn(u8, u8, u8, u8),
    Workspace(u8, bool),
    Role(u8, Vec<Permission>),
    RemoveRole(u8),
    Roles(u8, Vec<Grant>, Vec<Grant>),
}

/// Of few places, one of them never made.
fn place() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 0..2_u8, 1 => Just(2)]
}

pub(super) fn workspace(n: u8) -> Workspace {
    Workspace::new(format!("s{n}")).unwrap()
}

fn roles() -> impl Strategy<Value = Vec<Grant>> {
    // Of the cluster's own roles, one of which was never made, with what they may have given once.
    let custom = (0..3_u8, permissions()).prop_map(|(n, given)| AnyRole::Custom(custom(n, given)));
    let role = prop_oneof![3 => (0..Role::ALL.len()).prop_map(|role| Role::ALL[role].into()), 1 => custom];
    let grant = (role, proptest::option::of(place()));
    let grant = grant.prop_map(|(role, at)| Grant { role, workspace: at.map(workspace) });
    proptest::collection::vec(grant, 0..3)
}

fn permissions() -> impl Strategy<Value = Vec<Permission>> {
    proptest::collection::vec(proptest::sample::select(Permission::ALL), 1..4)
}

fn custom(n: u8, given: Vec<Permission>) -> CustomRole {
    CustomRole { name: format!("r{n}"), permissions: given.into_iter().collect() }
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, roles(), any::<bool>()).prop_map(|(user, roles, new)| Step::User(user, roles, new)),
        2 => (0..3_u8).prop_map(Step::RemoveUser),
        5 => (0..3_u8, 0..4_u8, 0..4_u8).prop_map(|(user, id, secret)| Step::Token(user, id, secret)),
        1 => (0..4_u8).prop_map(Step::RevokeToken),
        2 => (0..5_u8).prop_map(Step::UseTokens),
        4 => (0..4_u8, 0..4_u8, 0..4_u8).prop_map(|(id, secret, admits)| Step::Join(id, secret, admits)),
        6 => (0..4_u8, 0..4_u8).prop_map(|(secret, node)| Step::UseJoin(secret, node)),
        1 => (0..4_u8).prop_map(Step::AddAuthority),
        1 => (0..3_usize).prop_map(Step::Retire),
        1 => (0..4_u8).prop_map(Step::Revoke),
        1 => (0..4_u8).prop_map(Step::Denials),
        2 => (0..2_u8, 0..3_u8).prop_map(|(name, terms)| Step::Provider(name, terms)),
        1 => (0..2_u8).prop_map(Step::RemoveProvider),
        3 => (0..2_u8, any::<bool>()).prop_map(|(name, make)| Step::Workspace(name, make)),
        3 => (0..2_u8, permissions()).prop_map(|(name, given)| Step::Role(name, given)),
        1 => (0..2_u8).prop_map(Step::RemoveRole),
        4 => (0..3_u8, roles(), roles()).prop_map(|(user, add, remove)| Step::Roles(user, add, remove)),
        4 => (0..2_u8, 0..2_u8, 0..4_u8, 0..6_u8).prop_map(|(name, user, group, secret)| Step::LogIn(name, user, group, secret)),
    ]
}

fn user(n: u8) -> String {
    format!("u{n}")
}

fn node(n: u8) -> Principal {
    match n {
        0 => Principal::Coordinator(CoordinatorId(1)),
        1 => Principal::Stranger,
        n => Principal::Worker(worker_id(n)),
    }
}

fn admits(n: u8) -> Admits {
    match n {
        0 => Admits::Coordinator,
        1 => Admits::Worker(None),
        n => Admits::Worker(Some(worker_id(n))),
    }
}

pub(super) fn command(log: &Log, step: Step) -> Command {
    let (created, expires) = (Timestamp(log.now), Timestamp(log.now + 3_600_000));
    match step {
        Step::User(n, roles, new) => {
            let how = if new { SetUser::Create } else { SetUser::Update };
            let waiting_max = (roles.len() > 1).then_some(u32::from(n));
            Command::SetUser { name: user(n), roles: roles.into_iter().collect(), how, waiting_max }
        }
        Step::Roles(n, add, remove) => {
            Command::ChangeRoles { name: user(n), add: add.into_iter().collect(), remove: remove.into_iter().collect() }
        }
        Step::Workspace(n, true) => Command::SetWorkspace { name: workspace(n), note: String::new() },
        Step::Role(n, given) => Command::SetRole { role: custom(n, given), note: None },
        Step::RemoveRole(n) => Command::RemoveRole { name: format!("r{n}") },
        Step::Workspace(n, false) => Command::RemoveWorkspace { name: workspace(n) },
        Step::RemoveUser(n) => Command::RemoveUser { name: user(n) },
        Step::Token(n, id, secret) => {
            let token = ApiToken { digest: [secret; 32], ..token(log, &user(n), &format!("t{id}")) };
            Command::CreateToken { token }
        }
        Step::RevokeToken(id) => Command::RevokeToken { id: format!("t{id}") },
        Step::UseTokens(count) => {
            let used =
                |id: u8| (format!("t{id}"), Timestamp((log.now + 60_000).saturating_sub(u64::from(id) * 100_000)));
            Command::NoteTokensUsed { used: (0..count).map(used).collect() }
        }
        Step::Join(id, secret, who) => {
            let (id, digest, created_by) = (format!("j{id}"), [secret; 32], user(0));
            let (used, used_by) = (None, None);
            let token = JoinToken { id, digest, admits: admits(who), created_by, created, expires, used, used_by };
            Command::CreateJoinToken { token }
        }
        Step::UseJoin(secret, who) => Command::UseJoinToken { digest: [secret; 32], as_whom: node(who) },
        Step::AddAuthority(n) => Command::AddAuthority { certificate: vec![n; 9], vouched: vec![n; 3] },
        Step::Retire(place) => {
            let known = log.state.authorities().get(place);
            Command::RetireAuthority { fingerprint: known.map_or([0; 32], |known| known.fingerprint) }
        }
        Step::Provider(name, terms) => {
            let mut provider = provider(&format!("p{name}"));
            // By the third terms they share an issuer.
            provider.issuer =
                if terms == 2 { "https://idp.example".into() } else { format!("https://p{name}.example") };
            let custom = || AnyRole::Custom(custom(0, vec![Permission::JobsRead]));
            let role = [Role::Owner.into(), Role::Reader.into(), custom()][usize::from(terms)].clone();
            let grant = Grant { role, workspace: None };
            provider.groups = BTreeMap::from([(format!("g{terms}"), BTreeSet::from([grant]))]);
            Command::SetProvider { provider: Box::new(provider) }
        }
        Step::RemoveProvider(name) => Command::RemoveProvider { name: format!("p{name}") },
        Step::LogIn(name, user, group, secret) => {
            let mut log_in = log_in(log, &format!("p{name}"), &format!("u{user}"), &[&format!("g{group}")], secret);
            log_in.since.0 -= u64::from(group == 3);
            Command::LogIn(Box::new(log_in))
        }
        Step::Revoke(n) => Command::RevokeNode { node: node(n) },
        Step::Denials(count) => {
            let denial = |n: u8| Denial {
                caller: caller(&user(n)),
                action: "jobs/cancel".into(),
                object: n.to_string(),
                why: "no right".into(),
                times: 1,
            };
            Command::NoteDenials { denials: (0..count).map(denial).collect() }
        }
    }
}

/// Users of providers have what their groups give by the present terms, or no token.
fn check_providers(state: &State, before: &State) {
    let issuers: BTreeSet<&String> = state.providers().map(|provider| &provider.issuer).collect();
    assert_eq!(issuers.len(), state.providers().count());
    for user in state.users() {
        let Some(name) = provider_of(&user.name) else { continue };
        let provider = state.provider(name).expect("a removed provider's users are gone");
        let has_token = state.tokens_of(&user.name).next().is_some();
        let given: BTreeSet<Grant> = provider.groups.values().flatten().cloned().collect();
        assert!(!has_token || user.roles.is_subset(&given), "ACCESS-3");
        let is_new = before.provider(name).is_some_and(|old| old.since != provider.since);
        assert!(!is_new || !has_token, "ACCESS-3");
    }
}

/// Each grant of a role of the cluster's own gives what the role gives.
fn check_roles(state: &State) {
    let of_users = state.users().flat_map(|user| &user.roles);
    let of_tokens = state.tokens().flat_map(|token| token.roles.iter().flatten());
    let of_groups = state.providers().flat_map(|provider| provider.groups.values().flatten());
    for grant in of_users.chain(of_tokens).chain(of_groups) {
        let AnyRole::Custom(given) = &grant.role else { continue };
        assert_eq!(state.custom_role(&given.name).map(|known| &known.role), Some(given), "ACCESS-5");
    }
}

/// Everything that must hold of the tables after every entry.
pub(super) fn check(state: &State, before: &State) {
    let own = |user: &Arc<User>| provider_of(&user.name).is_none() && user.roles.contains(&Role::Owner.into());
    let has_owner = |state: &State| state.users().any(own);
    assert!(has_owner(state) || !has_owner(before), "ACCESS-1");
    assert!(state.users().all(|user| !user.roles.is_empty()));
    let places = state.users().flat_map(|user| &user.roles).filter_map(|grant| grant.workspace.as_ref());
    assert!(
        places.chain(state.jobs_in.keys()).all(|place| state.has_workspace(place)),
        "roles and jobs keep their place"
    );
    for (place, count) in &state.jobs_in {
        assert_eq!(state.jobs.values().filter(|job| job.spec.workspace() == place).count() as u64, *count);
    }
    assert_eq!(state.jobs_in.values().sum::<u64>(), state.jobs.len() as u64);
    let mut digests = BTreeSet::new();
    for token in state.tokens() {
        assert!(state.user(&token.user).is_some(), "a token of a removed user is gone");
        assert!(digests.insert(token.digest), "a secret is of one token");
        assert_eq!(state.token_by_digest(&token.digest), Some(token));
        assert!(state.tokens_of(&token.user).any(|known| known == token));
    }
    check_providers(state, before);
    check_roles(state);
    let access = &state.access;
    assert!([access.token_digests.len(), access.tokens_of.len()].iter().all(|length| *length == access.tokens.len()));
    assert_eq!(digests.len(), access.tokens.len());
    for (id, used) in &access.token_uses {
        let known = state.token(id).unwrap_or_else(|| panic!("{id} is gone, and its use with it"));
        let old = before.token(id).filter(|old| old.created == known.created).and_then(|_| before.token_used(id));
        assert!(old.is_none_or(|old| old == *used || used.0 >= old.0 + 5 * 60_000), "at most once in five minutes");
    }
    assert!([access.join_digests.len(), access.join_expiries.len()].iter().all(|length| *length == access.joins.len()));
    for join in state.join_tokens() {
        assert_eq!(state.join_token_by_digest(&join.digest), Some(join));
        assert_eq!(join.used.is_some(), join.used_by.is_some());
        // The same id may come again once the first is forgotten.
        let old = before.join_token(&join.id).filter(|old| old.created == join.created);
        if let Some(old) = old.filter(|old| old.used.is_some()) {
            assert_eq!(old, join, "ACCESS-2");
        }
    }
    assert!(state.authorities().len() <= 2 && state.authorities().is_empty() <= before.authorities().is_empty());
    let (now, then) = (&state.access, &before.access);
    let tokens = |state: &State| state.tokens().cloned().collect::<Vec<_>>();
    let given = |state: &State| state.custom_roles().map(|known| known.role.clone()).collect::<Vec<_>>();
    let is_same = now.users == then.users
        && given(state) == given(before)
        && tokens(state) == tokens(before)
        && now.authorities == then.authorities
        && now.revocations == then.revocations
        && now.providers == then.providers;
    assert_eq!(state.access_version() > before.access_version(), !is_same, "watchers learn of each change");
    assert!(state.access_version() >= before.access_version());
    assert_eq!(verify_chain(state.audit_base().1, state.audit()), Ok(()), "AUDIT-1");
    let numbers: Vec<u64> = state.audit().map(|record| record.number).collect();
    assert_eq!(numbers, (state.audit_base().0 + 1..=state.audit_head().0).collect::<Vec<_>>(), "AUDIT-1: no gaps");
}

/// Has user `u0` no role that gives this command?
fn denied(state: &State, command: &Command) -> bool {
    let (needed, place) = match command {
        Command::SubmitJob { spec, .. } => (Permission::JobsSubmit, spec.workspace().clone()),
        Command::CancelJob { job } | Command::SetPriority { job, .. } | Command::KeepJob { job, .. } => {
            let Some(job) = state.job(*job) else { return false };
            (Permission::JobsWrite, job.spec.workspace().clone())
        }
        _ => return false,
    };
    let gives = |grant: &Grant| grant.role.gives(needed) && grant.workspace.as_ref().is_none_or(|one| *one == place);
    !state.roles_of(&user(0)).iter().any(gives)
}

/// That the command did what it does in nobody's name, and that the trail says so.
pub(super) fn check_deed(log: &Log, before: &State, inner: &Command, is_named: bool, outcome: &Outcome) {
    let mut bare = before.clone();
    let alike = bare.apply(LogIndex(log.index), Timestamp(log.now), inner);
    // Nobody's jobs are not counted, and nobody's calls are the cluster's own.
    let is_denied = is_named && denied(before, inner) && !matches!(alike, Outcome::Submitted { repeated: true, .. });
    assert!(!is_denied || matches!(outcome, Outcome::Refused(_)), "ACCESS-4");
    let is_over = is_denied || matches!(outcome, Outcome::Refused(Refusal::TooManyWait { .. }));
    assert!(is_over || alike == *outcome, "{alike:?} {outcome:?}");
    if !is_over && !matches!(inner, Command::RevokeNode { .. }) {
        bare.waiting_of = log.state.waiting_of.clone();
        bare.audit = log.state.audit.clone();
        for (id, job) in &log.state.jobs {
            if let Some(same) = bare.jobs.get_mut(id) {
                Arc::make_mut(same).submitter = job.submitter.clone();
            }
        }
        assert_eq!(bare, log.state, "a name changes nothing but whose a job is, and the trail");
    }
    let denials = if let Command::NoteDenials { denials } = inner { denials.len() as u64 } else { 0 };
    let is_retry = matches!(outcome, Outcome::Submitted { repeated: true, .. });
    let records = log.state.audit_head().0 - before.audit_head().0;
    assert_eq!(records, denials + u64::from(is_named && !is_retry));
    if is_named && !is_retry {
        let record = log.state.audit().last().unwrap();
        assert_eq!(record.action, inner.action());
        assert_eq!(record.result == "ok", !matches!(outcome, Outcome::Refused(_)), "{record:?}");
    }
    if let Outcome::Refused(_) = outcome {
        let mut same = before.clone();
        (same.applied, same.audit) = (log.state.applied, log.state.audit.clone());
        assert_eq!(same, log.state, "what is refused changes nothing");
    }
    if let (Command::UseJoinToken { digest, as_whom }, Outcome::Done) = (inner, outcome) {
        let token = log.state.join_token_by_digest(digest).unwrap();
        assert_eq!(token.used_by, Some(as_whom.to_string()), "ACCESS-2");
        assert!(token.admits.admits(as_whom));
    }
}
