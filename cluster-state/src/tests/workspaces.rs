//! Workspaces: who may make, see and change jobs there, and when a workspace can go.

use super::access::{grants, set_user};
use super::audit::caller;
use super::federation::provider;
use super::*;
use crate::SetUser;
use std::collections::BTreeSet;
use types::{Caller, CoordinatorId, Grant, Principal, Role, Workspace};

fn workspace(name: &str) -> Workspace {
    Workspace::new(name).unwrap()
}

fn at(role: Role, place: &str) -> Grant {
    Grant { role: role.into(), workspace: Some(workspace(place)) }
}

fn by(user: &str, command: Command) -> Command {
    Command::As { caller: Arc::new(caller(user)), command: Box::new(command) }
}

fn make(name: &str) -> Command {
    Command::SetWorkspace { name: workspace(name), note: String::new() }
}

fn change(user: &str, add: &[Grant], remove: &[Grant]) -> Command {
    let set = |grants: &[Grant]| grants.iter().cloned().collect();
    Command::ChangeRoles { name: user.into(), add: set(add), remove: set(remove) }
}

fn submit(number: u8, place: &str) -> Command {
    let mut spec = spec(1, 1, 0, 0);
    Arc::make_mut(&mut spec).workspace = Some(workspace(place));
    Command::SubmitJob { request: RequestId([number; 16]), spec }
}

fn refused(log: &mut Log, command: Command) -> Refusal {
    match log.apply(command) {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

/// `vision` and `text`; boss owns everything, ana works in `vision`, rita reads there, ben works in `text`.
fn with_people() -> Log {
    let mut log = Log::with_workers(1);
    log.apply(set_user("boss", &[Role::Owner], SetUser::Create));
    for name in ["vision", "text"] {
        assert_eq!(log.apply(make(name)), Outcome::Done);
    }
    for (name, role, place) in
        [("ana", Role::DataScientist, "vision"), ("rita", Role::Reader, "vision"), ("ben", Role::DataScientist, "text")]
    {
        let roles = BTreeSet::from([at(role, place)]);
        let user = Command::SetUser { name: name.into(), roles, how: SetUser::Create, waiting_max: None };
        assert_eq!(log.apply(user), Outcome::Done);
    }
    log
}

#[test]
fn jobs_are_made_seen_and_changed_by_whom_a_role_there_lets() {
    let mut log = with_people();
    let made = |log: &mut Log, user: &str, number: u8, place: &str| log.apply(by(user, submit(number, place)));
    assert_eq!(made(&mut log, "ana", 1, "vision"), Outcome::Submitted { job: JobId(1), repeated: false });
    assert_eq!(made(&mut log, "boss", 2, "text"), Outcome::Submitted { job: JobId(2), repeated: false });
    // One that is not there and one of others are refused alike; one that may be seen is not hidden.
    for place in ["text", "default", "nowhere"] {
        let refusal = refused(&mut log, by("ana", submit(3, place)));
        assert_eq!(refusal, Refusal::UnknownWorkspace(workspace(place)));
    }
    assert!(matches!(refused(&mut log, by("rita", submit(3, "vision"))), Refusal::NotYours(_)));
    assert_eq!(refused(&mut log, by("boss", submit(3, "nowhere"))), Refusal::UnknownWorkspace(workspace("nowhere")));

    let state = &log.state;
    let sees = |user: &str, job: u64| state.visible_job(&caller(user).principal, JobId(job)).is_some();
    let seen = ["boss", "ana", "rita", "ben"].map(|user| [sees(user, 1), sees(user, 2)]);
    assert_eq!(seen, [[true, true], [true, false], [true, false], [false, true]]);
    assert!(state.visible_job(&Principal::Coordinator(CoordinatorId(1)), JobId(1)).is_some());
    for nobody in [Principal::Stranger, Principal::Worker(worker_id(0)), caller("who").principal] {
        assert!(state.visible_job(&nobody, JobId(1)).is_none(), "{nobody}");
    }

    for command in [
        Command::CancelJob { job: JobId(1) },
        Command::SetPriority { job: JobId(1), priority: 3 },
        Command::KeepJob { job: JobId(1), keep: true },
    ] {
        let foreign = refused(&mut log, by("ben", command.clone()));
        assert_eq!(foreign, Refusal::UnknownJob(JobId(1)), "as if it were not there");
        assert!(matches!(refused(&mut log, by("rita", command.clone())), Refusal::NotYours(_)));
    }
    assert_eq!(log.apply(by("ana", Command::CancelJob { job: JobId(1) })), Outcome::Canceled(JobPhase::Canceled));
    assert_eq!(log.apply(Command::CancelJob { job: JobId(2) }), Outcome::Canceled(JobPhase::Canceled), "the cluster");
}

#[test]
fn a_role_that_was_taken_back_counts_from_the_next_entry_on() {
    let mut log = with_people();
    let version = log.state.access_version();
    let moved = change("ana", &[at(Role::Reader, "text")], &[at(Role::DataScientist, "vision")]);
    assert_eq!(log.apply(by("boss", moved.clone())), Outcome::Done);
    assert_eq!(log.state.access_version(), version + 1, "open streams learn of it");
    assert_eq!(log.state.audit().last().unwrap().object, "ana +reader@text -data-scientist@vision");
    assert_eq!(log.apply(by("boss", moved)), Outcome::Done);
    assert_eq!(log.state.access_version(), version + 1, "a retry changes nothing");
    assert_eq!(refused(&mut log, by("ana", submit(1, "vision"))), Refusal::UnknownWorkspace(workspace("vision")));
    assert!(matches!(refused(&mut log, by("ana", submit(1, "text"))), Refusal::NotYours(_)));
}

#[test]
fn roles_are_given_where_there_is_a_workspace_and_one_stays() {
    let mut log = with_people();
    let nowhere = at(Role::Reader, "nowhere");
    let unknown = Refusal::UnknownWorkspace(workspace("nowhere"));
    assert_eq!(refused(&mut log, change("ana", std::slice::from_ref(&nowhere), &[])), unknown);
    let roles = BTreeSet::from([nowhere.clone()]);
    let made = Command::SetUser { name: "eve".into(), roles, how: SetUser::Create, waiting_max: None };
    assert_eq!(refused(&mut log, made), unknown);
    let mut corp = provider("corp");
    corp.groups.insert("team".into(), [nowhere].into());
    assert!(matches!(refused(&mut log, Command::SetProvider { provider: Box::new(corp) }), Refusal::Invalid(_)));

    let last = at(Role::Reader, "vision");
    assert!(matches!(refused(&mut log, change("rita", &[], std::slice::from_ref(&last))), Refusal::Invalid(_)));
    let both = std::slice::from_ref(&last);
    assert!(matches!(refused(&mut log, change("ana", both, both)), Refusal::Invalid(_)));
    assert_eq!(refused(&mut log, change("who", both, &[])), Refusal::UnknownUser("who".into()));
    let owner = Grant::from(Role::Owner);
    let lowered = change("boss", &[Role::Reader.into()], &[owner]);
    assert_eq!(refused(&mut log, lowered), Refusal::LastOwner("boss".into()));
    assert_eq!(log.state.roles_of("boss"), &grants(&[Role::Owner]));
}

#[test]
fn a_workspace_goes_when_nothing_is_in_it() {
    let mut log = with_people();
    let remove = |name: &str| Command::RemoveWorkspace { name: workspace(name) };
    assert!(matches!(refused(&mut log, remove("text")), Refusal::WorkspaceInUse { .. }), "ben has a role there");
    assert_eq!(log.apply(Command::RemoveUser { name: "ben".into() }), Outcome::Done);
    let mut corp = provider("corp");
    corp.groups.insert("team".into(), [at(Role::Reader, "text")].into());
    assert_eq!(log.apply(Command::SetProvider { provider: Box::new(corp) }), Outcome::Done);
    assert!(matches!(refused(&mut log, remove("text")), Refusal::WorkspaceInUse { .. }), "a provider gives one");
    assert_eq!(log.apply(Command::RemoveProvider { name: "corp".into() }), Outcome::Done);
    assert!(matches!(log.apply(submit(1, "text")), Outcome::Submitted { .. }));
    log.apply(Command::CancelJob { job: JobId(1) });
    assert!(matches!(refused(&mut log, remove("text")), Refusal::WorkspaceInUse { .. }), "also when it has ended");
    assert_eq!(log.apply(make("empty")), Outcome::Done);
    assert_eq!(log.apply(remove("empty")), Outcome::Done);
    for gone in ["empty", "nowhere", "default"] {
        assert_eq!(refused(&mut log, remove(gone)), Refusal::UnknownWorkspace(workspace(gone)));
    }
    assert!(log.state.has_workspace(&Workspace::default()), "it is there without being made");
}

#[test]
fn callers_who_are_no_users_are_not_asked_for_roles() {
    let mut log = with_people();
    log.apply(submit(1, "vision"));
    let coordinator = Caller { principal: Principal::Coordinator(CoordinatorId(1)), from: String::new() };
    let cancel = Command::CancelJob { job: JobId(1) };
    let named = Command::As { caller: Arc::new(coordinator), command: Box::new(cancel) };
    assert_eq!(log.apply(named), Outcome::Canceled(JobPhase::Canceled));
}
