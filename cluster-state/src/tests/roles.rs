//! Roles of the cluster's own: what they give, to whom, and when one can go.

use super::access::{set_user, token};
use super::audit::caller;
use super::federation::provider;
use super::*;
use crate::{ApiToken, ROLES_MAX, SetUser};
use std::collections::BTreeSet;
use types::{AnyRole, CustomRole, Grant, Permission, Role, Workspace};

fn role(name: &str, given: &[Permission]) -> CustomRole {
    CustomRole { name: name.into(), permissions: given.iter().copied().collect() }
}

fn set(role: CustomRole) -> Command {
    Command::SetRole { role, note: Some(String::new()) }
}

/// As a caller would name it: with what it gave when they looked, which may be long ago.
fn grant(name: &str, place: Option<&str>) -> Grant {
    let workspace = place.map(|place| Workspace::new(place).unwrap());
    Grant { role: AnyRole::Custom(role(name, &[Permission::AccessWrite])), workspace }
}

fn give(user: &str, grants: &[Grant]) -> Command {
    let roles = grants.iter().cloned().collect();
    Command::SetUser { name: user.into(), roles, how: SetUser::Create, waiting_max: None }
}

fn refused(log: &mut Log, command: Command) -> Refusal {
    match log.apply(command) {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

fn gives(log: &Log, user: &str, permission: Permission) -> bool {
    log.state.grants_of(&caller(user).principal).any(|grant| grant.gives(permission))
}

#[test]
fn a_change_of_a_role_counts_for_everybody_who_has_it_from_that_entry_on() {
    let mut log = Log::default();
    log.apply(set_user("boss", &[Role::Owner], SetUser::Create));
    assert_eq!(log.apply(set(role("mlops", &[Permission::JobsRead, Permission::JobsSubmit]))), Outcome::Done);
    assert_eq!(log.apply(give("ana", &[grant("mlops", None), Role::Auditor.into()])), Outcome::Done);
    assert!(gives(&log, "ana", Permission::JobsSubmit) && gives(&log, "ana", Permission::AuditRead));
    assert!(!gives(&log, "ana", Permission::AccessWrite), "what the caller believed it gives counts for nothing");
    let narrow = ApiToken { roles: Some([grant("mlops", None)].into()), ..token(&log, "ana", "narrow") };
    assert_eq!(log.apply(Command::CreateToken { token: narrow.clone() }), Outcome::Done);
    assert_eq!(log.apply(Command::CreateToken { token: narrow }), Outcome::Done, "a retry");
    let mut corp = provider("corp");
    corp.groups = [("team".to_owned(), BTreeSet::from([grant("mlops", None)]))].into();
    assert_eq!(log.apply(Command::SetProvider { provider: Box::new(corp) }), Outcome::Done);

    let version = log.state.access_version();
    assert_eq!(log.apply(set(role("mlops", &[Permission::JobsRead, Permission::JobsSubmit]))), Outcome::Done);
    assert_eq!(log.state.access_version(), version, "nothing changed");
    assert_eq!(log.apply(set(role("mlops", &[Permission::JobsRead, Permission::QueuesRead]))), Outcome::Done);
    assert!(log.state.access_version() > version, "open streams are looked at again");
    let by_token = types::Principal::User { name: "ana".into(), token: "narrow".into() };
    for (permission, wanted) in [(Permission::JobsSubmit, false), (Permission::QueuesRead, true)] {
        assert_eq!(gives(&log, "ana", permission), wanted);
        assert_eq!(log.state.grants_of(&by_token).any(|grant| grant.gives(permission)), wanted);
        let corp = log.state.provider("corp").unwrap();
        assert_eq!(corp.roles(&["team".to_owned()].into()).iter().any(|grant| grant.gives(permission)), wanted);
    }
    assert!(gives(&log, "ana", Permission::AuditRead), "the user's other role stays");
    // It is taken back by its name.
    let back = Command::ChangeRoles { name: "ana".into(), add: BTreeSet::new(), remove: [grant("mlops", None)].into() };
    assert_eq!(log.apply(back), Outcome::Done);
    assert_eq!(log.state.roles_of("ana"), &[Role::Auditor.into()].into());
}

#[test]
fn a_role_goes_when_nobody_has_it_and_is_refused_where_it_is_not_there() {
    let mut log = Log::default();
    log.apply(set_user("boss", &[Role::Owner], SetUser::Create));
    let unknown = || Refusal::UnknownRole("mlops".into());
    let lost =
        Command::ChangeRoles { name: "boss".into(), add: [grant("mlops", None)].into(), remove: BTreeSet::new() };
    assert_eq!(refused(&mut log, lost), unknown());
    assert_eq!(refused(&mut log, give("ana", &[grant("mlops", None)])), unknown());
    let narrow = ApiToken { roles: Some([grant("mlops", None)].into()), ..token(&log, "boss", "narrow") };
    assert_eq!(refused(&mut log, Command::CreateToken { token: narrow.clone() }), unknown());
    assert_eq!(refused(&mut log, Command::RemoveRole { name: "mlops".into() }), unknown());

    log.apply(set(role("mlops", &[Permission::JobsRead])));
    log.apply(Command::SetWorkspace { name: Workspace::new("vision").unwrap(), note: String::new() });
    assert_eq!(log.apply(give("ana", &[grant("mlops", Some("vision"))])), Outcome::Done);
    assert_eq!(log.apply(Command::CreateToken { token: narrow }), Outcome::Done);
    for (undo, why) in [
        (Command::RemoveUser { name: "ana".into() }, "\"ana\" has it"),
        (Command::RevokeToken { id: "narrow".into() }, "token narrow of user \"boss\""),
    ] {
        let refusal = refused(&mut log, Command::RemoveRole { name: "mlops".into() }).to_string();
        assert!(refusal.contains(why), "{refusal}");
        log.apply(undo);
    }
    assert_eq!(log.apply(Command::RemoveRole { name: "mlops".into() }), Outcome::Done);
    assert_eq!(log.state.custom_roles().count(), 0);
}

#[test]
fn what_cannot_be_a_role_is_refused_with_every_fault() {
    let mut log = Log::default();
    let bad = Command::SetRole { role: role("owner", &[]), note: Some("a\nb".into()) };
    let Refusal::Invalid(why) = refused(&mut log, bad) else { panic!("not as invalid") };
    assert!(["name is", "one permission", "the note"].iter().all(|part| why.contains(part)), "{why}");
    for number in 0..ROLES_MAX {
        assert_eq!(log.apply(set(role(&format!("r{number}"), &[Permission::JobsRead]))), Outcome::Done);
    }
    assert!(matches!(refused(&mut log, set(role("one-more", &[Permission::JobsRead]))), Refusal::Invalid(_)));
    assert_eq!(log.apply(set(role("r0", &[Permission::JobsWrite]))), Outcome::Done, "one that is there can change");
}

#[test]
fn the_trail_has_the_whole_of_what_a_role_gives() {
    let mut longest = Permission::ALL.to_vec();
    longest.sort_by_key(|permission| std::cmp::Reverse(permission.name().len()));
    for count in 1..=longest.len() {
        let (given, missing) = longest.split_at(count);
        let mut log = Log::default();
        let command = Box::new(set(role(&"r".repeat(63), given)));
        log.apply(Command::As { caller: std::sync::Arc::new(caller("boss")), command });
        let object = log.state.audit().last().unwrap().object.clone();
        let told = |all: &[Permission]| all.iter().all(|permission| object.contains(permission.name()));
        let whole = if missing.is_empty() {
            object.ends_with("gives everything")
        } else if object.contains("all but") {
            told(missing)
        } else {
            told(given)
        };
        assert!(whole, "{count}: {object}");
    }
}

#[test]
fn a_role_that_is_set_again_without_a_note_keeps_it() {
    let mut log = Log::default();
    let set = |note: Option<&str>| Command::SetRole {
        role: role("mlops", &[Permission::JobsRead]),
        note: note.map(str::to_owned),
    };
    let noted = |log: &Log| log.state.custom_role("mlops").map(|known| known.note.clone()).unwrap_or_default();
    for (note, expected) in
        [(None, ""), (Some("for pipelines"), "for pipelines"), (None, "for pipelines"), (Some(""), "")]
    {
        assert_eq!(log.apply(set(note)), Outcome::Done);
        assert_eq!(noted(&log), expected, "{note:?}");
    }
}
