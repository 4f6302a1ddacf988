//! Secrets of jobs: whose they are, who may give them to a job.

use super::access::set_user;
use super::*;
use crate::{EVERYBODY, Sealed, SetUser};
use types::{Caller, Principal, Role};

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
    let denied_to = |log: &Log, user| log.state.secrets_denied(Some(user), &["hf".to_owned()]);
    assert!(denied_to(&log, "bo").is_empty() && !denied_to(&log, "boss").is_empty());
    log.apply(by("ana", share("hf", &[EVERYBODY], &["bo"])));
    assert!(denied_to(&log, "bo").is_empty(), "everybody may");
    log.apply(by("ana", share("hf", &[], &[EVERYBODY])));
    assert_eq!(denied_to(&log, "bo"), ["hf"]);
    log.apply(Command::RemoveUser { name: "ana".into() });
    assert_eq!(denied_to(&log, "ana"), ["hf"], "a user who is gone has no jobs that get anything");
    assert_eq!(refused(log.apply(by("bo", Command::RemoveSecret { name: "hf".into() }))), {
        Refusal::UnknownSecret("hf".into())
    });
    assert_eq!(log.apply(by("boss", Command::RemoveSecret { name: "hf".into() })), Outcome::Done);
    assert!(log.state.secret("hf").is_none());
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
