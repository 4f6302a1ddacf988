//! Secrets of jobs: whose they are, who may give them to a job.

use super::access::set_user;
use super::*;
use crate::{EVERYBODY, Sealed, SetUser};
use types::{Caller, Grant, Principal, Role, Workspace};

fn sealed(byte: u8) -> Sealed {
    Sealed { key: [0; 8], nonce: [byte; 12], bytes: vec![byte; 24] }
}

fn log() -> Log {
    let mut log = Log::default();
    for (name, role) in [("boss", Role::Owner), ("ana", Role::DataScientist), ("bo", Role::DataScientist)] {
        assert_eq!(log.apply(set_user(name, &[role], SetUser::Create)), Outcome::Done);
    }
    log
}

pub(super) fn by(user: &str, command: Command) -> Command {
    let principal = Principal::User { name: user.into(), token: "t1".into() };
    Command::As { caller: Arc::new(Caller { principal, from: String::new() }), command: Box::new(command) }
}

pub(super) fn set(name: &str, version: u64, byte: u8) -> Command {
    Command::SetSecret { name: name.into(), note: None, version, sealed: sealed(byte) }
}

fn share(name: &str, add: &[&str], remove: &[&str]) -> Command {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Command::ShareSecret { name: name.into(), add: names(add), remove: names(remove) }
}

fn submit(request: u8, secret: &str) -> Command {
    let mut spec = (*spec(1, 1, 0, 0)).clone();
    spec.secrets.insert("TOKEN".into(), secret.into());
    Command::SubmitJob { request: RequestId([request; 16]), spec: Arc::new(spec) }
}

fn refused(outcome: Outcome) -> Refusal {
    let Outcome::Refused(refusal) = outcome else { panic!("it was not refused: {outcome:?}") };
    refusal
}

#[test]
fn a_secret_is_its_makers_and_changes_one_value_at_a_time() {
    let mut log = log();
    assert_eq!(log.apply(by("ana", set("hf", 1, 7))), Outcome::Done);
    assert_eq!(log.apply(by("ana", set("hf", 1, 7))), Outcome::Done, "the second arrival of one request");
    assert_eq!(refused(log.apply(by("ana", set("hf", 1, 8)))), Refusal::SecretChanged("hf".into()));
    assert!(matches!(refused(log.apply(by("bo", set("hf", 2, 8)))), Refusal::NotYours(_)));
    assert!(matches!(refused(log.apply(set("hf", 2, 8))), Refusal::Invalid(_)), "nobody's");
    assert!(matches!(refused(log.apply(by("ana", set("a b", 1, 8)))), Refusal::Invalid(_)));
    assert_eq!(log.apply(by("boss", set("hf", 2, 9))), Outcome::Done, "an owner may");
    let secret = log.state.secret("hf").unwrap();
    assert_eq!((secret.owner.as_str(), secret.version), ("ana", 2));
    assert_eq!(secret.sealed, sealed(9));
}

#[test]
fn a_job_is_given_only_what_its_submitter_may_use() {
    let mut log = log();
    log.apply(by("ana", set("hf", 1, 7)));
    assert!(matches!(log.apply(by("ana", submit(1, "hf"))), Outcome::Submitted { .. }));
    let denied = Refusal::SecretsDenied(vec!["hf".into()]);
    assert_eq!(refused(log.apply(by("bo", submit(2, "hf")))), denied);
    assert_eq!(refused(log.apply(submit(3, "hf"))), denied, "nobody's job");
    let missing = refused(log.apply(by("bo", submit(2, "no"))));
    assert_eq!(missing.to_string().replace("no for", "hf for"), denied.to_string(), "absent and foreign are alike");
    assert_eq!(refused(log.apply(by("bo", share("hf", &["bo"], &[])))), Refusal::UnknownSecret("hf".into()));
    assert_eq!(refused(log.apply(by("ana", share("hf", &["eve"], &[])))), Refusal::UnknownUser("eve".into()));
    assert_eq!(log.apply(by("ana", share("hf", &["bo"], &[]))), Outcome::Done);
    assert!(matches!(refused(log.apply(by("bo", share("hf", &[EVERYBODY], &[])))), Refusal::NotYours(_)));
    assert!(matches!(log.apply(by("bo", submit(4, "hf"))), Outcome::Submitted { .. }));
    let denied_to = |log: &Log, user| log.state.secrets_denied(Some(user), &Workspace::default(), &["hf".to_owned()]);
    assert!(denied_to(&log, "bo").is_empty() && !denied_to(&log, "boss").is_empty());
    log.apply(by("ana", share("hf", &[EVERYBODY], &["bo"])));
    assert!(denied_to(&log, "bo").is_empty(), "everybody may");
    log.apply(by("ana", share("hf", &[], &[EVERYBODY])));
    assert_eq!(denied_to(&log, "bo"), ["hf"]);
    let remove = |name: &str| Command::RemoveSecret { name: name.into() };
    assert_eq!(refused(log.apply(by("bo", remove("hf")))), Refusal::UnknownSecret("hf".into()));
    assert_eq!(log.apply(by("boss", remove("hf"))), Outcome::Done);
    assert!(log.state.secret("hf").is_none());
}

#[test]
fn who_has_a_removed_users_name_later_has_none_of_their_secrets() {
    let mut log = log();
    log.apply(by("ana", set("hers", 1, 7)));
    log.apply(by("bo", set("his", 1, 7)));
    log.apply(by("bo", share("his", &["ana"], &[])));
    let denied_to = |log: &Log, user: &str| {
        let names = ["hers".to_owned(), "his".to_owned()];
        log.state.secrets_denied(Some(user), &Workspace::default(), &names)
    };
    assert_eq!(denied_to(&log, "ana"), [""; 0]);
    log.apply(Command::RemoveUser { name: "ana".into() });
    assert_eq!(denied_to(&log, "ana"), ["hers", "his"], "a user who is gone has no jobs that get anything");
    log.apply(set_user("ana", &[Role::DataScientist], SetUser::Create));
    assert_eq!(denied_to(&log, "ana"), ["hers", "his"]);
    assert_eq!(denied_to(&log, "bo"), ["hers"], "what is another's stays");
}

fn at(place: &str, role: Role) -> Grant {
    Grant { role: role.into(), workspace: Some(Workspace::new(place).unwrap()) }
}

/// `vision` with a contributor and a data scientist, and `speech` with a data scientist.
fn with_workspaces() -> Log {
    let mut log = log();
    for name in ["vision", "speech"] {
        log.apply(Command::SetWorkspace { name: Workspace::new(name).unwrap(), note: String::new() });
    }
    for (user, place, role) in [
        ("lead", "vision", Role::Contributor),
        ("eye", "vision", Role::DataScientist),
        ("ear", "speech", Role::DataScientist),
    ] {
        let roles = [at(place, role)].into();
        let set = Command::SetUser { name: user.into(), roles, how: SetUser::Create, waiting_max: None };
        assert_eq!(log.apply(set), Outcome::Done);
    }
    log
}

#[test]
fn a_workspaces_secret_is_for_every_job_there_and_for_no_other() {
    let mut log = with_workspaces();
    let name = "hf@vision";
    assert!(matches!(refused(log.apply(by("eye", set(name, 1, 7)))), Refusal::NotYours(_)), "it needs secrets/manage");
    let unknown = Refusal::UnknownWorkspace(Workspace::new("vision").unwrap());
    assert_eq!(refused(log.apply(by("ear", set(name, 1, 7)))), unknown, "as if it were not there");
    assert!(matches!(refused(log.apply(by("boss", set("hf@no", 1, 7)))), Refusal::UnknownWorkspace(_)));
    assert_eq!(log.apply(by("lead", set(name, 1, 7))), Outcome::Done);
    assert!(matches!(refused(log.apply(by("lead", set("hf@speech", 1, 7)))), Refusal::UnknownWorkspace(_)));
    let submit = |request: u8, place: &str| {
        let mut spec = (*spec(1, 1, 0, 0)).clone();
        spec.workspace = Workspace::new(place).ok();
        spec.secrets.insert("TOKEN".into(), name.into());
        Command::SubmitJob { request: RequestId([request; 16]), spec: Arc::new(spec) }
    };
    for (request, user, place, is_served) in [
        (1, "eye", "vision", true),
        (2, "lead", "vision", true),
        (3, "ear", "speech", false),
        (4, "boss", "vision", true),
        (5, "boss", "speech", false),
        (6, "boss", "default", false),
    ] {
        match log.apply(by(user, submit(request, place))) {
            Outcome::Submitted { .. } => assert!(is_served, "{user} in {place}"),
            other => assert_eq!((refused(other), is_served), (Refusal::SecretsDenied(vec![name.into()]), false)),
        }
    }
    let sees = |log: &Log, user: &str| {
        let caller =
            Caller { principal: Principal::User { name: user.into(), token: "t1".into() }, from: String::new() };
        log.state.secret(name).is_some_and(|secret| log.state.may_see_secret(&caller, secret))
    };
    assert!(["eye", "lead", "boss"].iter().all(|user| sees(&log, user)) && !sees(&log, "ear"));
    assert!(matches!(refused(log.apply(by("lead", share(name, &["ear"], &[])))), Refusal::Invalid(_)));
    assert!(matches!(refused(log.apply(by("eye", Command::RemoveSecret { name: name.into() }))), Refusal::NotYours(_)));
    // It outlives who made it, and keeps its workspace.
    log.apply(Command::RemoveUser { name: "lead".into() });
    let vision = Workspace::new("vision").unwrap();
    assert!(log.state.secrets_denied(Some("eye"), &vision, &[name.to_owned()]).is_empty());
    let no_role = Command::SetUser {
        name: "eye".into(),
        roles: [at("vision", Role::Reader)].into(),
        how: SetUser::Update,
        waiting_max: None,
    };
    log.apply(no_role);
    assert_eq!(log.state.secrets_denied(Some("eye"), &vision, &[name.to_owned()]), [name], "who may submit no more");
}

#[test]
fn a_workspace_with_a_secret_is_not_removed() {
    let mut log = with_workspaces();
    log.apply(Command::SetWorkspace { name: Workspace::new("new").unwrap(), note: String::new() });
    log.apply(by("boss", set("hf@new", 1, 7)));
    let remove = || Command::RemoveWorkspace { name: Workspace::new("new").unwrap() };
    let why = refused(log.apply(remove())).to_string();
    assert!(why.contains("hf@new"), "{why}");
    log.apply(by("boss", Command::RemoveSecret { name: "hf@new".into() }));
    assert_eq!(log.apply(remove()), Outcome::Done);
}

#[test]
fn the_trail_says_who_did_what_with_a_secret_and_nothing_of_it() {
    let mut log = log();
    log.apply(by("ana", set("hf", 1, 7)));
    log.apply(by("ana", share("hf", &["bo"], &[])));
    log.apply(by("bo", submit(1, "hf")));
    let names = vec!["hf".to_owned()];
    log.apply(by("bo", Command::NoteSecretsUsed { job: JobId(1), names }));
    let trail: Vec<_> = log.state.audit().map(|record| (record.action.as_str(), record.object.as_str())).collect();
    let expected = [
        ("secrets/set", "hf version 1"),
        ("secrets/share", "hf +bo"),
        ("jobs/submit", "1"),
        ("secrets/use", "hf for job 1"),
    ];
    assert_eq!(trail, expected);
}

#[test]
fn the_key_is_exchanged_once_every_value_is_under_the_new_one() {
    let (old, new, other) = ([0; 8], [1; 8], [2; 8]);
    let mut log = log();
    for name in ["a", "b"] {
        log.apply(by("ana", set(name, 1, 7)));
    }
    let under = |key: crate::KeyId, byte: u8| Sealed { key, ..sealed(byte) };
    let again = |name: &str, version: u64| crate::Resealed { name: name.into(), version, sealed: under(new, 9) };
    assert!(matches!(refused(log.apply(Command::EndKeyExchange { to: new })), Refusal::Invalid(_)), "none was begun");
    let version = log.state.access_version();
    log.apply(Command::BeginKeyExchange { to: other });
    assert!(log.state.access_version() > version, "coordinators look");
    assert_eq!(log.apply(Command::BeginKeyExchange { to: new }), Outcome::Done, "nothing is under the other one");
    assert!(matches!(
        refused(log.apply(Command::NoteKeyHeld { to: other, by: types::CoordinatorId(1) })),
        Refusal::Invalid(_)
    ));
    log.apply(Command::NoteKeyHeld { to: new, by: types::CoordinatorId(1) });
    assert_eq!(log.state.key_exchange().map(|exchange| exchange.held_by.len()), Some(1));
    log.apply(Command::BeginKeyExchange { to: new });
    assert_eq!(log.state.key_exchange().map(|exchange| exchange.held_by.len()), Some(1), "the same once more");
    // Meanwhile one is set anew under the old key, and keeps that value.
    log.apply(by("ana", set("b", 2, 8)));
    let wrong = crate::Resealed { sealed: under(other, 9), ..again("a", 1) };
    let wrong = Command::ResealSecrets { to: new, secrets: vec![wrong] };
    assert!(matches!(refused(log.apply(wrong)), Refusal::Invalid(_)));
    log.apply(Command::ResealSecrets { to: new, secrets: vec![again("a", 1), again("b", 1), again("gone", 1)] });
    let keys = |log: &Log| log.state.secrets().map(|secret| secret.sealed.key).collect::<Vec<_>>();
    assert_eq!(keys(&log), [new, old]);
    assert!(
        matches!(refused(log.apply(Command::BeginKeyExchange { to: other })), Refusal::Invalid(_)),
        "one is under it"
    );
    assert_eq!(refused(log.apply(Command::EndKeyExchange { to: new })), Refusal::SecretChanged("b".into()));
    log.apply(Command::ResealSecrets { to: new, secrets: vec![again("b", 2)] });
    let before = log.state.secret("a").cloned();
    for _ in 0..2 {
        assert_eq!(log.apply(Command::EndKeyExchange { to: new }), Outcome::Done);
        assert_eq!((log.state.sealing_key(), log.state.key_exchange()), (Some(new), None));
    }
    assert_eq!(log.state.secret("a").cloned(), before);
    assert_eq!(before.map(|secret| secret.version), Some(1), "it is the same value");
    assert_eq!(refused(log.apply(by("ana", set("a", 2, 3)))), Refusal::SecretChanged("a".into()), "under the old one");
    let fresh = Command::SetSecret { name: "a".into(), note: None, version: 2, sealed: under(new, 3) };
    assert_eq!(log.apply(by("ana", fresh)), Outcome::Done);
}
